"""The loader: the plan's clips of each step, read, decoded and augmented ahead of the training step."""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from modist_pipelines.errors import DataError
from modist_pipelines.graph import Kind, clip_graph, graph_inputs
from modist_pipelines.plan import (
    ClipPlan,
    PlanConfig,
    deal_keys,
    eligible_videos,
    plan_clips,
    subset_of,
    video_order,
)
from modist_pipelines.store import Store

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline


@dataclass(frozen=True)
class ClipBatch:
    """One step's clips of one process. b = B / world size; the tensors are views of DALI's own memory.

    `video_ids` and `deal` speak of the whole batch: every process knows them, since the plan is pure.
    """

    step: int
    epoch: int
    video_ids: np.ndarray
    """(B,) int32 rows of the store, in the order of the samples."""
    deal: np.ndarray
    """(B,) int64: position j of the shuffled batch holds the key clips of sample deal[j]."""
    visual_query: Tensor
    """(b, 3, T, H, W) float32, channels_last_3d: samples rank·b and on."""
    visual_key: Tensor
    """(b, 3, T, H, W): of samples deal[rank·b] and on."""
    motion_query: Tensor | None
    """(b, 1, T', H, W), or None where the plan has no motion."""
    motion_key: Tensor | None
    counters: dict[str, int]
    """This process's frames_used, frames_decoded, bytes_read."""
    data_wait: float = 0.0
    """Seconds that the consumer waited for this batch."""


@dataclass(frozen=True)
class _Clip:
    """A planned clip and its JPEGs."""

    plan: ClipPlan
    jpegs: list[np.ndarray]


