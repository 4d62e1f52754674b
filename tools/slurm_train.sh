#!/usr/bin/env bash
# Train on a Slurm cluster, with the arguments of mmpretrain's slurm_train.sh:
#
#   GPUS=16 GPUS_PER_NODE=8 tools/slurm_train.sh \
#       PARTITION JOB_NAME CONFIG WORK_DIR [OPTIONS OF tools/train.py ...]
#
# Before the job's time is over, Slurm sends SIGTERM: training saves a
# checkpoint and ends with code 143. Submitted again with --resume it goes on.
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo 'usage: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [OPTION ...]' >&2
    exit 2
fi
partition=$1 job_name=$2 config=$3 work_dir=$4
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
cpus_per_task=${CPUS_PER_TASK:-5}
# Split at spaces, like SRUN_ARGS='--time=4:00:00 --signal=TERM@120'.
read -r -a srun_args <<< "${SRUN_ARGS:-}"

exec srun \
    --partition="$partition" \
    --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="$cpus_per_task" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    python -u "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" \
    --work-dir="$work_dir" --launcher=slurm "${@:5}"
