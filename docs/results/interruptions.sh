#!/usr/bin/env bash
# Twenty trainings killed with SIGKILL and resumed, against one that ran
# through:
#   docs/results/interruptions.sh WORK_DIR
# Ten with checkpoints after epochs, two workers that read the images, and
# average weights; ten with checkpoints every two iterations.
set -euo pipefail
work_dir=$1
common=(
    model.classifier.backbone.base_channels=8
    model.classifier.backbone.stem_channels=8
    model.classifier.head.in_channels=64
    model.train_attack.steps=3
    train_dataloader.dataset.indices=320
    train_dataloader.batch_size=32
    val_dataloader.dataset.indices=64
    train_cfg.max_epochs=3
    default_hooks.logger.interval=1
)
python tools/check_resume.py configs/m2at_resnet18_cifar10.py --runs 10 \
    --seed 1 --work-dir "$work_dir/epochs" \
    --out docs/results/interruptions_epochs.json \
    --cfg-options "${common[@]}" train_dataloader.num_workers=2 \
    val_dataloader.num_workers=0 default_hooks.ema.type=EMAHook
python tools/check_resume.py configs/m2at_resnet18_cifar10.py --runs 10 \
    --seed 2 --work-dir "$work_dir/iterations" \
    --out docs/results/interruptions_iterations.json \
    --cfg-options "${common[@]}" train_dataloader.num_workers=0 \
    val_dataloader.num_workers=0 \
    default_hooks.checkpoint.by_epoch=False \
    default_hooks.checkpoint.interval=2
