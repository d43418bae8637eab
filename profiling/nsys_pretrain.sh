#!/usr/bin/env bash
# Nsight Systems around a few steps of pre-training, a report for each process, and the step budget out of them.
#
#   profiling/nsys_pretrain.sh NUM_PROCESSES --preset NAME --store STORE --out RUN [more of pretrain.py's options]
#
# PYTHON and NSYS name other programs than python and nsys. Look at RUN/profile/nsys-rankR.nsys-rep in nsys-ui.
set -euo pipefail

python=${PYTHON:-python}
nsys=${NSYS:-nsys}
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
if ! command -v "$nsys" >/dev/null; then
    echo "error: $nsys is not on the PATH. Install NVIDIA Nsight Systems, or set NSYS to where it is." >&2
    exit 2
fi
num_processes=$1
shift
run=
previous=
for word in "$@"; do
    if [ "$previous" = --out ]; then run=$word; fi
    previous=$word
done
if [ -z "$run" ]; then
    echo "error: --out RUN is missing: the reports go to RUN/profile." >&2
    exit 2
fi
mkdir -p "$run/profile"

# Only the window is recorded: start-up would drown it. The run itself goes on after the window, to its end.
"$python" -m torch.distributed.run --standalone --nproc-per-node "$num_processes" --no-python \
    "$nsys" profile \
    --trace=cuda,nvtx,osrt,cudnn,cublas \
    --sample=none \
    --cuda-memory-usage=true \
    --capture-range=cudaProfilerApi \
    --capture-range-end=stop \
    --force-overwrite=true \
    --output="$run/profile/nsys-rank%q{RANK}" \
    "$python" "$here/../launch/pretrain.py" "$@" --profile.cuda-window

for report in "$run"/profile/nsys-rank*.nsys-rep; do
    "$nsys" stats --report nvtx_pushpop_sum,nvtx_gpu_proj_sum,cuda_gpu_kern_sum --format csv \
        --force-export=true --force-overwrite=true --output "${report%.nsys-rep}" "$report"
done
"$python" "$here/nsys_budget.py" "$run/profile" --json "$run/profile/nsys-budget.json"
