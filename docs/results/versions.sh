#!/usr/bin/env bash
# The digits from training to report, by the installed package alone:
#   docs/results/versions.sh PYTHON WORK_DIR
# WORK_DIR is made, outside of any checkout. Prints a line for each step; what
# a step wrote is in its log there.
set -euo pipefail
python=$(realpath -s "$1")
mkdir -p "$2" && cd "$2"
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
tools=$site/m2at_mm/.mim/tools
stock=$site/mmpretrain/.mim/tools
config=$site/m2at_mm/.mim/configs/m2at_resnet18-w16_digits.py
saved=work_dirs/m2at_resnet18-w16_digits

step() {
    local name=$1
    shift
    "$python" "$@" >"$name.log" 2>&1 && echo "$name ok" || echo "$name failed"
}

step import -c 'import m2at_mm; m2at_mm.recipes.apply_recipe'
step train "$tools/train.py" "$config" \
    --cfg-options train_cfg.max_epochs=2
step resume "$tools/train.py" "$config" --resume \
    --cfg-options train_cfg.max_epochs=3
trained=$saved/epoch_3.pth
step attacks "$tools/test.py" "$config" "$trained" \
    --attacks clean fgsm pgd20 --num-samples 100
step autoattack "$tools/test.py" "$config" "$trained" \
    --attacks clean autoattack --num-samples 20 --work-dir autoattack
step pictures "$tools/visualize.py" "$config" "$trained" --out pictures.png
step report "$tools/report.py" "$saved" --out report.html
step mmpretrain_train "$stock/train.py" "$config" --work-dir stock \
    --cfg-options train_cfg.max_epochs=1
step mmpretrain_test "$stock/test.py" "$config" "$trained" --work-dir stock
