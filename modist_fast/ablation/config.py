"""Options of an ablation. Without torch, so that they are read at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from modist_fast.ablation.questions import TableName
from modist_pipelines.ranges import COUNT, FROM_ZERO, OPEN_SHARE, ranged


@dataclass(frozen=True)
class AblationConfig:
    """Run an ablation table: its arms, equally many steps each, several seeds, then linear probes.

    3a to 3d are the paper's. The others are the questions of docs/evidence.md, on real videos, which need --data.

    Run it again after an interruption: only what is missing is done.
    """

    table: TableName
    """Which table: one of the paper's, or a question of docs/evidence.md."""
    out: Path
    """Takes the runs, the evaluations, and at last TABLE.md, TABLE.png, TABLE-curves.png and TABLE.json. Tables that
    are given the same folder share the runs that they have in common."""
    preset: Literal["small", "k400-mini", "modist-r50"] = "small"
    """small: minutes an arm on one CPU core, on the made-up videos and on those of --data; k400-mini: the paper's
    experiments, on --store, for a machine with GPUs; modist-r50: the same on all of K400, as its Table 3d is."""
    data: Path | None = None
    """small: a folder of UT-Interaction, Weizmann and part of UCF101 with their manifest.csv."""
    store: Path | None = None
    """k400-mini, modist-r50: the store to train on. It must hold the table's motion inputs."""
    evaluate: tuple[str, ...] = ()
    """k400-mini, modist-r50: "NAME: OPTIONS of modist evaluate linear", such as "ucf101: --store UCF --train-list
    trainlist01.txt --test-list testlist01.txt --recipe sgd"."""
    arms: tuple[str, ...] = ()
    """Only these arms of the table; by default all. More can be added by a later call."""
    seeds: tuple[int, ...] = ranged((), FROM_ZERO)
    """Each arm is trained once with each of these; by default 0 1 2, or those that a question asks for."""
    jobs: int = ranged(1, COUNT)
    """Commands side by side."""
    processes: int = ranged(1, COUNT)
    """Of each pre-training run and evaluation: more than 1 starts them by torchrun."""
    reject_share: float | None = ranged(None, OPEN_SHARE)
    """Instead of the preset's γ (--clips.motion-threshold), the one that rejects this share of the store's motion
    windows, such as 0.15; of every arm with a motion pathway, but for Table 3c's without a threshold."""
    options: str = ""
    """More options of modist pretrain, for all arms alike: --options="--epochs 5", with the equals sign."""
    sets: tuple[Literal["demo", "real"], ...] = ("demo", "real")
    """small: the made-up videos, those of --data, or both. They share nothing, and can be run one after the other. The
    questions of docs/evidence.md take those of --data in any case."""
    demo_videos: int = ranged(6000, COUNT)
    """small: how many videos to make."""
    power: Path | None = None
    """inductive: run nothing, and print how large an effect the table would find, from the predictions in this JSON of
    a table that was run before."""
    dry_run: bool = False
    """Print the commands and run none."""
