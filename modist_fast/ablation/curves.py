"""What training did: the figures of every step that tell collapse, drift and modality gap apart, arm beside arm."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from modist_fast.ablation.arms import Arm
from modist_fast.ablation.colors import arm_colors
from modist_fast.ablation.corpora import Corpus
from modist_fast.ablation.experiment import Ablation
from modist_fast.watch.run_log import read_metrics

# Loss and bank top-1 fall and rise with drift alone, where fresh keys differ from stored ones; retrieval within a batch
# does not. A cosine of positives that is high where retrieval is at chance means one direction for everything.
FIGURES = {
    "loss_visual": "Lv",
    "loss_visual_to_motion": "IN(vq, mk)",
    "retrieval_visual": "retrieval vq → vk, %",
    "retrieval_visual_to_motion": "retrieval vq → mk, %",
    "positive_visual_to_motion": "cosine vq · mk",
    "uniformity_visual": "uniformity of vk",
}
_WINDOWS = 40  # points of a curve


def save_curves(path: Path, ablation: Ablation) -> None:
    """Draw the figures of all trained arms as PNG: means over windows and seeds, with the range of the seeds.

    A bank that is not full yet answers too easily: the curves begin where it is.
    """
    trained = [arm for arm in ablation.table.arms if arm.trained]
    colors = arm_colors([arm.name for arm in ablation.table.arms])
    logs = {
        (corpus.name, arm.name): found
        for corpus in ablation.corpora
        for arm in trained
        if (found := _logs(ablation, corpus, arm))
    }
    names = [name for name in FIGURES if any(name in rows[0][0] for rows in logs.values())]
    if not names:
        return
    columns = -(-len(names) // 2)
    figure = Figure(figsize=(9, 4.4 * len(ablation.corpora) + 0.5), layout="constrained")
    axes = figure.subplots(2 * len(ablation.corpora), columns, squeeze=False)
    for place, corpus in enumerate(ablation.corpora):
        for axis, name in zip(axes[2 * place : 2 * place + 2].flat, names, strict=False):
            for arm in trained:
                if (rows := logs.get((corpus.name, arm.name))) and name in rows[0][0]:
                    _draw(axis, rows, name, arm.name, colors[arm.name])
            axis.set_title(
                FIGURES[name] if len(ablation.corpora) == 1 else f"{corpus.name}: {FIGURES[name]}", fontsize=9
            )
            axis.set_xlabel("step", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.grid(alpha=0.3)
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    handles = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=100)


def _logs(ablation: Ablation, corpus: Corpus, arm: Arm) -> list[list[dict[str, Any]]]:
    """Of each seed that has begun, its steps with full banks."""
    runs = [run for run in ablation.runs() if run.corpus == corpus and run.arm == arm]
    paths = [ablation.folder(run) / "metrics.jsonl" for run in runs]
    return [rows for path in paths if path.exists() and (rows := _with_full_bank(read_metrics(path)))]


def _with_full_bank(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row.get("bank_filled", 1.0) >= 1.0]


def _draw(axis: Any, logs: list[list[dict[str, Any]]], name: str, label: str, color: str) -> None:
    scale = 100.0 if name.startswith("retrieval") else 1.0
    values = [[float(row[name]) for row in rows] for rows in logs]
    num_steps = min(map(len, values))
    edges = np.unique(np.linspace(0, num_steps, min(_WINDOWS, num_steps) + 1).round().astype(int))
    windows = scale * np.array(
        [[np.mean(row[begin:end]) for begin, end in itertools.pairwise(edges)] for row in values]
    )
    steps = logs[0][0]["step"] + (edges[:-1] + edges[1:]) / 2
    axis.plot(steps, windows.mean(axis=0), color=color, label=label, linewidth=1.2)
    axis.fill_between(steps, windows.min(axis=0), windows.max(axis=0), color=color, alpha=0.2, linewidth=0)
