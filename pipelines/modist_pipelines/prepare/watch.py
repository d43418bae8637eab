"""Following the workers that make shards: how far they are, and what becomes of a video that ends one."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from modist_pipelines.prepare.shards import ShardMaker, ShardTask, VideoReport
from modist_pipelines.prepare.workers import HUNG, LOST, Pool

logger = logging.getLogger("modist")

_MAX_CRASHES = 2
_MAX_LOSSES = 3  # a machine may go for reasons of its own
_MAX_LOSSES_BEFORE_A_VIDEO = 10


@dataclass
class Deaths:
    """What is done about a worker that ended: its shard is made again, at last without the video that it was at.

    Ends are counted by video, and by shard before its first video. Where machines are lost too, this travels to them,
    and is told there of the losses that came before.
    """

    _ends: Counter[str | int] = field(default_factory=Counter)

    def __call__(self, task: ShardTask, report: VideoReport | None, exit_code: int | None) -> ShardTask:
        """
        Args:
            report: the last of the worker.
            exit_code: of the process; negative is a signal, `HUNG` or `LOST`.

        Returns:
            The task to do in its place.

        Raises:
            RuntimeError: it is not the videos that end workers.
        """
        video = report.video if report is not None else task.videos[0]
        if exit_code == HUNG and report is not None:
            logger.warning("%s did not get on for longer than --video-timeout: its worker was ended", video)
            return replace(task, left_out={**task.left_out, video: ("hung", "the process that read it was ended")})
        if exit_code == LOST:
            ended, most = "with its machine, or was killed", _MAX_LOSSES if report else _MAX_LOSSES_BEFORE_A_VIDEO
        else:
            ended = f"with exit code {exit_code}" if (exit_code or 0) >= 0 else f"with signal {-(exit_code or 0)}"
            most = _MAX_CRASHES
        at = report.video if report is not None else task.shard
        self._ends[at] += 1
        logger.warning("a worker ended %s at %s", ended, video)
        if self._ends[at] < most:
            return task
        if report is None:
            raise RuntimeError(f"worker processes end {ended} before they read a video")
        detail = f"the process that read it ended {ended}"
        return replace(task, left_out={**task.left_out, video: ("crashed", detail)})


class _Bar:
    """Counts videos and frames, each once however often a shard is begun anew."""

    def __init__(self, progress: Progress, num_videos: int, num_done: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("preparing", total=num_videos, completed=num_done, rate="")
        self._seen: set[str] = set()
        self._num_done = num_done
        self._num_frames = 0
        self._going: dict[str, int] = {}

    def on_report(self, task: ShardTask, report: VideoReport) -> None:
        if report.state == "begun" or report.video in self._seen:
            return
        self._num_frames += report.num_nominal_frames - self._going.pop(report.video, 0)
        if report.state == "going":
            self._going[report.video] = report.num_nominal_frames
        else:
            self._seen.add(report.video)
        elapsed = self._progress.tasks[self._bar].elapsed or 0.0
        rate = f"{self._num_frames / elapsed:,.0f} frames/s" if elapsed else ""
        self._progress.update(self._bar, completed=self._num_done + len(self._seen), rate=rate)


def make_shards(missing: Sequence[ShardTask], maker: ShardMaker, pool: Pool, num_videos: int, patience: float) -> None:
    """Make all that are missing, with a bar that counts videos.

    Args:
        num_videos: with those of the shards that are there.
        patience: seconds that a worker may be silent.
    """
    num_missing = sum(len(task.videos) for task in missing)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("videos"))
    columns = (*columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, soft_wrap=True)) as progress:
        bar = _Bar(progress, num_videos, num_videos - num_missing)
        pool.run(missing, maker, bar.on_report, Deaths(), patience)
