#!/usr/bin/env bash
# Nsight Compute on the kernels of one phase of the training step, of one process.
#
#   profiling/ncu_kernels.sh PHASE --preset NAME --store STORE --out RUN [more of pretrain.py's options]
#
# PHASE is a span: loss, keys, queries, backward, momentum, optimizer, enqueue. LAUNCHES (20) kernels are measured, each
# run again many times: minutes. PYTHON and NCU name other programs than python and ncu. Look at RUN/profile/ncu-PHASE.ncu-rep
# in ncu-ui; `ncu --import FILE --page details` prints it.
set -euo pipefail

python=${PYTHON:-python}
ncu=${NCU:-ncu}
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
if ! command -v "$ncu" >/dev/null; then
    echo "error: $ncu is not on the PATH. Install NVIDIA Nsight Compute, or set NCU to where it is." >&2
    exit 2
fi
phase=$1
shift
run=
previous=
for word in "$@"; do
    if [ "$previous" = --out ]; then run=$word; fi
    previous=$word
done
if [ -z "$run" ]; then
    echo "error: --out RUN is missing: the report goes to RUN/profile." >&2
    exit 2
fi
mkdir -p "$run/profile"

# A push-pop range's name ends in a slash. Clocks stay as they are under the run, not at the base clock.
"$ncu" --target-processes all \
    --profile-from-start off \
    --nvtx --nvtx-include "modist@$phase/" \
    --launch-count "${LAUNCHES:-20}" \
    --set full --import-source yes --clock-control none \
    --force-overwrite --export "$run/profile/ncu-$phase" \
    "$python" "$here/../launch/pretrain.py" "$@" --profile.cuda-window --profile.steps 1
