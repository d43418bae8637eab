"""The whole way in one command: made-up videos, a store, a pre-training run, pictures. `make demo` calls it."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.host.processes import command
from modist_pipelines.ranges import COUNT, FROM_ZERO, ranged

console = Console()


@dataclass(frozen=True)
class DemoConfig:
    """Pre-train on a small set of made-up videos, in a few minutes on two CPU cores."""

    out: Path = Path("demo")
    """Where videos, store and run go. A second call goes on where the first one stopped."""
    num_videos: int = ranged(192, COUNT)
    """Made-up videos."""
    num_processes: int | None = ranged(None, COUNT)
    """Left out: 2, or 1 where there is a single GPU."""
    max_steps: int | None = ranged(None, COUNT)
    """Stop early."""
    seed: int = ranged(0, FROM_ZERO)
    """Of the videos and the run."""


def main() -> None:
    config = parse_options(DemoConfig)
    start = time.monotonic()
    videos, store, run = (config.out / name for name in ("videos", "store", "run"))
    make = command("make-demo-videos", videos, "--num-videos", config.num_videos, "--seed", config.seed)
    _do("1/3  making videos", make)
    _do(
        "2/3  preparing the store: frames, optical flow, edges",
        command("prepare", videos, "--out", store, "--short-side", 72),
    )
    train = ["--preset", "demo", "--store", store, "--out", run, "--resume", "auto", "--seed", config.seed]
    limit = ["--max-steps", config.max_steps] if config.max_steps is not None else []
    from modist_fast.host.distributed import default_processes  # and torch with it

    processes = config.num_processes or default_processes()
    _do("3/3  pre-training", command("pretrain", *train, *limit, processes=processes))
    _summarize(run, time.monotonic() - start)


def _do(title: str, words: Sequence[str]) -> None:
    console.rule(f"[bold]{title}", align="left")
    console.print(shlex.join(words), style="dim", highlight=False, soft_wrap=True)
    code = subprocess.run(words, check=False).returncode
    if code:
        sys.exit(code)


def _summarize(run: Path, seconds: float) -> None:
    from modist_fast.watch.run_log import read_metrics

    rows = read_metrics(run / "metrics.jsonl")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    tenth = max(1, len(rows) // 10)

    def mean(name: str, part: list[dict]) -> float:
        return sum(row[name] for row in part) / len(part)

    last = rows[-tenth:]
    console.rule("[bold]done", align="left")
    console.print(
        f"{len(rows)} steps, {seconds / 60:.1f} minutes in all.\n"
        f"loss {mean('loss', rows[:tenth]):.2f} -> {mean('loss', last):.2f} (four terms; "
        f"visual term {mean('loss_visual', rows[:tenth]):.2f} -> {mean('loss_visual', last):.2f}), "
        f"top-1 of {config['objective']['bank_size']} negatives {100 * mean('top1_visual', rows[:tenth]):.0f} % -> "
        f"{100 * mean('top1_visual', last):.0f} %\n"
        f"run          {run}\n"
        f"loss curve   {run / 'loss.png'}\n"
        f"clips        {run / 'clips.png'}   what the nets saw: query and key of both pathways\n"
        f"backbone     {run / 'backbone.safetensors'}   modist_fast.load_backbone(path)\n"
        f"curves       tensorboard --logdir {run / 'tensorboard'}\n"
        "\nYour own videos:\n"
        "  modist prepare VIDEOS --out STORE\n"
        "  torchrun --standalone --nproc-per-node N -m modist_fast pretrain --preset modist-r50 \\\n"
        "      --store STORE --out RUN",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_cli(main)
