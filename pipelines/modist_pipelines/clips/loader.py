"""The loader: the plan's clips of each step, read, decoded and augmented ahead of the training step."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clips.ahead import Producer
from modist_pipelines.clips.backends import build_decoders
from modist_pipelines.clips.decoder import DecodedClips
from modist_pipelines.clips.graph import HW_DECODER_LOAD, Kind, MotionDecoding
from modist_pipelines.clips.handover import numbered, receive, work_on
from modist_pipelines.clips.patience import Job, ReadThreads
from modist_pipelines.clips.reading import PlannedClip, VideoClips, read_clips
from modist_pipelines.errors import DataError
from modist_pipelines.plan import PlanConfig, deal_keys, eligible_videos, subset_of, video_order
from modist_pipelines.resources import decodes_motion_on_host, default_prefetch, default_threads
from modist_pipelines.source import ClipSource

log = logging.getLogger("modist")
# So many videos in a row that cannot be read are not damaged: their disk is.
_MAX_DAMAGED_IN_A_ROW = 16
# The paper's γ takes away what stands still, about a tenth; beyond this share it takes away what moves.
_MANY_REJECTED = 0.6


@dataclass(frozen=True)
class ClipBatch:
    """One step's clips of one process. b = B / world size; the tensors are views of the memory that the decoder wrote.

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
    """(b, C, T', H, W), C as the motion input has it, or None where the plan has no motion."""
    motion_key: Tensor | None
    damaged: np.ndarray
    """(B,) bool: samples of which this process holds blank clips, because frames of theirs are damaged. Another
    process may hold the rest of such a sample and not know."""
    counters: dict[str, int]
    """This process's frames_used, frames_decoded, bytes_read, bytes_needed, videos_damaged."""
    ready: Sequence["torch.cuda.Event | None"] = ()
    """On a GPU: when each part of the clips is there. `ClipLoader.iterate` has made the stream of whoever iterates
    wait for it."""
    spans: dict[str, float] = field(default_factory=dict)
    """Seconds behind the step: plan, summed over the reading threads; read, waiting for them; decode, with
    augmentation and hand-over."""
    data_wait: float = 0.0
    """Seconds that the consumer waited for this batch."""
    queue_depth: int = 0
    """Steps that were ready when the consumer asked for this one."""

    def clips(self) -> list[Tensor]:
        """The clips of both pathways, or of the visual one alone."""
        clips = (self.visual_query, self.visual_key, self.motion_query, self.motion_key)
        return [clip for clip in clips if clip is not None]


