#!/usr/bin/env bash
# Does what an older version wrote go on with this one? A store and a half-run made by REVISION are resumed and evaluated.
#
#     tests/commands/begun_before.sh REVISION [options that the refusal of --resume asks for]
set -euo pipefail
here=$(cd "$(dirname "$0")/../.." && pwd)
revision=$1
shift
work=$(mktemp -d)
trap 'git -C "$here" worktree remove --force "$work/tree"; rm -rf "$work"' EXIT
git -C "$here" worktree add --quiet --detach "$work/tree" "$revision"
export OMP_NUM_THREADS=1
python() { PYTHONPATH=$1:$1/kernels:$1/pipelines:$1/profiling "$here/.venv/bin/python" "$1/launch/$2" "${@:3}"; }
small="--preset demo --precision fp32 --model.visual-width 8 --clips.crop-size 32 --batch-size 16 --group-size 4"
train="$small --objective.bank-size 64 --checkpoint.every 5 --store $work/store --out $work/run"

python "$work/tree" make_demo_videos.py "$work/videos" --num-videos 32
python "$work/tree" prepare.py "$work/videos" --out "$work/store" --short-side 72
python "$work/tree" pretrain.py $train --max-steps 6
python "$here" pretrain.py $train --max-steps 12 --resume auto "$@"
(cd "$work/videos" && echo path,label,split && for file in */*.mp4; do
    echo "$file,${file%%/*},$([ $((10#$(basename "$file" .mp4) / 8 % 2)) = 0 ] && echo train || echo test)"
done) > "$work/labels.csv"
python "$here" evaluate.py linear --backbone "$work/run" --store "$work/store" --labels "$work/labels.csv" --out "$work/linear"
