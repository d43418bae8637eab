"""Flow edges of the codec's motion vectors, and of RAFT where its weights are, against those of DIS.

    modist bench flows FOLDER … [--every 5] [--short-side 144] [--raft-small FILE] [--json FILE]

The same frames of the same videos are prepared once with each flow. Scores (the mean edge of a frame) are correlated
over the videos (the mean of each) and over the frames of a video (the mean of the videos' correlations); maps, blurred
by 4 pixels, over their pixels. Times are those of one thread, of a stored frame: decoding, which for the codec has the
painting of its vectors, flow, and edges and JPEGs. Also: the motion threshold that rejects as many frames as 0.02 does
with DIS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import tyro

from modist_fast.commands.cli import parse_options
from modist_fast.commands.edge_map import edge_map
from modist_fast.errors import ConfigError
from modist_pipelines.disk.names import file_path
from modist_pipelines.motion_inputs import FramePairs
from modist_pipelines.prepare.encode import VideoEncoder
from modist_pipelines.prepare.flow import FlowEstimator, make_flow_estimator
from modist_pipelines.prepare.motion import MotionMaps, motion_scales
from modist_pipelines.ranges import COUNT, Range, ranged
from modist_pipelines.source import SCORE_FULL_SCALE
from modist_pipelines.video.discovery import discover_videos
from modist_pipelines.video.reader import VideoError
from modist_profiling.frame.report import Report, conditions, print_rows
from modist_profiling.frame.rows import Row

CLAMP = 10.0
THRESHOLD = 0.02
BLUR = 4.0  # pixels: maps are compared in where they are bright, not line by line
_STILL = 0.05  # of a score: maps of frames in which nothing moves correlate by their noise


@dataclass(frozen=True)
class Options(Report):
    """Flows against DIS."""

    videos: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folders of videos."""
    every: int = ranged(1, COUNT)
    """Take every so many of the videos of a folder."""
    short_side: int = ranged(144, Range(32, 4096))
    """Pixels of the shorter side of the frames."""
    raft_small: Path | None = None
    """Weights of torchvision's RAFT small, to compare it too."""


@dataclass
class Prepared:
    """What one flow makes of one video."""

    scores: np.ndarray
    """(F,) float64, shares of full scale."""
    maps: list[np.ndarray]
    """(H, W) uint8 each."""
    num_bytes: int
    """Of the maps as JPEGs."""
    ms: Mapping[str, float]
    """Of a stored frame, by stage."""


class FlowRow(Row):
    """A flow; its turns are videos."""

    unit = "ms a stored frame"
    found: dict[str, float]

    def cells(self) -> dict[str, str]:
        return {**{name: f"{value:.3g}" for name, value in self.found.items()}, **super().cells()}


@dataclass
class _Sink:
    num_bytes: int = 0
    num_frames: int = 0

    def append(self, rgb: bytes, motion: Mapping[str, Any]) -> None:
        self.num_frames += 1
        self.num_bytes += sum(len(jpeg) for jpeg in motion["edges"][0])


@dataclass
class _Kept:
    """Motion maps, of which the pixels are kept."""

    maps: MotionMaps
    needs_flow: bool = True
    pixels: list[np.ndarray] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def __call__(self, pairs: FramePairs) -> list[dict[str, tuple[np.ndarray, float]]]:
        found = self.maps(pairs)
        self.pixels += [one["edges"][0][0] for one in found]
        self.scores += [one["edges"][1] / SCORE_FULL_SCALE for one in found]
        return found


def prepared(path: Path, flow: str, estimator: FlowEstimator | None, short_side: int) -> Prepared:
    """
    Raises:
        VideoError: it cannot be used.
    """
    kept = _Kept(MotionMaps(motion_scales(["edges"], CLAMP), edge_map, gain=1.0, border="replicate"))
    encoder = VideoEncoder(
        short_side=short_side,
        fps=30.0,
        grid=4,
        jpeg_quality=90,
        flow=estimator,
        motion=kept,  # type: ignore[arg-type]
        codec_motion=flow == "codec",
    )
    sink = _Sink()
    encoder.encode(path, sink)
    ms = {stage: 1e3 * seconds / sink.num_frames for stage, seconds in encoder.seconds.items()}
    return Prepared(np.array(kept.scores), kept.pixels, sink.num_bytes, ms)