class ClipLoader:
    """Iterates over the steps of a run.

    Args:
        store: opened.
        plan: what clips to draw.
        batch_size: samples a step over all processes; a multiple of `world_size`.
        seed: of order, plan, deal and subset.
        rank, world_size: which part of each step is this process's.
        shuffle_keys: deal the key clips (ShuffleBN); otherwise they stay with their queries.
        device: "cpu", or "cuda:N" to decode and augment there.
        num_threads: decoding threads; 0 takes this process's share of the cores.
        prefetch: steps made ready ahead.
        subset: train on that many videos, drawn by the seed.

    Attributes:
        steps_per_epoch: whole batches; the remainder of the videos waits for another epoch's order.
        rejected_windows: share of the store's motion windows at or below the threshold.

    Raises:
        DataError: fewer usable videos than `batch_size`, or the store lacks the motion input.
    """

    def __init__(
        self,
        store: Store,
        plan: PlanConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_keys: bool = True,
        device: str = "cpu",
        num_threads: int = 0,
        prefetch: int = 2,
        subset: int | None = None,
    ) -> None:
        assert batch_size % world_size == 0
        self._store, self._plan, self._seed = store, plan, seed
        self._batch_size, self._num_local, self._rank = batch_size, batch_size // world_size, rank
        self._shuffle_keys, self._prefetch = shuffle_keys, max(1, prefetch)
        self._device = torch.device(device)
        self._num_threads = num_threads or default_threads()
        self._videos = self._usable_videos(subset)
        self.steps_per_epoch = len(self._videos) // batch_size
        self._readers = ThreadPoolExecutor(self._num_threads, thread_name_prefix="read")
        self._graphs: dict[Kind, Pipeline] = {"visual": self._build("visual", plan.visual.num_frames)}
        if plan.motion_input is not None:
            self._graphs["motion"] = self._build("motion", plan.motion.num_frames)
        self._running: _Producer | None = None

    def _usable_videos(self, subset: int | None) -> np.ndarray:
        eligible = eligible_videos(self._store, self._plan)
        videos = eligible.videos
        self.rejected_windows = eligible.num_rejected / max(1, eligible.num_windows)
        self._num_eligible = len(videos)
        if subset is not None:
            if subset > len(videos):
                raise DataError(
                    f"--clips.subset {subset} asks for more videos than {self._store.path} offers: {len(videos)}. "
                    "Use a smaller subset or prepare more videos."
                )
            videos = videos[subset_of(self._seed, len(videos), subset)]
        if len(videos) < self._batch_size:
            raise DataError(
                f"{self._store.path} has {len(videos)} usable videos, fewer than --batch-size {self._batch_size} "
                f"(the store holds {self._store.num_videos}; --clips.motion-threshold and --clips.subset decide which "
                "are usable). Prepare more videos or lower --batch-size."
            )
        return videos

    def describe(self) -> str:
        """What the loader draws from, and with how many hands."""
        return (
            f"{self._num_eligible} of {self._store.num_videos} videos can be used, {len(self._videos)} are; "
            f"{100 * self.rejected_windows:.1f} % of the motion windows are rejected (mean score at or below "
            f"{self._plan.motion_threshold:g})\n"
            f"loader: {self._num_threads} threads, {self._prefetch} steps ahead, on {self._device}"
        )

    def _build(self, kind: Kind, num_frames: int) -> "Pipeline":
        on_gpu = self._device.type == "cuda"
        pipeline = clip_graph(
            kind,
            crop_size=self._plan.crop_size,
            device="gpu" if on_gpu else "cpu",
            batch_size=2 * self._num_local * num_frames,
            num_threads=self._num_threads,
            device_id=(self._device.index or 0) if on_gpu else None,
        )
        pipeline.build()
        return pipeline

    def iterate(self, start_step: int, end_step: int) -> Iterator[ClipBatch]:
        """Yield steps `start_step` to `end_step` - 1. A step's clips do not depend on where the iteration began.

        Raises:
            DataError: a frame is damaged; the message names it.
        """
        self._stop()
        self._running = producer = _Producer(self, start_step, end_step)
        try:
            for _ in range(start_step, end_step):
                asked = time.perf_counter()
                batch = producer.next()
                yield replace(batch, data_wait=time.perf_counter() - asked)
        finally:
            producer.stop()

    def close(self) -> None:
        """Stop reading ahead and let go of threads and graphs. Batches that were handed out stay valid."""
        self._stop()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._graphs.clear()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.stop()
            self._running = None

    # One step, in two parts: reading, which the threads of `_readers` do for several steps at once, and decoding.

    def members(self, step: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Epoch, (B,) video rows and (B,) deal of a step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = video_order(self._seed, epoch, len(self._videos))
        chosen = order[position * self._batch_size : (position + 1) * self._batch_size]
        if self._shuffle_keys:
            deal = deal_keys(self._seed, step, self._batch_size)
        else:
            deal = np.arange(self._batch_size)
        return epoch, self._videos[chosen], deal

    def submit_reads(self, step: int) -> "_Reads":
        """Have this process's clips of a step planned and read in the background."""
        epoch, videos, deal = self.members(step)
        mine = slice(self._rank * self._num_local, (self._rank + 1) * self._num_local)
        submit = self._readers.submit
        queries = [submit(self._read, epoch, int(video), False) for video in videos[mine]]
        keys = [submit(self._read, epoch, int(video), True) for video in videos[deal[mine]]]
        return _Reads(step, epoch, videos.astype(np.int32), deal, queries + keys)

    def _read(self, epoch: int, video: int, key: bool) -> dict[Kind, _Clip]:
        visual, motion = plan_clips(self._plan, self._seed, epoch, video, self._store.info(video), key=key)
        clips: dict[Kind, _Clip] = {"visual": _Clip(visual, self._store.read_frames(video, "rgb", visual.frames))}
        if motion is not None and self._plan.motion_input is not None:
            jpegs = self._store.read_frames(video, self._plan.motion_input, motion.frames)
            clips["motion"] = _Clip(motion, jpegs)
        return clips

    def decode(self, reads: "_Reads") -> ClipBatch:
        """Run the graphs on a step's JPEGs."""
        samples = [future.result() for future in reads.samples]
        tensors: dict[Kind, Tensor] = {}
        num_frames = num_bytes = 0
        for kind, graph in self._graphs.items():
            clips = [sample[kind] for sample in samples]
            jpegs = [jpeg for clip in clips for jpeg in clip.jpegs]
            tensors[kind] = self._run(kind, graph, jpegs, [clip.plan for clip in clips])
            num_frames += len(jpegs)
            num_bytes += sum(map(len, jpegs))
        halves = {kind: tensor.split(self._num_local) for kind, tensor in tensors.items()}
        visual_query, visual_key = halves["visual"]
        motion_query, motion_key = halves.get("motion", (None, None))
        return ClipBatch(
            reads.step,
            reads.epoch,
            reads.video_ids,
            reads.deal,
            visual_query,
            visual_key,
            motion_query,
            motion_key,
            counters={"frames_used": num_frames, "frames_decoded": num_frames, "bytes_read": num_bytes},
        )

    def _run(self, kind: Kind, graph: "Pipeline", jpegs: list[np.ndarray], plans: Sequence[ClipPlan]) -> Tensor:
        graph.feed_input("jpeg", jpegs)
        for name, rows in graph_inputs(kind, plans, self._plan.augmentation, self._plan.crop_size).items():
            graph.feed_input(name, rows)
        (frames,) = graph.run()
        frames = torch.from_dlpack(frames.as_tensor())
        if frames.is_cuda:
            # A copy on torch's own stream and memory, so that its allocator knows when the clip is no longer in use.
            frames = frames.clone()
        clips = frames.unflatten(0, (len(plans), -1))
        return clips.permute(0, 4, 1, 2, 3)


@dataclass(frozen=True)
class _Reads:
    step: int
    epoch: int
    video_ids: np.ndarray
    deal: np.ndarray
    samples: list[Future[dict[Kind, _Clip]]]


class _Producer:
    """A thread that stays `prefetch` steps ahead of the consumer."""

    def __init__(self, loader: ClipLoader, start_step: int, end_step: int) -> None:
        self._loader, self._steps = loader, iter(range(start_step, end_step))
        self._ready: queue.Queue[ClipBatch | BaseException] = queue.Queue(loader._prefetch)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        self._thread.start()

    def next(self) -> ClipBatch:
        if self._stopping.is_set():
            raise RuntimeError("the loader was closed, or iterates from another step since")
        item = self._ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        reads: deque[_Reads] = deque()
        try:
            while not self._stopping.is_set():
                # Reading the next step overlaps decoding this one.
                while len(reads) < 2 and (step := next(self._steps, None)) is not None:
                    reads.append(self._loader.submit_reads(step))
                if not reads:
                    return
                self._hand_over(self._loader.decode(reads.popleft()))
        except BaseException as error:  # the consumer raises it
            self._hand_over(error)
        finally:
            for read in reads:
                for future in read.samples:
                    future.cancel()

    def _hand_over(self, item: ClipBatch | BaseException) -> None:
        while not self._stopping.is_set():
            try:
                self._ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return


def default_threads() -> int:
    """This process's share of the cores that it may run on."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, len(os.sched_getaffinity(0)) // processes)
