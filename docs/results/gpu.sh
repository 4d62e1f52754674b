#!/usr/bin/env bash
# What a CUDA GPU is measured by, in stages, the most important first.
#
# Usage: bash docs/results/gpu.sh OUT [STAGE ...]      all stages by default
#
# Each stage has a hard limit and leaves its JSON in OUT, beside one log.txt; a
# method that methods.json holds is not trained again. With TINY=1 all stages are
# rehearsed on a CPU in minutes. The images are expected in data/cifar10, and for
# one of the tests a robust network in $ROBUST_MODEL.
set -uo pipefail
out=$1
shift
stages=${*:-tests speed parts methods clock resume wrn}
mkdir -p "$out"

if [ -z "${TINY:-}" ]; then
    batches=(--batches 512 128) rounds=(--rounds 5 --block 5) seconds=150
    per_method=(--seconds 36) amp=(--amp) collect=()
    graphs=(model.train_attack.compile_mode=reduce-overhead)
    wide=(--batches 128 --kinds 'folded, bfloat16' 'CUDA graphs, bfloat16')
    batch=512 images=10240 block=10 steps=10 epochs=30 workers=4
    half=(optim_wrapper.dtype=bfloat16) small=() narrow=()
else
    batches=(--batches 4 --kinds 'folded, float32' 'plain loop, float32'
        'script loop, float32' 'eager, float32' 'compiled, float32')
    rounds=(--rounds 1 --block 1) seconds=90 graphs=()
    per_method=(--seconds 1 --batch 4 --num-samples 10 --attacks pgd20)
    wide=(--batches 2 --kinds 'folded, float32') amp=() collect=(--collect-only)
    batch=4 images=40 block=1 steps=1 epochs=1 workers=0 half=()
    small=(model.classifier.backbone.base_channels=4
        model.classifier.backbone.stem_channels=4
        model.classifier.head.in_channels=32)
    narrow=(model.classifier.backbone.widen_factor=1
        model.classifier.head.in_channels=64)
fi

stage() {  # NAME LIMIT COMMAND...
    local name=$1 limit=$2 start=$SECONDS log code
    shift 2
    [[ " $stages " == *" $name "* ]] || return 0
    log=$(mktemp)
    echo "== $name, at most $limit s: $*" | tee -a "$out/log.txt"
    timeout --signal=INT --kill-after=5 "$limit" "$@" >"$log" 2>&1
    code=$?
    tail -n $((code == 0 ? 15 : 80)) "$log" | cut -c1-400 | tee -a "$out/log.txt"
    echo "== $name: exit code $code, $((SECONDS - start)) s" |
        tee -a "$out/log.txt"
    rm "$log"
}

# 1. What only a GPU shows.
stage tests 100 python -m pytest -q -p no:cacheprovider -p no:warnings -n 4 \
    --durations 5 -m gpu \
    "${collect[@]}" tests/test_gpu.py tests/test_attacks/test_precision.py

# 2. An iteration: kinds in turns, then the parts of one with MMEngine's log and
# hooks, and how long the host waits.
stage speed $((seconds + 10)) python docs/results/gpu/speed.py \
    "${batches[@]}" "${rounds[@]}" --seconds "$seconds" --out "$out/speed.json" \
    --cfg-options model.train_attack.steps=$steps "${small[@]}"
stage parts 60 python tools/benchmark.py configs/m2at_resnet18_cifar10.py \
    "${amp[@]}" --against --rounds 2 --block $block --out "$out/parts.json" \
    --cfg-options train_dataloader.batch_size=$batch \
    train_dataloader.dataset.indices=$images \
    train_dataloader.num_workers=$workers train_cfg.max_epochs=1000 \
    model.method.consistency=0 model.train_attack.steps=$steps "${small[@]}"

# 3. Five methods at full width, trained for the same time each.
stage methods 315 python docs/results/gpu/methods.py "${per_method[@]}" \
    --out "$out/methods.json" --cfg-options \
    train_dataloader.num_workers=$workers test_dataloader.num_workers=0 \
    "${graphs[@]}" "${small[@]}" ${TINY:+train_dataloader.dataset.indices=40}

# 4. Thirty epochs of PGD-10 on all images, by the clock.
stage clock 240 bash -c '
    start=$SECONDS
    python tools/train.py "$@" && echo "{\"seconds\": $((SECONDS - start))}" \
        >"$0/clock.json"' "$out" \
    configs/pgd-at_resnet18_cifar10.py "${amp[@]}" --no-validate \
    --work-dir "$(mktemp -d)" --cfg-options "${half[@]}" "${graphs[@]}" \
    train_dataloader.batch_size=$batch train_dataloader.drop_last=True train_cfg.max_epochs=$epochs \
    train_dataloader.num_workers=$workers model.train_attack.steps=$steps \
    default_hooks.checkpoint.interval=$epochs optim_wrapper.optimizer.lr=0.2 \
    param_scheduler.milestones='[20,25]' "${small[@]}" \
    ${TINY:+train_dataloader.dataset.indices=40}

# 5. Killed and resumed, with deterministic algorithms: bit for bit.
stage resume 150 python tools/check_resume.py \
    configs/m2at_resnet18-w16_digits.py --runs 2 --work-dir "$(mktemp -d)" \
    --out "$out/resume.json" --cfg-options randomness.deterministic=True \
    train_cfg.max_epochs=2 ${TINY:+train_dataloader.dataset.indices=40} \
    ${TINY:+val_dataloader.dataset.indices=10} ${TINY:+model.train_attack.steps=1}

# 6. WideResNet-34-10.
stage wrn 100 python docs/results/gpu/speed.py \
    configs/pgd-at_wrn34-10_cifar10.py "${wide[@]}" "${rounds[@]}" --seconds 80 \
    --out "$out/wrn.json" --cfg-options model.train_attack.steps=$steps \
    "${narrow[@]}"
