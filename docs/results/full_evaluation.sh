#!/usr/bin/env bash
# The evaluations behind docs/results/full_evaluation.md, two at a time, one
# CPU thread each. Run it from the project's root with the CIFAR-10 images
# under data/cifar10. Started again, it goes on where it was stopped.
#   bash docs/results/full_evaluation.sh RUNS ROBUST
# RUNS is the output folder of docs/results/narrow_resnet18_12e.sh, ROBUST a
# checkpoint of the same narrow network without mean and std.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
runs=$1 robust=$2
out=docs/results/full_evaluation
work=work_dirs/full_evaluation
mkdir -p "$work"
export OMP_NUM_THREADS=1

narrow=(
  model.classifier.backbone.base_channels=16
  model.classifier.backbone.stem_channels=16
  model.classifier.head.in_channels=128
)
unnormalised=(
  data_preprocessor.mean='[0.,0.,0.]'
  data_preprocessor.std='[255.,255.,255.]'
)
everything=(fgsm pgd20 pgd100 cw20 cw100 autoattack)

evaluate() { # name, config, checkpoint, further words
  local name=$1 config=$2 checkpoint=$3
  shift 3
  "$python" tools/test.py "$config" "$checkpoint" --work-dir "$work/$name" \
    --out "$out/$name.json" --attacks clean "${everything[@]}" \
    --num-samples 256 --subset first "$@" test_dataloader.num_workers=0 \
    >"$work/$name.txt" 2>&1
}

undefended() {
  local source
  source=$("$python" -c 'import pathlib, pyautoattack
print(pathlib.Path(pyautoattack.__file__).parent / "examples/model_test.pt")')
  if [ ! -f "$work/undefended.pth" ]; then
    "$python" tools/convert_checkpoint.py import "$source" \
      "$work/undefended.pth" >"$work/import.txt" 2>&1
  fi
  evaluate undefended "$work/undefended.py" "$work/undefended.pth" \
    --cfg-options test_dataloader.dataset.data_root=data/cifar10
}

evaluate pgd-at configs/pgd-at_resnet18_cifar10.py \
  "$runs/pgd-at_seed0/epoch_12.pth" --cfg-options "${narrow[@]}" &
evaluate m2at_scale1.5_label0.7 configs/m2at_resnet18_cifar10.py \
  "$runs/m2at_scale1.5_label0.7_seed0/epoch_12.pth" \
  --cfg-options "${narrow[@]}" &
wait
evaluate plain_robust configs/standard_resnet18_cifar10.py "$robust" \
  --cfg-options "${narrow[@]}" "${unnormalised[@]}" &
evaluate m2at_scale2.0_label0.8 configs/m2at_resnet18_cifar10.py \
  "$runs/m2at_scale2.0_label0.8_seed0/epoch_12.pth" \
  --cfg-options "${narrow[@]}" &
wait
undefended
