"""Pre-train with a bottleneck planted: planted.py FAULT RANK [pretrain.py's options]. RANK -1: on every rank.

The faults slow down real parts of a real run; nothing tells the budget about them.
"""

import os
import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from modist_fast import metrics, step
from modist_fast.pathways import MoDist
from modist_pipelines import clip_reads, decoders, store

REPOSITORY = Path(__file__).resolve().parents[2]


def _slow(owner: Any, name: str, seconds: float) -> None:
    original: Callable = getattr(owner, name)

    def slowed(*args: Any, **kwargs: Any) -> Any:
        time.sleep(seconds)
        return original(*args, **kwargs)

    setattr(owner, name, slowed)


def _slow_network(seconds: float) -> None:
    """Gradients arrive late; backward goes on meanwhile."""
    original = step.allreduce_hook

    def late(future: torch.futures.Future) -> torch.Tensor:
        time.sleep(seconds)
        return future.value()

    step.allreduce_hook = lambda group, bucket: original(group, bucket).then(late)


FAULTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "read": lambda: _slow(store.Store, "read", 0.05),
    "plan": lambda: _slow(clip_reads, "plan_clips", 0.05),
    "decode": lambda: _slow(decoders.CpuDecoder, "decode", 0.2),
    "momentum": lambda: _slow(MoDist, "update_momentum", 0.3),
    "all_reduce": lambda: _slow_network(0.3),
    "log": lambda: _slow(metrics.RunLog, "write", 0.3),
}


def main() -> None:
    fault, rank, *options = sys.argv[1:]
    if int(rank) in (-1, int(os.environ.get("RANK", 0))):
        FAULTS[fault]()
    script = REPOSITORY / "launch" / "pretrain.py"
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
