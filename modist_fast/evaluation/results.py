"""From predictions to a result: accuracies with intervals, classes, confusions, every video; JSON, table, picture."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from modist_fast.evaluation.charts import save_confusion, save_retrieval, save_shares
from modist_fast.evaluation.data.labelled import LabelledVideos
from modist_fast.evaluation.data.splits import Fold
from modist_fast.evaluation.statistics import bootstrap_interval


def ranks_of_truth(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(m,) int64: how many classes are put before the true one; equal ones in the order of the classes.

    Args:
        probabilities: (m, K); rows of NaN, where there is no prediction, have rank K.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranks = (order == labels[:, None]).argmax(axis=1)
    return np.where(np.isnan(probabilities).any(axis=1), probabilities.shape[1], ranks)


def classification(
    labelled: LabelledVideos,
    odd: Collection[int],
    folds: Sequence[Fold],
    probabilities: Sequence[np.ndarray],
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of a classification, JSON-ready.

    Args:
        odd: all that opening and reading found.
        folds: as far as they are `counted`.
        probabilities: of each fold's test videos, (m, K); NaN where a video is odd, which counts as wrong.
    """
    videos = np.concatenate([fold.test for fold in folds])
    shares = np.concatenate(list(probabilities))
    truth, num_classes = labelled.labels[videos], len(labelled.classes)
    ranks = ranks_of_truth(shares, truth)
    predicted = np.where(ranks == num_classes, -1, np.nan_to_num(shares, nan=-1.0).argmax(axis=1))
    names = [fold.name for fold in folds for _ in fold.test]
    result = accuracies(labelled, odd, videos, ranks, seed)
    result["folds"] = [
        {"name": fold.name, "train": len(fold.train), "test": len(fold.test), "top1": float((part == 0).mean())}
        for fold, part in zip(folds, np.split(ranks, np.cumsum([len(fold.test) for fold in folds])[:-1]), strict=True)
    ]
    result["classes"] = _per_class(labelled.classes, truth, ranks)
    result["confusion"] = _confusion(truth, predicted, num_classes).tolist()
    result["videos"] = [
        {
            "video": labelled.names[video],
            "label": labelled.classes[label],
            "predicted": labelled.classes[guess] if guess >= 0 else None,
            "rank": int(rank),
            "probability": None if guess < 0 else round(float(row[label]), 6),
            "fold": fold,
        }
        for video, label, guess, rank, row, fold in zip(videos, truth, predicted, ranks, shares, names, strict=True)
    ]
    return result


def accuracies(
    labelled: LabelledVideos, odd: Collection[int], videos: np.ndarray, ranks: np.ndarray, seed: int
) -> dict[str, Any]:
    """Top-1, top-5 where there are more than five classes, and the intervals of top-1."""
    right = (ranks == 0).astype(np.float64)
    result: dict[str, Any] = {
        "num_test": len(videos),
        "num_odd": int(np.isin(videos, list(odd)).sum()),
        "top1": float(right.mean()),
        "interval": bootstrap_interval(right, seed=seed),
        "chance": float(np.bincount(labelled.labels[videos]).max() / len(videos)),
    }
    if len(labelled.classes) > 5:
        result["top5"] = float((ranks < 5).mean())
    if labelled.groups is not None:
        groups = [labelled.groups[video] for video in videos.tolist()]
        if len(set(groups)) > 1:
            result["interval_over_groups"] = bootstrap_interval(right, groups, seed=seed)
    return result


def _per_class(classes: Sequence[str], truth: np.ndarray, ranks: np.ndarray) -> list[dict[str, Any]]:
    return [
        {"class": name, "videos": int((truth == label).sum()), "top1": float((ranks[truth == label] == 0).mean())}
        for label, name in enumerate(classes)
        if (truth == label).any()
    ]


def _confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(K, K + 1) counts: row is the true class, column the predicted one, the last column no prediction."""
    table = np.zeros((num_classes, num_classes + 1), dtype=np.int64)
    np.add.at(table, (truth, np.where(predicted < 0, num_classes, predicted)), 1)
    return table


def odd_rows(labelled: LabelledVideos, odd: Mapping[int, str]) -> list[dict[str, str]]:
    """The odd videos with their reasons, JSON-ready."""
    return [
        {"video": labelled.names[video], "label": labelled.classes[labelled.labels[video]], "reason": reason}
        for video, reason in sorted(odd.items())
    ]


def write_result(out: Path, result: dict[str, Any]) -> None:
    """OUT/result.json, and the pictures that it has figures for: see `charts`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if "confusion" in result:
        title = f"{result['task']}: top-1 {100 * result['top1']:.1f} % of {result['num_test']} test videos"
        classes = [row["class"] for row in result["classes"]]
        save_confusion(out / "confusion.png", np.array(result["confusion"]), classes, title)
    if "rows" in result:
        save_shares(out / "shares.png", result["rows"], result["task"])
    if result["task"] == "retrieval":
        save_retrieval(out / "retrieval.png", [row["first_hit"] for row in result["videos"]])


def print_result(result: dict[str, Any]) -> None:
    """The figures as a table on standard output."""
    console = Console(highlight=False, width=None)
    console.print(f"\n{result['task']}: {result['backbone']['origin']}")
    if result["odd"]:
        console.print(f"{len(result['odd'])} odd videos, as {result['odd_videos']} where tested: see result.json")
    for row in result.get("rows", [result]):
        line = f"{row['name']}: " if "name" in row else ""
        for name, value in row.items():
            if name.startswith(("top", "R@")):
                line += f"{name} {100 * value:.1f} %  "
        if "mAP" in row:
            line += f"mAP {100 * row['mAP']:.1f} %  (random scores {100 * row['mAP_of_random_scores']:.1f} %)  "
            line += f"of {row['num_keyframes']} keyframes"
        else:
            line += f"{_interval(row)}  of {row['num_test']} videos"
        console.print(line, soft_wrap=True)
    if "chance" in result:
        console.print(f"largest class: {100 * result['chance']:.1f} %")
    if "shape_probe" in result:
        console.print(_of_shape(result["shape_probe"]), soft_wrap=True)
    if "actions" in result:
        table = Table("action", "boxes", "AP, %", "random, %", box=None)
        for row in result["actions"]:
            shares = (f"{100 * row[name]:.1f}" for name in ("AP", "AP_of_random_scores"))
            table.add_row(row["name"], str(row["boxes"]), *shares)
        console.print(table)
    if "classes" in result:
        table = Table("class", "videos", "top-1, %", box=None)
        for row in result["classes"]:
            table.add_row(row["class"], str(row["videos"]), f"{100 * row['top1']:.1f}")
        console.print(table)


def _interval(row: Mapping[str, Any]) -> str:
    """The intervals of a row, and what each is of."""
    first = "R@1" if "top1" not in row else "top1"
    named = [("test videos", row["interval"])]
    if "interval_over_groups" in row:
        named.append(("whole groups", row["interval_over_groups"]))
    ends = ", ".join(f"[{100 * low:.1f}, {100 * high:.1f}] over {what}" for what, (low, high) in named)
    return f"(95 % of {first}: {ends})"


def _of_shape(probe: Mapping[str, Any]) -> str:
    """What the shape of the frames tells, and by which of its cues."""
    said = f"from the shape of the frame alone: {100 * probe['top1']:.1f} %"
    if cues := probe.get("cues"):
        best = max(cues, key=lambda cue: cues[cue])
        said += f", most by {best} (alone: {', '.join(f'{cue} {100 * top1:.1f} %' for cue, top1 in cues.items())})"
    return said
