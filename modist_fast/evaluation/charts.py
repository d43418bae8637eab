"""The pictures of a result: who is taken for whom, what more labels bring, how far the nearest neighbours are right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

_FURTHEST = 50  # neighbours


def save_confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draw the matrix as PNG: each row's shares, with numbers of videos where there is room for them.

    Args:
        counts: (K, K + 1), see `results`; its last column is left out where it is empty.
        classes: of the rows that have videos.
    """
    if not counts[:, -1].any():
        counts = counts[:, :-1]
    counts = counts[counts.sum(axis=1) > 0]
    shares = counts / counts.sum(axis=1, keepdims=True)
    side = min(24.0, 4 + 0.35 * max(counts.shape))
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="true (test videos)")
    axis.set_title(title, fontsize=10, wrap=True)
    names = [f"{name} ({num})" for name, num in zip(classes, counts.sum(axis=1), strict=True)]
    axis.set_yticks(range(len(classes)), names, fontsize=7)
    if counts.shape[1] <= len(classes) + 1:
        columns = [*classes, "none"][: counts.shape[1]]
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    if max(counts.shape) <= 30:
        for row, column in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=7)
    figure.colorbar(drawn, ax=axis, shrink=0.6, label="share of the row")
    figure.savefig(path, dpi=110)


def save_shares(path: Path, rows: Sequence[Mapping[str, Any]], task: str) -> None:
    """Draw top-1 over the number of training videos as PNG: a dot for each subset, a line through their means."""
    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axis = figure.subplots()
    sizes = np.array([row["num_train"] for row in rows])
    top1 = 100 * np.array([row["top1"] for row in rows])
    different = np.unique(sizes)
    axis.plot(sizes, top1, "o", color="C0", alpha=0.5, label="a subset")
    means = [top1[sizes == size].mean() for size in different]
    axis.plot(different, means, color="C0", label="mean")
    low, high = (100 * end for end in rows[-1]["interval"])
    whole = "95 % interval of the last, over test videos"
    axis.errorbar(sizes[-1:], top1[-1:], [[top1[-1] - low], [high - top1[-1]]], color="C0", capsize=4, label=whole)
    if (chance := rows[-1].get("chance")) is not None:
        axis.axhline(100 * chance, color="gray", linestyle="--", label="the largest class")
    axis.set_xscale("log")
    axis.set_xticks(different, [str(size) for size in different], rotation=45)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set(xlabel="training videos with labels", ylabel="top-1, %", ylim=(0, 100))
    axis.set_title(f"{task}: {rows[-1]['num_test']} test videos")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def save_retrieval(path: Path, first_hits: Sequence[int]) -> None:
    """Draw R@k as PNG: the share of test videos that have one of their class among their k nearest.

    Args:
        first_hits: of each test video, the place of the first of its class, counted from 0.
    """
    hits = np.array(first_hits)
    ks = np.arange(1, _FURTHEST + 1)
    recall = 100 * (hits[None] < ks[:, None]).mean(axis=1)
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot(ks, recall, drawstyle="steps-mid")
    for k in (1, 5, 10, 20):
        axis.plot(k, recall[k - 1], "o", color="C0")
        axis.annotate(
            f"R@{k} {recall[k - 1]:.0f} %", (k, recall[k - 1]), (4, -12), textcoords="offset points", fontsize=8
        )
    axis.set(xlabel="k nearest training videos", ylabel="R@k, %", ylim=(0, 104), xlim=(0, _FURTHEST))
    axis.set_title(f"retrieval: one of the class among the k nearest, {len(hits)} test videos")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
