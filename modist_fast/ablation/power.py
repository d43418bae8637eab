"""How large an effect a test would find, from the predictions of one that was run before.

python -m modist_fast.ablation.power OUT/3a.json --data DATA --tasks weizmann ut-interaction
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.evaluation.statistics import Estimate, paired_difference, power


@dataclass(frozen=True)
class PowerConfig:
    """The standard error of a paired difference, and the chance to find effects of several sizes."""

    result: tyro.conf.Positional[Path]
    """Predictions: the JSON of modist ablate."""
    data: Path
    """The folder with manifest.csv, which says what actor or sequence a video is of."""
    tasks: tuple[str, ...] = ("weizmann", "ut-interaction")
    """Tests whose videos are put together."""
    arm: str = "edges-other"
    against: str = "rgb-only"
    effects: tuple[float, ...] = (4.0, 8.0, 12.0, 16.0)
    """Points."""


def pooled_difference(
    result: Mapping[str, Any], groups: Mapping[str, str], tasks: Sequence[str], arm: str, against: str
) -> Estimate:
    """The paired difference of two arms over the videos of several tests.

    Args:
        result: of modist ablate.
        groups: video to its actor or sequence.
    """
    correct: dict[str, dict[str, list[float]]] = {arm: {}, against: {}}
    drawn: list[str] = []
    for task in tasks:
        found = result["evaluations"][task]
        drawn += [groups[video] for video in found["videos"]]
        for name, by_seed in correct.items():
            for seed, predicted in found["predicted"][name].items():
                right = np.equal(predicted, found["labels"]).astype(float)
                by_seed.setdefault(seed, []).extend(right)
    stacked = {
        name: {int(seed): np.array(right) for seed, right in by_seed.items()} for name, by_seed in correct.items()
    }
    return paired_difference(stacked[arm], stacked[against], drawn)


def main() -> int:
    config = parse_options(PowerConfig)
    with (config.data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        groups = {row["file"]: f"{row['set']}/{row['group']}" for row in csv.DictReader(file)}
    result = json.loads(config.result.read_text(encoding="utf-8"))
    found = pooled_difference(result, groups, config.tasks, config.arm, config.against)
    print(f"{config.arm} - {config.against}: {found.mean:+.1f} points, standard error {found.standard_error:.2f}")
    for effect in config.effects:
        chance = power(effect, found.standard_error)
        print(f"a true effect of {effect:g} points would be found with a chance of {chance:.0%}")
    return 0


if __name__ == "__main__":
    run_cli(main)
