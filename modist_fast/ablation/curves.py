"""What training did: the figures of every step that tell collapse, drift and modality gap apart, arm beside arm."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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
    """Draw the figures of all trained arms as PNG: means over windows and seeds, with the range of the seeds."""
    size = (2.7 * len(FIGURES), 2.5 * len(ablation.corpora) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(ablation.corpora), len(FIGURES), squeeze=False)
    for row, corpus in zip(axes, ablation.corpora, strict=True):
        for color, arm in enumerate(arm for arm in ablation.table.arms if arm.trained):
            runs = [run for run in ablation.runs() if run.corpus == corpus and run.arm == arm]
            paths = [ablation.folder(run) / "metrics.jsonl" for run in runs]
            logs = [read_metrics(path) for path in paths if path.exists()]
            for axis, name in zip(row, FIGURES, strict=True):
                if logs and name in logs[0][0]:
                    _draw(axis, [[float(step[name]) for step in rows] for rows in logs], name, arm.name, f"C{color}")
        for axis, title in zip(row, FIGURES.values(), strict=True):
            axis.set_title(f"{corpus.name}: {title}", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.grid(alpha=0.3)
    handles = {line.get_label(): line for axis in axes.flat for line in axis.get_lines()}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(path, dpi=75)


def _draw(axis: Any, logs: list[list[float]], name: str, label: str, color: str) -> None:
    scale = 100.0 if name.startswith("retrieval") else 1.0
    num_steps = min(map(len, logs))
    edges = np.unique(np.linspace(0, num_steps, min(_WINDOWS, num_steps) + 1).round().astype(int))
    windows = scale * np.array(
        [[np.mean(values[begin:end]) for begin, end in itertools.pairwise(edges)] for values in logs]
    )
    steps = (edges[:-1] + edges[1:]) / 2
    axis.plot(steps, windows.mean(axis=0), color=color, label=label, linewidth=1.2)
    axis.fill_between(steps, windows.min(axis=0), windows.max(axis=0), color=color, alpha=0.2, linewidth=0)
