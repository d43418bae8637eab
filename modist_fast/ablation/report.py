"""The outcome of an ablation: JSON with every prediction, a Markdown table, a plot with intervals."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from modist_fast.ablation.arms import Pool
from modist_fast.ablation.colors import arm_colors
from modist_fast.ablation.corpora import Corpus, Evaluation, listed_videos
from modist_fast.ablation.experiment import Ablation, Run
from modist_fast.evaluation.statistics import estimate, paired_difference
from modist_fast.host.environment import environment
from modist_fast.watch.run_log import read_metrics

_PAGE_WIDTH = 9.0  # inches; at 100 dots an inch as wide as a page of text on a screen
Scores = dict[str, dict[int, np.ndarray]]  # arm, seed: (V,) 1 where a video was classified correctly


@dataclass(frozen=True)
class _Tested:
    """What all arms of one evaluation said of its V test videos."""

    title: str
    videos: list[str]
    labels: list[str]
    folds: list[str]
    """Where groups were left out: the group of each."""
    unseen: np.ndarray
    """(V,) bool: whether it was not in the unlabelled pre-training set."""
    scores: Scores
    predicted: dict[str, dict[int, list[str | None]]]
    chance: float
    shape_probe: dict[str, Any]

    @property
    def groups(self) -> list[str] | None:
        """Leave-one-group-out: a fold is a group. Otherwise all test videos are of one fold, which says nothing."""
        return self.folds if len(set(self.folds)) > 1 else None


def write_report(ablation: Ablation) -> dict[str, Any]:
    """Write OUT/TABLE.json, OUT/TABLE.md and OUT/TABLE.png from all the evaluations that are there."""
    out, name = ablation.config.out, ablation.config.table
    tested = {
        evaluation: found
        for corpus in ablation.corpora
        for evaluation in corpus.evaluations
        if (found := _tested(ablation, corpus, evaluation)) is not None
    }
    pairs = ablation.table.comparisons
    if pools := ablation.table.pools:
        evaluations = {
            pool.name: _summary(_pooled(pool, parts), pairs)
            for pool in pools
            if (parts := [found for evaluation, found in tested.items() if evaluation.task in pool.tasks])
        }
    else:
        evaluations = {evaluation.name: _summary(found, pairs) for evaluation, found in tested.items()}
    result: dict[str, Any] = {
        "table": name,
        "preset": ablation.config.preset,
        "seeds": list(ablation.config.seeds),
        "arms": {arm.name: {"title": arm.title, "options": list(arm.options)} for arm in ablation.table.arms},
        "failed": ablation.failed,
        "environment": environment(),
        "runs": _costs(ablation),
        "evaluations": evaluations,
    }
    (out / f"{name}.json").write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(markdown(result), encoding="utf-8")
    if evaluations:
        save_plot(out / f"{name}.png", result)
    return result


def _costs(ablation: Ablation) -> dict[str, dict[str, float]]:
    """Steps and seconds of every run that wrote some."""
    costs = {}
    for run in ablation.runs():
        path = ablation.folder(run) / "metrics.jsonl"
        if path.exists():
            rows = read_metrics(path)
            sums = {name: round(sum(row[name] for row in rows), 1) for name in ("seconds", "cpu_seconds")}
            costs[run.name] = {"steps": len(rows), **sums}
    return costs


def _tested(ablation: Ablation, corpus: Corpus, evaluation: Evaluation) -> _Tested | None:
    """One evaluation of all arms and seeds; None where there is none yet."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in ablation.table.arms:
        for seed in ablation.config.seeds:
            path = ablation.test_folder(Run(corpus, arm, seed), evaluation) / "result.json"
            if path.exists():
                results.setdefault(arm.name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    if not results:
        return None
    first = next(iter(next(iter(results.values())).values()))
    videos = [row["video"] for row in first["videos"]]
    seen = listed_videos(corpus)
    return _Tested(
        evaluation.title,
        videos,
        [row["label"] for row in first["videos"]],
        [row["fold"] for row in first["videos"]],
        np.array([video not in seen for video in videos]),
        {arm: {seed: _correct(result, videos) for seed, result in by_seed.items()} for arm, by_seed in results.items()},
        {arm: {seed: _predicted(one, videos) for seed, one in by_seed.items()} for arm, by_seed in results.items()},
        first["chance"],
        first["shape_probe"],
    )


def _pooled(pool: Pool, parts: Sequence[_Tested]) -> _Tested:
    """The videos that the nets of each part had not seen, put together; arms and seeds that all parts have."""
    kept = [np.flatnonzero(part.unseen) for part in parts]
    weights = [len(places) for places in kept]

    def joined(column: Callable[[_Tested], Any]) -> list[Any]:
        return [column(part)[place] for part, places in zip(parts, kept, strict=True) for place in places.tolist()]

    arms = {
        arm: [seed for seed in by_seed if all(seed in part.scores.get(arm, {}) for part in parts)]
        for arm, by_seed in parts[0].scores.items()
    }
    arms = {arm: seeds for arm, seeds in arms.items() if seeds}
    return _Tested(
        f"{pool.title}: {sum(weights)} videos, none seen",
        joined(lambda part: part.videos),
        joined(lambda part: part.labels),
        joined(lambda part: part.folds),
        np.ones(sum(weights), bool),
        {
            arm: {seed: np.array(joined(lambda part: part.scores[arm][seed])) for seed in seeds}  # noqa: B023
            for arm, seeds in arms.items()
        },
        {
            arm: {seed: joined(lambda part: part.predicted[arm][seed]) for seed in seeds}  # noqa: B023
            for arm, seeds in arms.items()
        },
        float(np.average([part.chance for part in parts], weights=weights)),
        {"top1": float(np.average([part.shape_probe["top1"] for part in parts], weights=weights))},
    )


def _summary(tested: _Tested, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Scores, intervals and differences, JSON-ready."""
    pairs = [pair for pair in pairs if tested.scores.keys() >= set(pair)]
    found: dict[str, Any] = {
        "title": tested.title,
        "chance": tested.chance,
        "shape_probe": tested.shape_probe,
        "all": _compare(tested.scores, pairs, tested.groups),
    }
    unseen = tested.unseen
    if 0 < unseen.sum() < len(unseen):
        kept = {arm: {seed: row[unseen] for seed, row in by_seed.items()} for arm, by_seed in tested.scores.items()}
        groups = None if tested.groups is None else [tested.groups[place] for place in np.flatnonzero(unseen)]
        found["unseen"] = {"videos": int(unseen.sum()), **_compare(kept, pairs, groups)}
    said = {name for by_seed in tested.predicted.values() for names in by_seed.values() for name in names if name}
    classes = sorted(said.union(tested.labels))
    places = {name: place for place, name in enumerate(classes)}
    return found | {
        "classes": classes,
        "videos": tested.videos,
        "labels": [places[label] for label in tested.labels],
        # -1 where there was no prediction.
        "predicted": {
            arm: {seed: [-1 if name is None else places[name] for name in names] for seed, names in by_seed.items()}
            for arm, by_seed in tested.predicted.items()
        },
    }


def _compare(scores: Scores, pairs: Sequence[tuple[str, str]], groups: Sequence[str] | None) -> dict[str, Any]:
    return {
        "arms": {arm: asdict(estimate(by_seed, groups)) for arm, by_seed in scores.items()},
        "differences": [
            {"arm": arm, "against": against, **asdict(paired_difference(scores[arm], scores[against], groups))}
            for arm, against in pairs
            if scores[arm].keys() & scores[against].keys()
        ],
    }


def _correct(result: Mapping[str, Any], videos: Sequence[str]) -> np.ndarray:
    ranks = {row["video"]: row["rank"] for row in result["videos"]}
    assert ranks.keys() == set(videos), "all arms are tested on the same videos"
    return np.array([ranks[video] == 0 for video in videos], dtype=np.float64)


def _predicted(result: Mapping[str, Any], videos: Sequence[str]) -> list[str | None]:
    named = {row["video"]: row["predicted"] for row in result["videos"]}
    return [named[video] for video in videos]


def markdown(result: Mapping[str, Any]) -> str:
    """The tables, an evaluation each."""
    lines = []
    for evaluation in result["evaluations"].values():
        lines += [f"### {evaluation['title']}", ""]
        lines += [
            f"{len(evaluation['videos'])} test videos. Largest class {100 * evaluation['chance']:.0f} %, probe on the "
            f"frames' shape alone {100 * evaluation['shape_probe']['top1']:.0f} %.",
            "",
        ]
        lines += _arm_table(result, evaluation["all"]) + _difference_table(result, evaluation["all"])
        if "unseen" in evaluation:
            unseen = evaluation["unseen"]
            lines += [f"On the {unseen['videos']} test videos that were not in the unlabelled pre-training set:", ""]
            lines += _arm_table(result, unseen) + _difference_table(result, unseen)
    if result["failed"]:
        lines += ["### Not there", ""] + [f"- {name}: {reason}" for name, reason in result["failed"].items()] + [""]
    return "\n".join(lines)


def _arm_table(result: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    rows = ["| arm | top-1 by seed, % | mean | 95 % interval |", "| --- | --- | --- | --- |"]
    for name, found in part["arms"].items():
        rows.append(
            f"| {result['arms'][name]['title']} | {_by_seed(found, '.1f')} | {found['mean']:.1f} | "
            f"{_interval(found, '.1f')} |"
        )
    return [*rows, ""]


def _difference_table(result: Mapping[str, Any], part: Mapping[str, Any]) -> list[str]:
    rows = ["| difference, paired | by seed, points | mean | 95 % interval |", "| --- | --- | --- | --- |"]
    for found in part["differences"]:
        titles = [result["arms"][found[side]]["title"] for side in ("arm", "against")]
        rows.append(
            f"| {titles[0]} − {titles[1]} | {_by_seed(found, '+.1f')} | {found['mean']:+.1f} | "
            f"{_interval(found, '+.1f')} |"
        )
    return [*rows, ""]


def _interval(found: Mapping[str, Any], form: str) -> str:
    def ends(pair: Sequence[float]) -> str:
        return f"{format(pair[0], form)} to {format(pair[1], form)}"

    named = (("over groups", "over_groups"), ("groups and videos", "over_all"), ("t over seeds", "over_seeds"))
    more = [f"{words} {ends(found[name])}" for words, name in named if found[name] is not None]
    return ends((found["low"], found["high"])) + (f" ({'; '.join(more)})" if more else "")


def _by_seed(found: Mapping[str, Any], form: str) -> str:
    return ", ".join(format(value, form) for value in found["by_seed"].values())


def save_plot(path: Path, result: Mapping[str, Any]) -> None:
    """Top-1 of every arm and the paired differences, a row an evaluation, as PNG."""
    evaluations = list(result["evaluations"].values())
    colors = arm_colors(list(result["arms"]))
    heights = [0.9 + 0.24 * max(len(one["all"]["arms"]), len(one["all"]["differences"])) for one in evaluations]
    figure = Figure(figsize=(_PAGE_WIDTH, sum(heights) + 0.4), layout="constrained")
    axes = figure.subplots(len(evaluations), 2, squeeze=False, height_ratios=heights)
    for (scores, differences), evaluation in zip(axes, evaluations, strict=True):
        part = evaluation["all"]
        _draw_intervals(
            scores, list(part["arms"]), list(part["arms"].values()), [colors[name] for name in part["arms"]]
        )
        scores.axvline(100 * evaluation["chance"], color="black", linestyle=":", linewidth=1)
        scores.set_xlabel("top-1, %", fontsize=8)
        scores.set_title(evaluation["title"], fontsize=9, loc="left")
        pairs = [f"{found['arm']} − {found['against']}" for found in part["differences"]]
        _draw_intervals(differences, pairs, part["differences"], [colors[row["arm"]] for row in part["differences"]])
        differences.axvline(0, color="black", linestyle="--", linewidth=1)
        differences.set_xlabel("difference, points, paired by seed and video", fontsize=8)
        if not pairs:
            differences.set_axis_off()
    marks = [
        Line2D([], [], color="0.3", marker="o", label="mean and 95 % interval"),
        Line2D([], [], color="0.3", marker="|", linestyle="none", label="a seed"),
        Line2D([], [], color="black", linestyle=":", label="chance"),
        Line2D([], [], color="black", linestyle="--", label="no difference"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    figure.savefig(path, dpi=100)


def _draw_intervals(axis: Any, names: Sequence[str], rows: Sequence[Mapping[str, Any]], colors: Sequence[str]) -> None:
    """The widest interval that a row has, from the top down."""
    for place, (row, color) in enumerate(zip(rows, colors, strict=True)):
        low, high = row["over_all"] or (row["low"], row["high"])
        ends = [[row["mean"] - low], [high - row["mean"]]]
        axis.errorbar([row["mean"]], [place], xerr=ends, fmt="o", markersize=5, capsize=3, color=color)
        seeds = list(row["by_seed"].values())
        axis.plot(seeds, [place] * len(seeds), "|", color=color, markersize=9)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="x", alpha=0.3)
