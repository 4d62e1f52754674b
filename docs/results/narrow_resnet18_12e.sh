#!/usr/bin/env bash
# The runs behind docs/results/narrow_resnet18_12e.md: two at a time, one CPU
# thread each. Run it from the project's root with the CIFAR-10 images under
# data/cifar10. Started again, it goes on where it was stopped; a run whose
# results are in docs/results/narrow_resnet18_12e is not repeated.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
out=${1:-work_dirs/narrow_resnet18_12e}
results=docs/results/narrow_resnet18_12e
mkdir -p "$results"
export OMP_NUM_THREADS=1

narrow=(
  model.classifier.backbone.zero_init_residual=True
  model.classifier.backbone.base_channels=16
  model.classifier.backbone.stem_channels=16
  model.classifier.head.in_channels=128
)

run() { # name, seed, config, further settings
  local name=$1 seed=$2 config=$3 dir=$out/$1_seed$2
  local result=$results/$1_seed$2.json
  shift 3
  if [ -f "$result" ]; then return; fi
  mkdir -p "$dir"
  if [ ! -f "$dir/epoch_12.pth" ]; then
    "$python" tools/train.py "configs/$config.py" --work-dir "$dir" --resume \
      --cfg-options "${narrow[@]}" randomness.seed="$seed" \
      train_dataloader.dataset.indices=6000 train_dataloader.batch_size=64 \
      train_dataloader.num_workers=0 val_dataloader.num_workers=0 \
      train_cfg.max_epochs=12 train_cfg.val_interval=12 \
      param_scheduler.milestones='[8,11]' default_hooks.logger.interval=20 \
      default_hooks.ema=None \
      "$@" >"$dir/train.txt" 2>&1
  fi
  "$python" tools/test.py "configs/$config.py" "$dir/epoch_12.pth" \
    --attacks clean pgd20 cw20 --num-samples 1000 --subset first --out "$result" \
    --work-dir "$dir/test" --cfg-options "${narrow[@]}" randomness.seed=0 \
    test_dataloader.num_workers=0 >"$dir/test.txt" 2>&1
}

pgd5=(model.train_attack.steps=5 model.train_attack.step_size=3/255)
m2at() { # scale, perturbed_label, seed
  run "m2at_scale$1_label$2" "$3" m2at_resnet18_cifar10 "${pgd5[@]}" \
    model.method.scale="$1" model.method.perturbed_label="$2" \
    model.method.consistency=0
}

both() { # two commands, each a string; fails if either does
  local first second
  $1 & first=$!
  $2 & second=$!
  wait "$first"
  wait "$second"
}

for seed in 0 1; do
  both "run standard $seed standard_resnet18_cifar10" \
    "run pgd-at $seed pgd-at_resnet18_cifar10 ${pgd5[*]}"
  both "m2at 2.0 0.8 $seed" "m2at 1.5 0.7 $seed"
done
both 'm2at 1.0 0.5 0' 'm2at 1.0 0.5 1'
