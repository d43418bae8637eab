"""How big a store will be and how long it will take, from a sample of its videos."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from modist_pipelines.disk.names import file_path
from modist_pipelines.prepare.shards import ShardMaker
from modist_pipelines.prepare.workers import Pool
from modist_pipelines.store.writer import MotionJpegs, each_jpeg
from modist_pipelines.video.discovery import file_size
from modist_pipelines.video.reader import VideoError, VideoReader

NUM_SAMPLES = 12
SAMPLE_SECONDS = 2.0


@dataclass(frozen=True)
class Estimate:
    """What preparing is expected to take."""

    video_hours: float
    gigabytes: float
    hours: float
    """Wall time with the workers asked for."""
    num_samples: int
    """Videos that the estimate rests on."""
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    """Milliseconds of work for a grid frame by stage: decode, flow, encode (motion maps and JPEGs)."""
    longest: str = ""
    """The video that keeps a worker busy for the longest, by file size, and how long it is."""

    @staticmethod
    def of_nothing() -> "Estimate":
        return Estimate(0.0, 0.0, 0.0, 0)

    def bounded_by(self, longest: "Sample") -> "Estimate":
        """With the longest video, which one worker does from its first frame to its last."""
        length, work = (format_seconds(seconds) for seconds in (longest.duration, longest.hours() * 3600))
        said = f"the longest is {longest.video}: {length} of video, {work} for one worker"
        if longest.hours() > self.hours:
            said += ", so all others are done before it, and their workers help"
        return replace(self, hours=max(self.hours, longest.hours()), longest=said)

    def bottleneck(self) -> str:
        """The stage with the most work, and its share."""
        slowest = max(self.stage_ms, key=self.stage_ms.__getitem__)
        share = self.stage_ms[slowest] / sum(self.stage_ms.values())
        stages = ", ".join(f"{stage} {ms:.1f} ms" for stage, ms in self.stage_ms.items())
        return f"{slowest}, {100 * share:.0f} % of the work (for a stored frame: {stages})"

    def __str__(self) -> str:
        if self.num_samples == 0:
            return "estimate: none, since no video of the sample could be decoded"
        return (
            f"estimate: {_number(self.video_hours)} h of video, store of {_number(self.gigabytes)} GB, "
            f"{format_seconds(self.hours * 3600)} (from {SAMPLE_SECONDS:g} s of {self.num_samples} videos)"
            + (f"\n{self.longest}" if self.longest else "")
            + (f"\nmost of the time goes to {self.bottleneck()}" if self.stage_ms else "")
        )


class Sample(NamedTuple):
    """What a piece of one video took."""

    file_bytes: int
    duration: float
    """Seconds of the whole video."""
    seconds: float
    """Seconds of video in the piece."""
    stored_bytes: int
    cost: float
    """Seconds of work for the piece."""
    num_frames: int = 0
    """Grid frames of the piece."""
    stages: Mapping[str, float] = {}
    """Seconds of `cost` by stage."""
    video: str = ""

    def hours(self) -> float:
        """Of one worker, for the whole video."""
        return self.duration * self.cost / self.seconds / 3600


class _Counter:
    """A sink that keeps nothing but the number of bytes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_frames = 0

    def append(self, rgb: bytes, motion: Mapping[str, tuple[MotionJpegs, float]]) -> None:
        self.num_frames += 1
        self.num_bytes += len(rgb) + sum(len(jpeg) for jpegs, _ in motion.values() for jpeg in each_jpeg(jpegs))


@dataclass
class _Sampler:
    """The work of a worker process: encode the beginning of a video."""

    maker: ShardMaker
    _is_warm: bool = False

    def __call__(self, video: str, report: Callable[[Sample], None]) -> None:
        path = file_path(self.maker.videos, video)
        counter = _Counter()
        encoder = self.maker.encoder()
        try:
            if not self._is_warm:  # what is done once in a process is not part of the price of a video
                encoder.encode(path, _Counter(), max_seconds=SAMPLE_SECONDS)
                self._is_warm = True
            before = dict(encoder.seconds)
            began = time.perf_counter()
            encoded = encoder.encode(path, counter, max_seconds=SAMPLE_SECONDS)
            cost = time.perf_counter() - began
            stages = {stage: total - before[stage] for stage, total in encoder.seconds.items()}
            seconds = encoded.num_nominal_frames / self.maker.meta.fps
            with VideoReader(path, self.maker.meta.frames_fps) as reader:
                duration = reader.duration or seconds
        except VideoError:
            return  # the run itself will say what is wrong with it
        if num_bytes := file_size(path):  # else it has been removed meanwhile
            sample = Sample(num_bytes, duration, seconds, counter.num_bytes, cost, counter.num_frames, stages, video)
            report(sample)


def estimate(videos: Sequence[str], maker: ShardMaker, pool: Pool, patience: float | None = None) -> Estimate:
    """Sample evenly spread videos; durations follow from the file sizes.

    Args:
        patience: seconds after which a video is given up.
    """
    step = max(1, len(videos) // NUM_SAMPLES)
    sizes = {video: file_size(file_path(maker.videos, video)) for video in videos}
    chosen = videos[step // 2 :: step][:NUM_SAMPLES]
    largest = max(videos, key=sizes.__getitem__)
    samples: dict[str, Sample] = {}
    pool.run(
        list(dict.fromkeys([*chosen, largest])),
        _Sampler(maker),
        on_report=lambda task, sample: samples.update({sample.video: sample}),
        on_death=lambda task, sample, code: None,
        patience=patience,
    )
    spread = [samples[video] for video in chosen if video in samples]
    expected = extrapolate(spread or list(samples.values()), sum(sizes.values()), pool.num_workers)
    return expected.bounded_by(samples[largest]) if largest in samples and len(videos) > 1 else expected


def extrapolate(samples: Sequence[Sample], total_bytes: int, num_workers: int) -> Estimate:
    """From pieces of some videos to all of them."""
    if not samples:
        return Estimate.of_nothing()
    sampled = sum(sample.seconds for sample in samples)
    seconds = total_bytes * sum(s.duration for s in samples) / sum(s.file_bytes for s in samples)
    return Estimate(
        video_hours=seconds / 3600,
        gigabytes=seconds * sum(s.stored_bytes for s in samples) / sampled / 1e9,
        hours=seconds * sum(s.cost for s in samples) / sampled / num_workers / 3600,
        num_samples=len(samples),
        stage_ms=_stage_ms(samples),
    )


def _stage_ms(samples: Sequence[Sample]) -> dict[str, float]:
    num_frames = sum(sample.num_frames for sample in samples)
    totals: Counter[str] = Counter()
    for sample in samples:
        totals.update(sample.stages)
    return {stage: 1e3 * seconds / max(1, num_frames) for stage, seconds in totals.items() if seconds}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def format_seconds(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{_number(seconds / 60)} min" if seconds < 5400 else f"{_number(seconds / 3600)} h"
