"""From planned clips to tensors: frames are read ahead by threads, then decoded; a damaged video is named."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from modist_fast.evaluation.data.views import ViewSpec
from modist_pipelines.clips.backends import build_decoder
from modist_pipelines.clips.reading import PlannedClip
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipPlan
from modist_pipelines.resources import default_threads
from modist_pipelines.source import ClipSource

_CLIPS_AT_A_TIME = 8  # that a decoder holds


class Request(NamedTuple):
    """Clips of one video. `key` is the caller's own and comes back with the answer."""

    key: int
    row: int
    """Of the source."""
    plans: Sequence[ClipPlan]


class ClipReader:
    """Reads and decodes planned clips.

    Args:
        source: where the frames come from.
        spec: clip length, crop and normalization; the plans have to fit it.
        device: where the clips shall lie.
        num_threads: of the host; 0 takes this process's share of the cores.
    """

    def __init__(self, source: ClipSource, spec: ViewSpec, device: torch.device, num_threads: int = 0) -> None:
        num_threads = num_threads or default_threads()
        self._source = source
        self._ahead = num_threads + 1
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="read")
        self._decoder = build_decoder(
            "visual",
            spec.plan_config(source.grid),
            source.pixels,
            num_clips=_CLIPS_AT_A_TIME,
            num_threads=num_threads,
            device=device,
        )

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._decoder.close()

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[int, Tensor | str]]:
        """The clips of some videos, in the order asked.

        Yields:
            The key of each request and (V, 3, T, H, W) float32, its clips; or why the video cannot be read.
        """
        left = iter(requests)
        pending: deque[tuple[Request, Future]] = deque()
        while True:
            for request in islice(left, self._ahead - len(pending)):
                pending.append((request, self._threads.submit(self._frames, request)))
            if not pending:
                return
            request, frames = pending.popleft()
            try:
                yield request.key, self._decode(request, frames.result())
            except DamagedError as error:
                yield request.key, str(error)

    def _frames(self, request: Request) -> list[PlannedClip]:
        wanted = sorted({int(frame) for plan in request.plans for frame in plan.frames})
        found = dict(zip(wanted, self._source.read(request.row, {"rgb": wanted}).frames["rgb"], strict=True))
        return [PlannedClip(plan, [found[int(frame)] for frame in plan.frames]) for plan in request.plans]

    def _decode(self, request: Request, clips: list[PlannedClip]) -> Tensor:
        parts = []
        for first in range(0, len(clips), _CLIPS_AT_A_TIME):
            part, blank = self._decoder.decode(clips[first : first + _CLIPS_AT_A_TIME])
            if blank:
                raise DamagedError(f"{self._source.videos[request.row]}: frames of it do not decode.")
            parts.append(part.receive())
        return torch.cat(parts)
