"""Classes of videos: [torchrun … -m modist_fast | modist] predict VIDEOS --classifier OUT [--out FILE.csv]

OUT is what `modist evaluate linear`, `finetune` or `supervised` wrote.
"""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from modist_fast.commands.cli import parse_options, starting
from modist_fast.config import OutKind
from modist_fast.errors import ConfigError
from modist_fast.evaluation.config import BackboneConfig, FeaturesConfig
from modist_fast.evaluation.frozen.config import PlainVideosConfig
from modist_fast.host.choices import COLLECTIVE_TIMEOUT, DeviceOption
from modist_fast.host.whole_file import whole_file
from modist_pipelines.ranges import COUNT, FRAME_RATE, POSITIVE, ranged

if TYPE_CHECKING:  # --help and a wrong option need not wait for torch
    from modist_fast.evaluation.frozen.plain_videos import FeatureTable

log = logging.getLogger("modist")
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Show a trained classifier videos that it has not seen; they need no labels."""

    out_is: ClassVar[OutKind] = "file"
    videos: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """A folder of videos, some files, or a store."""
    frames_fps: float = ranged(30.0, FRAME_RATE)
    """Frames a second of raw videos that are folders of pictures (img_00001.jpg)."""
    classifier: Path
    """The --out of modist evaluate linear, finetune or supervised."""
    out: Path
    """A CSV file: video, start, end in seconds, then the classes with their probabilities, the likeliest first.
    FILE.parts beside it keeps the features: a killed call goes on."""
    backbone: str | None = None
    """Where the classifier's backbone is now, if not where it was."""
    top: int = ranged(5, COUNT)
    """How many classes of each video."""
    every: float | None = ranged(None, POSITIVE)
    """One answer for a clip every so many seconds, in place of one for the video."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    device: DeviceOption = "auto"
    """Where to compute. auto: on a GPU where there is one that torch can use."""
    collective_timeout: float = ranged(COLLECTIVE_TIMEOUT, COUNT)
    """Seconds that a process waits for the others in one exchange before it gives up."""


def main() -> None:
    config = parse_options(PredictConfig, description=__doc__)
    if config.out.suffix != ".csv":
        raise ConfigError(f"--out {config.out}: name a file that ends in .csv.")
    starting()  # what comes now imports torch
    from modist_fast.evaluation.backbones import RANDOM, open_backbone
    from modist_fast.evaluation.classifier_file import read_classifier
    from modist_fast.evaluation.frozen.plain_videos import run_features
    from modist_fast.host.distributed import join_world

    found = read_classifier(config.classifier)
    network = BackboneConfig(backbone=config.backbone or found.backbone)
    if Path(found.backbone).name.partition(":")[0] == RANDOM and config.backbone is None:
        raise ConfigError(
            f"--classifier {config.classifier} was trained on features of a random network, which was not kept. "
            "Train it on a backbone that is a file: modist evaluate linear --backbone RUN."
        )
    if found.views is None:
        raise ConfigError(
            f"--classifier {config.classifier} answers for boxes, not for videos: run modist evaluate ava."
        )
    found.check(open_backbone(network), config.classifier)
    plain = PlainVideosConfig(
        videos=config.videos,
        network=network,
        out=config.out,
        every=config.every,
        frames_fps=config.frames_fps,
        views=found.views,
        features=config.features,
        device=config.device,
        collective_timeout=config.collective_timeout,
    )
    with join_world(config.device, config.collective_timeout) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        table = run_features(plain, world)
        if world.is_main:
            probabilities = found.probabilities(table.features)
            write_predictions(config.out, table, probabilities, found.classes, config.top)
            _show(table, probabilities, found.classes)
            for name, reason in table.odd.items():
                log.warning("WARNING: %s: %s", name, reason)
            print(f"{len(table.names)} rows, {len(table.odd)} videos odd: {config.out}")


def write_predictions(
    out: Path, table: "FeatureTable", probabilities: np.ndarray, classes: Sequence[str], top: int
) -> None:
    """Write a CSV file, a row a video or clip.

    Args:
        probabilities: (N, K)
        classes: K names.
    """
    top = min(top, len(classes))
    with whole_file(out) as half, half.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        places = [name for rank in range(1, top + 1) for name in (f"class{rank}", f"probability{rank}")]
        writer.writerow(["video", "start", "end", *places])
        for name, times, row in zip(table.names, table.times, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            cells = [cell for place in best for cell in (classes[place], f"{row[place]:.6f}")]
            writer.writerow([name, f"{times[:, 0].min():.3f}", f"{times[:, 1].max():.3f}", *cells])


def _show(table: "FeatureTable", probabilities: np.ndarray, classes: Sequence[str]) -> None:
    shown = Table("video", "seconds", "class", "probability")
    for name, times, row in list(zip(table.names, table.times, probabilities, strict=True))[:_SHOWN]:
        best = int(row.argmax())
        seconds = f"{times[:, 0].min():.1f} to {times[:, 1].max():.1f}"
        shown.add_row(name, seconds, classes[best], f"{row[best]:.0%}")
    Console().print(shown)
