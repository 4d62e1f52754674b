#!/usr/bin/env bash
# The runs behind docs/results/finetune.md, on one CPU thread. Run it from the
# project's root with the CIFAR-10 images under data/cifar10. Started again, it
# goes on where it was stopped.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
work=work_dirs/finetune
out=docs/results/finetune
config=mmpretrain::resnet/resnet18_8xb16_cifar10.py
mkdir -p "$work" "$out"
export OMP_NUM_THREADS=1

data=(
  train_dataloader.dataset.indices=6000
  train_dataloader.batch_size=64
  train_dataloader.num_workers=0
  val_dataloader.num_workers=0
  test_dataloader.num_workers=0
)

# 1. The stock config at a quarter of its width, by itself: nothing of it is
#    adversarial. Only the images come through this package's reader.
"$python" tools/train.py "$config" --work-dir "$work/stock" --resume \
  --cfg-options "${data[@]}" randomness.seed=0 \
  train_dataloader.dataset.type=m2at_mm.CIFAR10 \
  val_dataloader.dataset.type=m2at_mm.CIFAR10 \
  val_dataloader.dataset.split=val \
  test_dataloader.dataset.type=m2at_mm.CIFAR10 \
  model.backbone.base_channels=16 model.backbone.stem_channels=16 \
  model.head.in_channels=128 \
  train_cfg.max_epochs=12 param_scheduler.milestones='[8,11]' \
  train_cfg.val_interval=12 >"$work/stock.txt" 2>&1

# 2. Its checkpoint, fine-tuned.
"$python" tools/train.py "$config" --recipe m2at-finetune \
  --work-dir "$work/m2at-finetune" --cfg-options "${data[@]}" \
  load_from="$work/stock/epoch_12.pth" randomness.seed=0 \
  default_hooks.ema=None \
  model.method.scale=1.5 model.method.perturbed_label=0.7 \
  model.method.consistency=0 \
  model.classifier.backbone.base_channels=16 \
  model.classifier.backbone.stem_channels=16 \
  model.classifier.head.in_channels=128 \
  model.train_attack.steps=5 model.train_attack.step_size=3/255 \
  >"$work/m2at-finetune.txt" 2>&1

# 3. Both under attack.
for run in stock/epoch_12.pth m2at-finetune/epoch_10.pth; do
  name=$(dirname "$run")
  "$python" tools/test.py "$work/m2at-finetune/resnet18_8xb16_cifar10.py" \
    "$work/$run" --attacks clean pgd20 cw20 apgd-ce apgd-t \
    --num-samples 1000 --subset first --work-dir "$work/test-$name" \
    --out "$out/$name.json" >"$work/test-$name.txt" 2>&1
done
