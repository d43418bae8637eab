"""From planned clips to tensors: frames are read by threads, and decoded by one more, ahead of whoever takes the clips.

A damaged video is named.
"""

import inspect
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from modist_pipelines.clips.ahead import ahead
from modist_pipelines.clips.backends import build_decoders
from modist_pipelines.clips.graph import Kind
from modist_pipelines.clips.handover import Handed, numbered, work_on
from modist_pipelines.clips.reading import PlannedClip, read_planned
from modist_pipelines.errors import DamagedError
from modist_pipelines.plan import ClipPlan, PlanConfig
from modist_pipelines.resources import default_threads
from modist_pipelines.source import ClipSource

Clips: TypeAlias = dict[Kind, Tensor]
"""Of one video: each kind that was asked for to (V, C, T, H, W) float32; C is 3, or what the motion input has."""
_CLIPS_AT_A_TIME = 8  # that a decoder holds


class Request(NamedTuple):
    """Clips of one video. `key` is the caller's own and comes back with the answer."""

    key: int
    row: int
    """Of the source."""
    plans: Sequence[ClipPlan]
    """Each is shown in every kind. Motion takes its frames, its crop and its flip alone."""


class ClipReader:
    """Reads and decodes planned clips.

    Args:
        source: where the frames come from.
        config: clip length, crop, normalization and motion input; the plans have to fit it.
        device: where the clips shall lie.
        num_threads: of the host; 0 takes this process's share of the cores.
        kinds: what is read of each plan.
    """

    def __init__(
        self,
        source: ClipSource,
        config: PlanConfig,
        device: torch.device,
        num_threads: int = 0,
        kinds: Sequence[Kind] = ("visual",),
    ) -> None:
        num_threads = num_threads or default_threads()
        self._source, self._config = source, config
        self._device = device = numbered(device)
        self._ahead = num_threads + 1
        self._threads = ThreadPoolExecutor(num_threads, "read", initializer=work_on, initargs=(device,))
        self._running: Generator[tuple[int, Clips | str]] | None = None
        self._decoders = build_decoders(
            kinds, config, source.pixels, num_clips=_CLIPS_AT_A_TIME, num_threads=num_threads, device=device
        )

    def __enter__(self) -> "ClipReader":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding, and let go of threads and graphs."""
        if self._running is not None:
            self._running.close()
        self._threads.shutdown(cancel_futures=True)
        for decoder in self._decoders.values():
            decoder.close()

    def read(self, requests: Iterable[Request]) -> Iterator[tuple[int, Clips | str]]:
        """The clips of some videos, in the order asked, for work on the current stream of whoever takes them.

        The next ones are decoded meanwhile.

        Yields:
            The key of each request and its clips; or why the video cannot be read.

        Raises:
            RuntimeError: an earlier reading is not over.
        """
        if self._running is not None and inspect.getgeneratorstate(self._running) != inspect.GEN_CLOSED:
            raise RuntimeError("a ClipReader reads one list of requests at a time: take all clips of the one before")
        self._running = self._take(requests)
        return self._running

    def _take(self, requests: Iterable[Request]) -> Generator[tuple[int, Clips | str]]:
        for key, parts in ahead(self._decoded(requests), depth=1, enter=lambda: work_on(self._device)):
            if isinstance(parts, str):
                yield key, parts
            else:
                yield key, {kind: torch.cat([part.receive() for part in handed]) for kind, handed in parts.items()}

    def _decoded(self, requests: Iterable[Request]) -> Iterator[tuple[int, dict[Kind, list[Handed]] | str]]:
        left = iter(requests)
        pending: deque[tuple[Request, Future]] = deque()
        while True:
            for request in islice(left, self._ahead - len(pending)):
                pending.append((request, self._threads.submit(self._planned, request)))
            if not pending:
                return
            request, clips = pending.popleft()
            try:
                yield request.key, self._decode(request, clips.result())
            except DamagedError as error:
                yield request.key, str(error)

    def _planned(self, request: Request) -> dict[Kind, list[PlannedClip]]:
        plans: dict[tuple[int, Kind], ClipPlan] = {
            (view, kind): plan for view, plan in enumerate(request.plans) for kind in self._decoders
        }
        read, _ = read_planned(self._source, self._config, request.row, plans)
        return {kind: [clip for (_, of), clip in read.items() if of == kind] for kind in self._decoders}

    def _decode(self, request: Request, planned: dict[Kind, list[PlannedClip]]) -> dict[Kind, list[Handed]]:
        return {kind: list(self._parts(request, kind, clips)) for kind, clips in planned.items()}

    def _parts(self, request: Request, kind: Kind, clips: Sequence[PlannedClip]) -> Iterator[Handed]:
        for first in range(0, len(clips), _CLIPS_AT_A_TIME):
            part, blank = self._decoders[kind].decode(clips[first : first + _CLIPS_AT_A_TIME])
            if blank:
                which = "frames of it do" if kind == "visual" else f"a {self._config.motion_input} frame of it does"
                raise DamagedError(f"{self._source.videos[request.row]}: {which} not decode.")
            yield part
