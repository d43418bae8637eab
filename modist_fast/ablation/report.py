"""The outcome of an ablation: JSON with every prediction, a Markdown table, a plot with intervals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modist_fast.ablation.corpora import Corpus, Evaluation, listed_videos
from modist_fast.ablation.experiment import Ablation, Run
from modist_fast.evaluation.statistics import estimate, paired_difference
from modist_fast.host.environment import environment
from modist_fast.watch.run_log import read_metrics

Scores = dict[str, dict[int, np.ndarray]]  # arm, seed: (V,) 1 where a video was classified correctly


def write_report(ablation: Ablation) -> dict[str, Any]:
    """Write OUT/result.json, OUT/table.md and OUT/table.png from all the evaluations that are there."""
    out = ablation.config.out
    result: dict[str, Any] = {
        "table": ablation.config.table,
        "preset": ablation.config.preset,
        "seeds": list(ablation.config.seeds),
        "arms": {arm.name: {"title": arm.title, "options": list(arm.options)} for arm in ablation.table.arms},
        "failed": ablation.failed,
        "environment": environment(),
        "runs": _costs(ablation),
        "evaluations": {
            evaluation.name: found
            for corpus in ablation.corpora
            for evaluation in corpus.evaluations
            if (found := _evaluate(ablation, corpus, evaluation))
        },
    }
    (out / "result.json").write_text(json.dumps(result, separators=(",", ":")) + "\n", encoding="utf-8")
    (out / "table.md").write_text(markdown(result), encoding="utf-8")
    if result["evaluations"]:
        save_plot(out / "table.png", result)
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


def _evaluate(ablation: Ablation, corpus: Corpus, evaluation: Evaluation) -> dict[str, Any]:
    """Scores, intervals and differences of one evaluation; empty where there is none yet."""
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in ablation.table.arms:
        for seed in ablation.config.seeds:
            path = ablation.test_folder(Run(corpus, arm, seed), evaluation) / "result.json"
            if path.exists():
                results.setdefault(arm.name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    if not results:
        return {}
    first = next(iter(next(iter(results.values())).values()))
    videos = [row["video"] for row in first["videos"]]
    scores: Scores = {
        arm: {seed: _correct(result, videos) for seed, result in by_seed.items()} for arm, by_seed in results.items()
    }
    pairs = [pair for pair in ablation.table.comparisons if scores.keys() >= set(pair)]
    folds = {row["video"]: row["fold"] for row in first["videos"]}
    # Leave-one-group-out: a fold is a group. Otherwise all test videos are of one fold, which says nothing of groups.
    groups = [folds[video] for video in videos] if len(set(folds.values())) > 1 else None
    found: dict[str, Any] = {
        "title": evaluation.title,
        "chance": first["chance"],
        "shape_probe": first["shape_probe"],
        "all": _compare(scores, pairs, groups),
    }
    seen = listed_videos(corpus)
    unseen = np.array([video not in seen for video in videos])
    if 0 < unseen.sum() < len(videos):
        kept = {arm: {seed: row[unseen] for seed, row in by_seed.items()} for arm, by_seed in scores.items()}
        found["unseen"] = {"videos": int(unseen.sum()), **_compare(kept, pairs, None)}
    classes = [row["class"] for row in first["classes"]]
    found["classes"] = classes
    found["videos"] = videos
    found["labels"] = [classes.index(row["label"]) for row in first["videos"]]
    found["predicted"] = {
        arm: {seed: _predicted(result, videos, classes) for seed, result in by_seed.items()}
        for arm, by_seed in results.items()
    }
    return found


def _compare(scores: Scores, pairs: Sequence[tuple[str, str]], groups: Sequence[str] | None) -> dict[str, Any]:
    return {
        "arms": {arm: asdict(estimate(by_seed, groups)) for arm, by_seed in scores.items()},
        "differences": [
            {"arm": arm, "against": against, **asdict(paired_difference(scores[arm], scores[against], groups))}
            for arm, against in pairs
        ],
    }


def _correct(result: Mapping[str, Any], videos: Sequence[str]) -> np.ndarray:
    ranks = {row["video"]: row["rank"] for row in result["videos"]}
    assert ranks.keys() == set(videos), "all arms are tested on the same videos"
    return np.array([ranks[video] == 0 for video in videos], dtype=np.float64)


def _predicted(result: Mapping[str, Any], videos: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Places in `classes`; -1 where there was no prediction."""
    named = {row["video"]: row["predicted"] for row in result["videos"]}
    return [classes.index(named[video]) if named[video] in classes else -1 for video in videos]


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
    words = f"{format(found['low'], form)} to {format(found['high'], form)}"
    if found["over_groups"] is not None:
        low, high = found["over_groups"]
        words += f" (over groups {format(low, form)} to {format(high, form)})"
    return words


def _by_seed(found: Mapping[str, Any], form: str) -> str:
    return ", ".join(format(value, form) for value in found["by_seed"].values())


def save_plot(path: Path, result: Mapping[str, Any]) -> None:
    """Top-1 of every arm with its interval and its seeds, and the paired differences below, as PNG."""
    evaluations = list(result["evaluations"].values())
    size = (3.6 * len(evaluations) + 1.6, 6.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2, len(evaluations), squeeze=False, sharey="row")
    for column, evaluation in enumerate(evaluations):
        part = evaluation["all"]
        names = [result["arms"][name]["title"] for name in part["arms"]]
        _draw_intervals(axes[0, column], names, list(part["arms"].values()))
        axes[0, column].axvline(100 * evaluation["chance"], color="gray", linestyle=":")
        axes[0, column].set(title=evaluation["title"], xlabel="top-1, %")
        pairs = [(found["arm"], found["against"]) for found in part["differences"]]
        _draw_intervals(axes[1, column], [f"{arm} − {against}" for arm, against in pairs], part["differences"])
        axes[1, column].axvline(0, color="gray", linestyle="--")
        axes[1, column].set(xlabel="difference, points, paired")
        axes[0, column].title.set_fontsize(9)
    figure.savefig(path, dpi=80)


def _draw_intervals(axis: Any, names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    places = np.arange(len(rows))
    means = np.array([row["mean"] for row in rows])
    ends = np.array([[row["mean"] - row["low"], row["high"] - row["mean"]] for row in rows]).T
    axis.errorbar(means, places, xerr=ends, fmt="o", capsize=3, color="tab:blue")
    for place, row in enumerate(rows):
        axis.plot(list(row["by_seed"].values()), [place] * len(row["by_seed"]), "|", color="tab:orange")
    axis.set_yticks(places, names, fontsize=8)
    axis.grid(axis="x", alpha=0.3)
