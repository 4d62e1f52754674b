#!/bin/bash
# What a CUDA GPU is measured by: its tests, the speed of an iteration, thirty
# epochs by the clock and the robust accuracy after them.
# Usage: bash docs/results/gpu.sh OUT [--cfg-options ...]
# The options are for a rehearsal on a small machine, as in
#   bash docs/results/gpu.sh /tmp/out --cfg-options \
#       train_dataloader.batch_size=4 model.train_attack.steps=1 \
#       train_dataloader.dataset.indices=40 train_dataloader.num_workers=0
# with ROUNDS=1 BLOCK=1 EPOCHS=1 IMAGES=8, and NO_AMP=1 where there is no GPU.
set -euo pipefail
out=$1
shift
options=(--cfg-options "${@:2}")
mkdir -p "$out"
amp=(--amp)
bfloat16=(optim_wrapper.dtype=bfloat16)
[ -z "${NO_AMP:-}" ] || amp=() bfloat16=()

# 1. The tests that need a GPU.
python -m pytest -q -m gpu tests | tee "$out/tests.txt"

# 2. An iteration: float32 and bfloat16, eager, compiled, with CUDA graphs.
time_one() {  # NAME CONFIG WORDS...
    local name=$1 config=$2
    shift 2
    python tools/benchmark.py "configs/$config.py" --rounds "${ROUNDS:-5}" \
        --block "${BLOCK:-10}" --out "$out/$name.json" "$@"
}
for mode in None default reduce-overhead; do
    for precision in '' "${amp[@]}"; do
        time_one "resnet18_${mode}${precision}" pgd-at_resnet18_cifar10 \
            --methods m2at $precision "${options[@]}" \
            model.train_attack.compile_mode=$mode
    done
done
time_one wrn34-10 pgd-at_wrn34-10_cifar10 "${amp[@]}" --against limit \
    "${options[@]}" model.train_attack.compile_mode=reduce-overhead

# 3. Thirty epochs of PGD-10 on all of CIFAR-10, by the clock.
start=$(date +%s)
python tools/train.py configs/pgd-at_resnet18_cifar10.py "${amp[@]}" --no-validate \
    --work-dir "$out/pgd-at" "${options[@]}" \
    "${bfloat16[@]}" train_cfg.max_epochs="${EPOCHS:-30}" \
    param_scheduler.milestones='[20,25]' \
    model.train_attack.compile_mode=reduce-overhead
echo "seconds: $(($(date +%s) - start))" | tee "$out/thirty_epochs.txt"
python tools/test.py configs/pgd-at_resnet18_cifar10.py \
    "$(cat "$out/pgd-at/last_checkpoint")" --num-samples "${IMAGES:-1000}" --subset first \
    --attacks clean pgd20 cw20 autoattack --out "$out/pgd-at.json"