def compared(found: Sequence[Prepared], against: Sequence[Prepared]) -> dict[str, float]:
    """How well one flow's edges of some videos agree with another's of the same."""
    means = [np.array([one.scores.mean() for one in videos]) for videos in (found, against)]
    pairs = list(zip(found, against, strict=True))
    times = [correlation(one.scores, other.scores) for one, other in pairs]
    maps = [_map_correlation(one, other) for one, other in pairs]
    return {
        "r over videos": correlation(*means),
        "r of logarithms": correlation(*(np.log(mean + 1e-4) for mean in means)),
        "r over time": float(np.nanmean(times)),
        "r of maps": float(np.nanmean(maps)),
        "score / DIS": float(means[0].mean() / means[1].mean()),
    }


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN where one of them does not vary."""
    if len(one) < 2 or min(one.std(), other.std()) < 1e-9:
        return float("nan")
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _map_correlation(one: Prepared, other: Prepared) -> float:
    found = [
        correlation(*(cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), BLUR) for pixels in (mine, theirs)))
        for mine, theirs, score in zip(one.maps, other.maps, other.scores, strict=True)
        if score * CLAMP > _STILL
    ]
    return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")


def equal_threshold(found: Sequence[Prepared], against: Sequence[Prepared]) -> tuple[float, float]:
    """The threshold that rejects as many frames as `THRESHOLD` does with the other flow, and their share."""
    scores, theirs = (np.concatenate([one.scores for one in videos]) for videos in (found, against))
    share = float((theirs <= THRESHOLD).mean())
    return float(np.quantile(scores, share)), share


def measure(options: Options) -> tuple[list[FlowRow], dict[str, float]]:
    """
    Raises:
        ConfigError: no video can be used by all flows.
    """
    estimators: dict[str, FlowEstimator | None] = {"dis": make_flow_estimator("dis", None), "codec": None}
    if options.raft_small is not None:
        estimators["raft-small"] = make_flow_estimator("raft-small", options.raft_small, "cpu")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    by_folder: dict[str, dict[str, list[Prepared]]] = {}
    for root in options.videos:
        for video in discover_videos(root)[0][options.every // 2 :: options.every]:
            try:
                found = {
                    flow: prepared(file_path(root, video), flow, estimator, options.short_side)
                    for flow, estimator in estimators.items()
                }
            except VideoError as error:
                print(f"left out: {root.name}/{video}: {error}")
                continue
            for flow, one in found.items():
                by_folder.setdefault(root.name, {}).setdefault(flow, []).append(one)
    if not by_folder:
        folders = " ".join(map(str, options.videos))
        raise ConfigError(f"FOLDER {folders}: no video of it can be used. Give a folder of H.264 or MPEG-4 videos.")
    everything = {flow: [one for flows in by_folder.values() for one in flows[flow]] for flow in estimators}
    if len(by_folder) > 1:
        by_folder["all"] = dict(everything)
    rows = [_row(folder, flow, flows) for folder, flows in by_folder.items() for flow in flows]
    threshold, share = equal_threshold(everything["codec"], everything["dis"])
    agreement = compared(everything["codec"], everything["dis"])
    ratios = {f"codec, {name}": value for name, value in agreement.items()}
    ratios |= {f"share of frames that {THRESHOLD} rejects, DIS": share, "codec, threshold of that share": threshold}
    return rows, ratios


def _row(folder: str, flow: str, flows: Mapping[str, Sequence[Prepared]]) -> FlowRow:
    own = flows[flow]
    num_frames = sum(len(one.scores) for one in own)
    row = FlowRow(f"{folder}: {len(own)} videos, {num_frames} stored frames", flow)
    row.times = [sum(one.ms.values()) for one in own]
    stages = {f"{stage} ms": float(np.mean([one.ms[stage] for one in own])) for stage in own[0].ms}
    size = {"KB a map": sum(one.num_bytes for one in own) / num_frames / 1e3}
    row.found = {**(compared(own, flows["dis"]) if flow != "dis" else {}), **size, **stages}
    return row


def main() -> None:
    options = parse_options(Options, description=__doc__)
    rows, ratios = measure(options)
    print_rows(rows)
    options.give(rows, ratios, conditions(torch.device("cpu")))
