"""How large an effect a test would find, from the predictions of one that was run before."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modist_fast.ablation.arms import Table
from modist_fast.errors import ConfigError
from modist_fast.evaluation.statistics import Estimate, paired_difference, power

_EFFECTS = (4, 8, 12, 16)  # points


def power_lines(path: Path, data: Path, table: Table) -> Iterator[str]:
    """For each of the table's pools and its first comparison: standard error, and the chance to find an effect.

    Args:
        path: what another table wrote, with predictions for the same videos.
        data: the folder with manifest.csv, which says what actor or sequence a video is of.

    Raises:
        ConfigError: the table has no pools, or the file lacks a test or an arm.
    """
    if not table.pools:
        raise ConfigError("--power is for a table that puts tests together: use --table inductive.")
    with (data / "manifest.csv").open(encoding="utf-8", newline="") as file:
        groups = {row["file"]: f"{row['set']}/{row['group']}" for row in csv.DictReader(file)}
    result = json.loads(path.read_text(encoding="utf-8"))
    arm, against = table.comparisons[0]
    for pool in table.pools:
        try:
            found = pooled_difference(result, groups, pool.tasks, arm, against)
        except KeyError as error:
            raise ConfigError(
                f"--power {path} has no {error}: give the JSON of a table with {arm}, {against} and {pool.tasks}."
            ) from error
        yield f"{pool.title}: {arm} - {against} {found.mean:+.1f} points, standard error {found.standard_error:.2f}"
        for effect in _EFFECTS:
            yield f"  an effect of {effect} points would be found with {power(effect, found.standard_error):.0%}"


def pooled_difference(
    result: Mapping[str, Any], groups: Mapping[str, str], tasks: Sequence[str], arm: str, against: str
) -> Estimate:
    """The paired difference of two arms over the videos of several tests.

    Args:
        result: of modist ablate.
        groups: video to its actor or sequence.

    Raises:
        KeyError: a test or an arm that is not there.
    """
    correct: dict[str, dict[int, list[float]]] = {arm: {}, against: {}}
    drawn: list[str] = []
    for task in tasks:
        found = result["evaluations"][task]
        drawn += [groups[video] for video in found["videos"]]
        for name, by_seed in correct.items():
            for seed, predicted in found["predicted"][name].items():
                by_seed.setdefault(int(seed), []).extend(np.equal(predicted, found["labels"]).astype(float))
    first, second = ({seed: np.array(right) for seed, right in by_seed.items()} for by_seed in correct.values())
    return paired_difference(first, second, drawn)
