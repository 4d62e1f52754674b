#!/usr/bin/env bash
# Fast-AT without its random start, and PGD-AT beside it, both under the guard:
#   docs/results/collapse.sh WORK_DIR
# ResNet-18 at a quarter of the width, 6,000 images. The radius is 16/255, at
# which a single step overfits within an epoch or two.
set -euo pipefail
work_dir=$1
train() {
    python tools/train.py "configs/$1_resnet18_cifar10.py" \
        --work-dir "$work_dir/$1" --resume --cfg-options \
        model.threat_model.eps=16/255 \
        model.classifier.backbone.base_channels=16 \
        model.classifier.backbone.stem_channels=16 \
        model.classifier.head.in_channels=128 \
        train_dataloader.dataset.indices=6000 \
        train_dataloader.batch_size=64 \
        train_dataloader.num_workers=0 \
        val_dataloader.num_workers=0 \
        train_cfg.val_interval=100 \
        randomness.seed=0 \
        default_hooks.ema=None \
        default_hooks.guard.type=m2at_mm.CollapseGuardHook \
        default_hooks.guard.num_images=200 \
        "${@:2}"
}
train fast-at model.train_attack.random_start=False model.train_attack.step=1.0
# The same schedule, and as many epochs as that run would have had so far.
train pgd-at model.train_attack.steps=5 model.train_attack.step_size=6/255 \
    optim_wrapper.optimizer.lr=0.02 train_cfg.max_epochs=6
# The guard's figures, from the last checkpoint of each.
python - "$work_dir" docs/results/collapse.json <<'PY'
import json
import sys
from pathlib import Path

import torch

import m2at_mm  # noqa: F401, lets PyTorch read MMEngine's checkpoints

found = {}
for name in ('fast-at', 'pgd-at'):
    folder = Path(sys.argv[1], name)
    last = (folder / 'last_checkpoint').read_text().strip()
    scalars = torch.load(last, weights_only=True)['message_hub']['log_scalars']
    columns = {
        key: [round(float(v), 2) for v in scalars[f'train/guard_{key}'].data[0]]
        for key in ('clean', 'fgsm', 'pgd')
    }
    errors = [
        line.split(' - ', 6)[-1]
        for log in sorted(folder.glob('*/*.log'))
        for line in log.read_text('utf-8').splitlines()
        if ' - ERROR - ' in line
    ]
    found[name] = dict(columns, errors=errors)
Path(sys.argv[2]).write_text(json.dumps(found, indent=2) + '\n', 'utf-8')
PY
