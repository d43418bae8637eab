"""Run directories with figures that can be worked out by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modist_fast.watch.budget import COLUMNS, WARM_UP_STEPS, WINDOW_STEPS, RunBudget, RunFacts

BATCH = 32
TERMS = ("visual", "motion", "visual_to_motion", "motion_to_visual")
# Seconds of a step of each rank after the warm-up: 0.4, of which 0.01 is in no phase.
PHASES = {
    "data_wait": (0.04, 0.04),
    "keys": (0.08, 0.06),
    "queries": (0.07, 0.07),
    "gather": (0.01, 0.03),
    "loss": (0.02, 0.02),
    "backward": (0.15, 0.15),
    "all_reduce": (0.02, 0.02),
}
SECONDS = 0.4
VERDICT = "read-bound: 10 % of the step waits for data; raise --loader.prefetch"
CONFIG = {
    "batch_size": BATCH,
    "seed": 0,
    "objective": {"motion": True, "bank_size": 512},
    "clips": {"motion_threshold": 0.02},
}
ENVIRONMENT = {"cpu": "a processor", "gpus": [], "versions": {"torch": "2.14.1"}}


def row(step: int, num_steps: int, seconds: float = SECONDS) -> dict[str, Any]:
    """A line of metrics.jsonl: top-1 grows from 0 to 1 over the run, the first three steps take ten times as long."""
    share = step / num_steps
    slow = seconds * (10 if step <= WARM_UP_STEPS else 1)
    return {
        "step": step,
        "lr": 0.1,
        "seconds": slow,
        "samples_per_s": BATCH / slow,
        "loader_spans": {"plan": 0.02, "read": 0.05, "decode": 0.1},
        "queue_depth": 2,
        "frames_used": 100,
        "frames_decoded": 150,
        "bytes_read": 3_000_000,
        "bytes_needed": 2_000_000,
        "videos_damaged": 1.0 if step == 7 else 0.0,
        "loss": 20 - 8 * share,
        "data_wait": 0.1,
        "spans": {name: of[0] for name, of in PHASES.items() if name != "data_wait"},
        "host_mb": 900.0,
        "device_mb": 0.0,
        "bank_filled": min(1.0, step * BATCH / 512),
        "bank_age": 8.5,
        "masked_negatives": 0.25,
        # Each term has its own level: no line hides another.
        **{f"loss_{term}": 4 + 0.5 * index - 2 * share for index, term in enumerate(TERMS)},
        **{f"top1_{term}": share * (1 - 0.2 * index) for index, term in enumerate(TERMS)},
        **{f"positive_{term}": 0.5 + 0.1 * index for index, term in enumerate(TERMS)},
        **{f"retrieval_{term}": 0.5 + 0.1 * index for index, term in enumerate(TERMS)},
        **{f"spread_{name}": 0.75 - 0.1 * index for index, name in enumerate(TERMS[:2])},
        **{f"uniformity_{name}": -2.0 - 0.5 * index for index, name in enumerate(TERMS[:2])},
    }


def plant(folder: Path, num_steps: int = 43, seconds: float = SECONDS, **options: Any) -> Path:
    """Write a finished run of two processes; its budget is added up by the project's own code.

    Args:
        folder: to make.
        num_steps: at least 4.
        seconds: a step past the warm-up; phases stay as they are, so the rest is "other".
        options: of config.json, over `CONFIG`.
    """
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row(step, num_steps, seconds)) + "\n" for step in range(1, num_steps + 1))
    budget = RunBudget(world_size=2)
    ends = [WARM_UP_STEPS, *range(WARM_UP_STEPS + WINDOW_STEPS, num_steps, WINDOW_STEPS), num_steps]
    with (folder / "budget.jsonl").open("w", encoding="utf-8") as file:
        for first, last in zip([0, *ends], ends, strict=False):
            pace = 10 * seconds if last == WARM_UP_STEPS else seconds
            window = [_sums(rank, last - first, pace) for rank in range(2)]
            file.write(json.dumps(budget.add(last, window)) + "\n")
    facts = RunFacts(BATCH, 4, "the store", "cpu", 1e9, 2e10, "a planted peak", rejected_windows=0.125)
    _write(folder / "budget.json", budget.summary(facts, {"power_w": 250.0}) | {"straggler": None, "verdict": VERDICT})
    _write(folder / "config.json", CONFIG | options)
    _write(folder / "environment.json", ENVIRONMENT)
    sheet = np.full((60, 90, 3), (200, 30, 90), np.uint8)
    Image.fromarray(sheet).save(folder / "clips.png")
    return folder


def _sums(rank: int, num_steps: int, seconds: float) -> list[float]:
    sums = Counter({name: num_steps * of[rank] for name, of in PHASES.items()})
    sums.update({"num_steps": num_steps, "seconds": num_steps * seconds, "host_mb": 1000.0 + rank})
    return [float(sums.get(name, 0)) for name in COLUMNS]


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")
