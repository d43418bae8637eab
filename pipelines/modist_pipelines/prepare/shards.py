"""Making the shards of a store: which video goes where, and the work of one worker process."""

import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import pyarrow as pa

from modist_pipelines.disk.durable import free_gigabytes
from modist_pipelines.disk.names import file_path
from modist_pipelines.errors import DataError
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.flow import EstimatorName, FlowDevice, make_flow_estimator
from modist_pipelines.prepare.growth import source_row
from modist_pipelines.prepare.motion import EdgeFunction, MotionMaps
from modist_pipelines.prepare.partial import PartialStore
from modist_pipelines.prepare.workers import share_of_workers, worker_number
from modist_pipelines.store.reader import StoreMeta
from modist_pipelines.store.writer import SOURCES_SCHEMA, ShardWriter, quarantine_table
from modist_pipelines.video.discovery import file_size, folder_label
from modist_pipelines.video.picture import PictureRules
from modist_pipelines.video.reader import VideoError

# Enough shards that many workers stay busy to the end, few enough that a shard stays worth opening.
_MANY_SHARDS = 128
_MAX_VIDEOS_PER_SHARD = 64
_REPORT_EVERY = 0.5  # seconds; well below the shortest --video-timeout


@dataclass(frozen=True)
class ShardTask:
    """The videos of one shard. Which they are depends on the list of videos alone, never on the workers."""

    shard: int
    videos: tuple[str, ...]
    labels: Mapping[str, str | None] | None = None
    """By a list of videos; None takes the names of their folders."""
    left_out: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Videos that end or stop their process, with the reason and what was seen."""


class VideoReport(NamedTuple):
    """What a worker says of a video."""

    video: str
    state: Literal["begun", "going", "kept", "quarantined"]
    num_nominal_frames: int = 0
    """So far."""


def plan_shards(
    videos: Sequence[str], labels: Mapping[str, str | None] | None = None, first: int = 0
) -> list[ShardTask]:
    """Deal sorted videos to shards, in order, numbered from `first` on."""
    size = min(_MAX_VIDEOS_PER_SHARD, -(-len(videos) // _MANY_SHARDS))
    starts = range(0, len(videos), max(size, 1))
    chunks = [tuple(videos[start : start + size]) for start in starts]
    return [
        ShardTask(number, chunk, {video: labels[video] for video in chunk} if labels is not None else None)
        for number, chunk in enumerate(chunks, first)
    ]


def largest_first(tasks: Sequence[ShardTask], root: Path) -> list[ShardTask]:
    """In the order in which workers begin them, so that none comes to a long video when the others are done."""

    def num_bytes(task: ShardTask) -> int:
        return sum(file_size(file_path(root, video)) for video in task.videos)

    return sorted(tasks, key=num_bytes, reverse=True)


@dataclass
class ShardMaker:
    """The work of a worker process: encode the videos of a shard. Travels to the process by pickle."""

    videos: Path
    store: Path
    meta: StoreMeta
    edge_function: EdgeFunction
    raft_weights: Path | None
    device: FlowDevice
    num_gpus: int = 0
    """That flow is computed on, worker i on GPU i modulo their number; 0 computes it on the CPU."""
    gigabytes: float = 0.0
    """That a run is expected to write; 0 where nobody knows."""
    _encoder: VideoEncoder | None = field(default=None, init=False)

    def _room(self) -> str:
        if not self.gigabytes:
            return ""
        free = free_gigabytes(self.store)
        return f"By the estimate this call writes {self.gigabytes:,.2f} GB in all; {free:,.2f} GB are free now. "

    def __call__(self, task: ShardTask, report: Callable[[VideoReport], None]) -> None:
        partial = PartialStore(self.store)
        partial.check_seen()
        names = list(self.meta.motion_inputs)
        quarantine: list[dict[str, str]] = []
        sources: list[dict[str, str | int]] = []
        try:
            with ShardWriter(self.store, task.shard, names, partial.temporary(task.shard)) as writer:
                for video in task.videos:
                    if video in task.left_out:
                        reason, detail = task.left_out[video]
                        quarantine.append({"video": video, "reason": reason, "detail": detail})
                        report(VideoReport(video, "quarantined"))
                        continue
                    report(VideoReport(video, "begun"))
                    progress = _Progress(video, report)
                    with contextlib.suppress(OSError):  # the encoder says that it cannot be read
                        sources.append(source_row(video, file_path(self.videos, video), progress))
                    report(self._add(video, task, writer, quarantine, progress))
                index = writer.table()
            files = pa.Table.from_pylist(sources, schema=SOURCES_SCHEMA)
            partial.finish(task.shard, index, quarantine_table(quarantine), files)
        except OSError as error:
            raise DataError(
                f"Writing shard {task.shard} of {self.store} failed: {error.strerror or error}. {self._room()}"
                "Make room, or mend the disk, and run the same command again: it does only what is missing."
            ) from error

    def encoder(self) -> VideoEncoder:
        """The encoder of this process, made at its first video."""
        if self._encoder is None:
            if self.num_gpus:
                import torch  # flow that runs on a GPU has it anyway

                torch.cuda.set_device(worker_number() % self.num_gpus)
            self._encoder = make_encoder(self.meta, self.edge_function, self.raft_weights, self.device)
        return self._encoder

    def _add(
        self,
        video: str,
        task: ShardTask,
        writer: ShardWriter,
        quarantine: list[dict[str, str]],
        progress: Callable[[int], None],
    ) -> VideoReport:
        try:
            encoded = self.encoder().encode(
                file_path(self.videos, video), writer, on_progress=progress, share=share_of_workers
            )
        except VideoError as error:
            writer.drop_video()
            quarantine.append({"video": video, "reason": error.reason, "detail": error.detail})
            return VideoReport(video, "quarantined")
        label = folder_label(video) if task.labels is None else task.labels[video]
        writer.finish_video(
            video,
            label=label,
            width=encoded.width,
            height=encoded.height,
            source_fps=encoded.source_fps,
            num_source_frames=encoded.num_source_frames,
            note=encoded.note,
        )
        return VideoReport(video, "kept", encoded.num_nominal_frames)


class _Progress:
    """Says that a video is getting on, not too often."""

    def __init__(self, video: str, report: Callable[[VideoReport], None]) -> None:
        self._video, self._report = video, report
        self._next = time.monotonic() + _REPORT_EVERY

    def __call__(self, num_nominal_frames: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_EVERY
            self._report(VideoReport(self._video, "going", num_nominal_frames))


def make_encoder(
    meta: StoreMeta, edge_function: EdgeFunction, raft_weights: Path | None, device: FlowDevice
) -> VideoEncoder:
    """An encoder for this process, which is to use one thread: the parallelism is over videos."""
    cv2.setNumThreads(1)
    motion = MotionMaps(meta.motion_inputs, edge_function, gain=meta.sobel_gain, border=meta.border)
    codec_motion = motion.needs_flow and meta.flow == "codec"
    flow = None
    if motion.needs_flow and not codec_motion:
        name: EstimatorName = meta.flow  # type: ignore[assignment]
        flow = make_flow_estimator(name, raft_weights, device)
    if torch := sys.modules.get("torch"):  # only where the edge function or the flow brought it in
        torch.set_num_threads(1)
    return VideoEncoder(
        short_side=meta.short_side,
        fps=meta.fps,
        grid=meta.grid,
        jpeg_quality=meta.jpeg_quality,
        flow=flow,
        motion=motion,
        rules=PictureRules(meta.aspect, meta.untagged_hd, meta.size_change),
        frames_fps=meta.frames_fps,
        codec_motion=codec_motion,
    )
