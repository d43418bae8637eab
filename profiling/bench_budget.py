"""What keeping the step budget costs: python profiling/bench_budget.py RUN [--groups N]

Goes through the spans of a step with nothing inside, many times, and through the sums made of them, and sets that
against the steps of a finished run. The message of each window, a few hundred bytes in twenty steps, is not in it.
"""

import argparse
import json
import time
from pathlib import Path

import torch

from modist_fast.commands.cli import run_cli
from modist_fast.errors import ConfigError
from modist_fast.watch.budget import RankBudget
from modist_fast.watch.spans import Spans, annotate, clock_of
from modist_profiling.frame import percentile

_ONCE = ("copy", "gather", "momentum", "keys", "gather", "optimizer", "log", "enqueue", "log", "log")
_EACH_GROUP = ("queries", "loss", "backward", "log")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--groups", type=int, default=1, help="groups that a process computes a step")
    parser.add_argument("--rounds", type=int, default=2000)
    options = parser.parse_args()
    path = options.run / "budget.json"
    if not path.exists():
        raise ConfigError(f"{path} is missing: {options.run} is no run that came to its end.")
    summary = json.loads(path.read_text(encoding="utf-8"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    microseconds = 1e6 * percentile(step_costs(device, options.groups, options.rounds), 0.5)
    print(f"{len(_ONCE) + options.groups * len(_EACH_GROUP)} spans a step on {device}")
    print(f"budget_us_per_step {microseconds:.1f}")
    print(f"budget_share_of_step {microseconds / 1e6 / summary['seconds_per_step']:.4%}")


def step_costs(device: torch.device, num_groups: int, rounds: int) -> list[float]:
    """Host seconds of each of many empty steps."""
    spans, budget = Spans(clock_of(device)), RankBudget()
    names = (*_ONCE, *_EACH_GROUP * num_groups)
    costs, taken = [], None
    for _ in range(rounds):
        begun = time.perf_counter()
        with annotate("step"):
            for name in names:
                with spans(name):
                    if name == "backward":
                        spans.rest_is("all_reduce")
            # As the recorder does: a step's times are read when the next one has been launched.
            previous, taken = taken, spans.take()
            if previous is not None:
                phases = {"data_wait": previous.data_wait(0.0), **previous.seconds()}
                budget.add(0.1, phases, {"read": 0.0}, {}, launch=previous.host_seconds, ready=1)
        costs.append(time.perf_counter() - begun)
        if budget.is_due:
            budget.take(0.0, 0.0)
    return costs


if __name__ == "__main__":
    run_cli(main)