class ClipLoader:
    """Iterates over the steps of a run.

    Args:
        source: an opened store, or raw videos.
        plan: what clips to draw.
        batch_size: samples a step over all processes; a multiple of `world_size`.
        seed: of order, plan, deal and subset.
        rank: which part of each step is this process's.
        world_size: number of processes.
        shuffle_keys: deal the key clips (ShuffleBN); otherwise they stay with their queries.
        device: "cpu", or "cuda:N" to decode and augment there.
        num_threads: decoding threads; 0 takes this process's share of the cores.
        prefetch: steps made ready ahead; 0 takes what the free memory allows, up to 4.
        read_patience: seconds after which a read that has not come back is begun again beside the first.
        subset: train on that many videos, drawn by the seed.
        hw_decoder_load: share of a GPU's JPEGs that its JPEG engines decode.
        motion_decoding: whose work the JPEGs of motion maps are where clips are made on a GPU.
        annotate: shows waits and background work to profilers: a context manager of a name.

    Attributes:
        steps_per_epoch: whole batches; the remainder of the videos waits for another epoch's order.
        rejected_windows: share of the store's motion windows at or below the threshold.

    Raises:
        DataError: fewer usable videos than `batch_size`, or the source lacks the motion input.
    """

    def __init__(
        self,
        source: ClipSource,
        plan: PlanConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle_keys: bool = True,
        device: str = "cpu",
        num_threads: int = 0,
        prefetch: int = 0,
        read_patience: float = 60.0,
        subset: int | None = None,
        hw_decoder_load: float = HW_DECODER_LOAD,
        motion_decoding: MotionDecoding = "auto",
        annotate: Callable[[str], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        assert batch_size % world_size == 0
        self._annotate = annotate
        self._source, self._plan, self._seed = source, plan, seed
        self._batch_size, self._num_local, self._rank = batch_size, batch_size // world_size, rank
        self._shuffle_keys = shuffle_keys
        self._device = numbered(torch.device(device))
        self._num_threads = num_threads or default_threads()
        self._prefetch = prefetch or default_prefetch(self._batch_bytes(), self._device)
        self._videos = self._usable_videos(subset)
        self.steps_per_epoch = len(self._videos) // batch_size
        self._named_damaged: set[int] = set()
        self._damaged_in_a_row = 0
        kinds: list[Kind] = ["visual"] if plan.motion_input is None else ["visual", "motion"]
        from_jpegs = self._device.type == "cuda" and source.pixels == "jpeg"
        on_host = from_jpegs and decodes_motion_on_host(motion_decoding, self._num_threads)
        self._host_kinds: list[Kind] = ["motion"] if on_host and plan.motion_input is not None else []
        self._decoders = build_decoders(
            kinds,
            plan,
            source.pixels,
            num_clips=2 * self._num_local,
            num_threads=self._num_threads,
            device=self._device,
            hw_decoder_load=hw_decoder_load,
            host_kinds=self._host_kinds,
        )
        self._hw_decoder_load = hw_decoder_load
        self._sample_jpegs = {kind: 2 * each.num_frames * each.num_parts for kind, each in self._decoders.items()}
        # Side by side where one kind is the host's work and the other the GPU's; else each has all that there is.
        self._kind_threads = ThreadPoolExecutor(
            1 + len(self._host_kinds), thread_name_prefix="decode", initializer=self._enter_thread
        )
        self._readers = ReadThreads(self._num_threads, read_patience, str(source.path), self._enter_thread)
        self._running: Producer[_Reads, ClipBatch] | None = None

    def _batch_bytes(self) -> int:
        plan = self._plan
        planes = 3 * plan.visual.num_frames
        if plan.motion_input is not None:
            planes += plan.shown_motion.channels * plan.motion.num_frames
        return 2 * self._num_local * planes * plan.crop_size**2 * 4

    def _usable_videos(self, subset: int | None) -> np.ndarray:
        eligible = eligible_videos(self._source, self._plan)
        videos = eligible.videos
        self.rejected_windows = eligible.num_rejected / max(1, eligible.num_windows)
        self._num_eligible = len(videos)
        if subset is not None:
            if subset > len(videos):
                raise DataError(
                    f"--clips.subset {subset} asks for more videos than {self._source.path} offers: {len(videos)}. "
                    "Use a smaller subset or prepare more videos."
                )
            videos = videos[subset_of(self._seed, len(videos), subset)]
        if len(videos) < self._batch_size:
            raise DataError(
                f"{self._source.path} has {len(videos)} usable videos, fewer than --batch-size {self._batch_size} "
                f"(it holds {self._source.num_videos}; --clips.motion-threshold and --clips.subset decide which "
                "are usable). Prepare more videos or lower --batch-size."
            )
        return videos

    def plan_digest(self) -> str:
        """SHA-256 of the rule by which clips are drawn, the seed, and the videos to draw from."""
        rule = f"{self._plan!r} {self._seed} {self._batch_size} {self._shuffle_keys}"
        return hashlib.sha256(rule.encode() + self._videos.astype("<i8").tobytes()).hexdigest()

    @property
    def source_name(self) -> str:
        """What the clips come from, in a word or two."""
        return {"jpeg": "the store", "rgb": "raw videos"}[self._source.pixels]

    def describe(self) -> str:
        """What the loader draws from, and with how many hands."""
        what = {"window": "mean", "frames": "a frame"}[self._plan.motion_rule]
        rejected = (
            f"{100 * self.rejected_windows:.1f} % of the motion windows are rejected ({what} at or below "
            f"{self._plan.motion_threshold:g} of full scale, {self._plan.min_score:g} as stored)"
        )
        on_gpu = self._device.type == "cuda" and self._source.pixels == "jpeg"
        engines = f"; {self._who_decodes()}" if on_gpu else ""
        return (
            f"{self._num_eligible} of {self._source.num_videos} videos can be used, {len(self._videos)} are; "
            f"{rejected if self._plan.motion_threshold else 'any motion window will do'}\n"
            f"loader: {self._num_threads} threads, {self._prefetch} steps ahead "
            f"({self._batch_bytes() / 2**20:.0f} MiB each), on {self._device}{engines}"
        )

    def _who_decodes(self) -> str:
        """JPEGs of a sample, by who decodes them."""
        in_all = sum(self._sample_jpegs.values())
        on_host = sum(self._sample_jpegs[kind] for kind in self._host_kinds)
        return (
            f"of the {in_all} JPEGs of a sample the GPU decodes {in_all - on_host}, "
            f"{100 * self._hw_decoder_load:.0f} % of them on its JPEG engines, and the host {on_host}"
        )

    def warning(self) -> str | None:
        """What is odd about the share of rejected motion windows; None where nothing is."""
        if self._plan.motion_input is None or not self._plan.motion_threshold:
            return None
        threshold = f"--clips.motion-threshold {self._plan.motion_threshold:g}"
        if self.rejected_windows == 0:
            return (
                f"{threshold} rejects none of the motion windows of {self._source.path}: the run is the same as with "
                "0. Raise it, or set it to 0 if all of these videos move."
            )
        if self.rejected_windows > _MANY_REJECTED:
            return (
                f"{threshold} rejects {100 * self.rejected_windows:.0f} % of the motion windows of "
                f"{self._source.path}, so training sees little of these videos. Lower it, unless most of them "
                "stand still."
            )
        return None

    def iterate(self, start_step: int, end_step: int) -> Iterator[ClipBatch]:
        """Yield steps `start_step` to `end_step` - 1. A step's clips do not depend on where the iteration began.

        A video of which a frame is damaged is left out of the step in the same way by every process: see
        `ClipBatch.damaged`. It is named in the log once and counted each time.

        Raises:
            DataError: a read never came back, or nothing but damaged videos came.
        """
        self._stop()
        self._running = producer = Producer(
            range(start_step, end_step), self.submit_reads, self.decode, self._prefetch, self._enter_thread
        )
        try:
            for _ in range(start_step, end_step):
                asked = time.perf_counter()
                depth = producer.num_ready
                with self._annotate("data_wait"):
                    batch = producer.next()
                for ready in batch.ready:
                    receive(ready, *batch.clips())
                yield replace(batch, data_wait=time.perf_counter() - asked, queue_depth=depth)
        finally:
            producer.stop()

    def close(self) -> None:
        """Stop reading ahead and let go of threads and graphs. Batches that were handed out stay valid."""
        self._stop()
        self._readers.close()
        self._kind_threads.shutdown()
        for decoder in self._decoders.values():
            decoder.close()
        self._decoders.clear()

    def _enter_thread(self) -> None:
        work_on(self._device)

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
        """Have this process's clips of a step planned and read in the background, video by video."""
        epoch, videos, deal = self.members(step)
        mine = slice(self._rank * self._num_local, (self._rank + 1) * self._num_local)
        queries, keys = videos[mine].tolist(), videos[deal[mine]].tolist()
        halves: dict[int, list[bool]] = {}
        for key, part in ((False, queries), (True, keys)):
            for video in part:
                halves.setdefault(video, []).append(key)
        jobs = {video: self._submit(epoch, video, wanted) for video, wanted in halves.items()}
        return _Reads(step, epoch, videos.astype(np.int32), deal, queries, keys, jobs)

    def _submit(self, epoch: int, video: int, halves: Sequence[bool]) -> Job[VideoClips]:
        def read() -> VideoClips:
            with self._annotate("read"):
                return read_clips(self._source, self._plan, self._seed, epoch, video, halves)

        return self._readers.submit(self._source.videos[video], read)

    def wait_for(self, reads: "_Reads", given_up: threading.Event) -> list[dict[Kind, PlannedClip]]:
        """The clips of a step as they were read: this process's queries, then its keys."""
        return _samples(reads, self._results(reads, given_up))

    def _results(self, reads: "_Reads", given_up: threading.Event) -> dict[int, VideoClips]:
        # The last first: waking up for each read in turn costs more than the reads.
        jobs = list(reads.jobs.items())
        self._readers.result(jobs[-1][1], given_up)
        return {video: self._readers.result(job, given_up) for video, job in jobs}

    def decode(self, reads: "_Reads", given_up: threading.Event | None = None) -> ClipBatch:
        """Wait for a step's reads and run the graphs on what they brought."""
        started = time.perf_counter()
        given_up = given_up or threading.Event()
        videos = self._results(reads, given_up)
        samples = _samples(reads, videos)
        read = time.perf_counter()
        tensors: dict[Kind, Sequence[Tensor]] = {"motion": (None, None)}  # pyright: ignore[reportAssignmentType]
        positions = np.arange(self._rank * self._num_local, (self._rank + 1) * self._num_local)
        sample_of = np.concatenate([positions, reads.deal[positions]])
        damaged, ready = np.zeros(self._batch_size, bool), []

        def decode(kind: Kind) -> DecodedClips:
            with self._annotate("decode"):
                return self._decoders[kind].decode([sample[kind] for sample in samples])

        for kind, (clips, blank) in zip(self._decoders, self._kind_threads.map(decode, self._decoders), strict=True):
            tensors[kind] = clips.tensor.split(self._num_local)
            ready.append(clips.ready)
            damaged[sample_of[sorted(blank)]] = True
        self._note_damage(reads, videos, damaged)
        return ClipBatch(
            reads.step,
            reads.epoch,
            reads.video_ids,
            reads.deal,
            *tensors["visual"],
            *tensors["motion"],
            damaged=damaged,
            ready=ready,
            counters=self._count(reads, videos, damaged),
            spans={
                "plan": sum(clips.plan_seconds for clips in videos.values()),
                "read": read - started,
                "decode": time.perf_counter() - read,
            },
        )

    def _count(self, reads: "_Reads", videos: dict[int, VideoClips], damaged: np.ndarray) -> dict[str, int]:
        clips = videos.values()
        used = 2 * self._num_local * sum(decoder.num_frames for decoder in self._decoders.values())
        # A JPEG that two clips share is decoded for each, its own crop of it; a video is decoded once for all.
        in_graph = self._source.pixels == "jpeg"
        return {
            "frames_used": used,
            "frames_decoded": used if in_graph else sum(part.frames_decoded for part in clips),
            "bytes_read": sum(part.bytes_read for part in clips),
            "bytes_needed": sum(part.bytes_needed for part in clips),
            "videos_damaged": int(damaged.sum()),
        }

    def _note_damage(self, reads: "_Reads", videos: dict[int, VideoClips], damaged: np.ndarray) -> None:
        """Name each damaged video once; stop where nothing else comes."""
        bad = set(reads.video_ids[damaged].tolist())
        for video in videos:
            self._damaged_in_a_row = self._damaged_in_a_row + 1 if video in bad else 0
            if video in bad - self._named_damaged:
                self._named_damaged.add(video)
                reason = " ".join(videos[video].damage) or "a frame of it cannot be decoded."
                log.warning(
                    "%s is damaged and left out of epoch %d: %s", self._source.videos[video], reads.epoch, reason
                )
            if self._damaged_in_a_row > _MAX_DAMAGED_IN_A_ROW:
                raise DataError(
                    f"the last {self._damaged_in_a_row} videos of {self._source.path} could not be read; the last one: "
                    f"{' '.join(videos[video].damage)} This is more than damaged files: look at the disk or the "
                    "network, then go on with --resume auto."
                )


@dataclass(frozen=True)
class _Reads:
    step: int
    epoch: int
    video_ids: np.ndarray
    deal: np.ndarray
    queries: list[int]
    """Videos of this process's query clips, in order."""
    keys: list[int]
    jobs: dict[int, Job[VideoClips]]

    def cancel(self) -> None:
        for job in self.jobs.values():
            job.cancel()


def _samples(reads: _Reads, videos: dict[int, VideoClips]) -> list[dict[Kind, PlannedClip]]:
    queries = [videos[video].halves[False] for video in reads.queries]
    return queries + [videos[video].halves[True] for video in reads.keys]
