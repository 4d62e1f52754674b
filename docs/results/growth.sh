#!/bin/bash
# Time and memory of an M2AT iteration against batch size, attack steps, image
# size, classes and processes: one JSON file for each point.
# Usage: bash docs/results/growth.sh OUT   (from the repository's root)
# Points that are in OUT already are left as they are.
set -eu
out=$1
config=configs/m2at_resnet18_cifar10.py
narrow="model.classifier.backbone.base_channels=16
    model.classifier.backbone.stem_channels=16
    model.classifier.head.in_channels=128
    train_dataloader.dataset.indices=3000
    train_dataloader.num_workers=0"

start=python
launcher=none
point() {  # NAME OPTIONS...
    local name=$1
    shift
    [ -e "$out/$name.json" ] || $start tools/benchmark.py $config --against \
        --rounds 3 --block 2 --out "$out/$name.json" --launcher $launcher \
        --cfg-options $narrow train_dataloader.batch_size=64 "$@"
}

for n in 16 32 64 128; do
    point "batch_$n" train_dataloader.batch_size=$n
done
for n in 1 2 5 10; do point "steps_$n" model.train_attack.steps=$n; done
for n in 10 100 1000; do
    point "classes_$n" model.classifier.head.num_classes=$n
done
config=docs/results/growth_sizes.py
for n in 32 48 64 96; do
    point "size_$n" train_dataloader.batch_size=16 \
        train_dataloader.dataset.pipeline.0.scale=$n
done
# Each process has one thread and a batch of 64.
config=configs/m2at_resnet18_cifar10.py
launcher=pytorch
export OMP_NUM_THREADS=1
for n in 1 2; do
    start="torchrun --standalone --nproc_per_node=$n"
    point "processes_$n"
    point "quick-processes_$n" model.train_attack.steps=1
done
