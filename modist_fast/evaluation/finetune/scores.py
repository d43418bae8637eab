"""A trained classifier at test: the softmax of every view of a video, averaged."""

from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from modist_fast.evaluation.data.labelled import LabelledVideos, report_odd
from modist_fast.evaluation.data.views import ViewSpec, plan_views
from modist_fast.host.distributed import World
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.progress import Progressing

_VIEWS_AT_A_TIME = 8


@torch.inference_mode()
def view_probabilities(
    forward: Callable[[Tensor], Tensor],
    labelled: LabelledVideos,
    spec: ViewSpec,
    videos: np.ndarray,
    world: World,
    num_threads: int = 0,
) -> tuple[np.ndarray, dict[int, str]]:
    """Class probabilities of videos, over all views of each and all places of each view.

    Every rank calls it, does its share, and gets them all.

    Args:
        forward: (B, 3, T, H, W) to (B, P, K) logits, in eval mode.
        spec: `at_test`.
        videos: (m,) places in `labelled`.

    Returns:
        (m, K) float64, NaN for odd videos; and the videos whose frames turned out damaged, to the reason.
    """
    usable = [video for video in videos.tolist() if video not in labelled.odd]
    grid = labelled.source.grid
    requests = (
        Request(video, int(labelled.rows[video]), plan_views(spec, labelled.info(video), grid))
        for video in usable[world.rank :: world.size]
    )
    found: dict[int, np.ndarray] = {}
    damaged: dict[int, str] = {}
    mine = len(usable[world.rank :: world.size])
    with (
        ClipReader(labelled.source, spec.plan_config(grid), world.device, num_threads) as reader,
        Progressing("test", mine, "videos" if world.size == 1 else "videos of this process", world.is_main) as progress,
    ):
        for video, clips in reader.read(requests):
            progress.begin()
            if isinstance(clips, str):
                damaged[video] = clips
                continue
            shares = [forward(part).double().softmax(dim=2) for part in clips["visual"].split(_VIEWS_AT_A_TIME)]
            found[video] = torch.cat(shares).mean(dim=(0, 1)).numpy(force=True)
    everyone: list[tuple[dict[int, np.ndarray], dict[int, str]]] = [({}, {})] * world.size
    dist.all_gather_object(everyone, (found, damaged))
    table = np.full((len(videos), len(labelled.classes)), np.nan)
    places = {video: place for place, video in enumerate(videos.tolist())}
    for part, broken in everyone:
        for video, row in part.items():
            table[places[video]] = row
        damaged |= broken
    if world.is_main:
        report_odd(labelled, damaged)
    return table, damaged
