"""The whole way in one command: videos, store, pre-training, what was learned, pictures. `make demo` calls it."""

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
from modist_fast.errors import ConfigError
from modist_fast.evaluation.data.demo_labels import write_labels
from modist_fast.host.processes import command
from modist_fast.presets import find_preset
from modist_pipelines.ranges import COUNT, FROM_ZERO, Range, ranged
from modist_pipelines.store.reader import Store

console = Console()
_LEAST_VIDEOS = 8
_MADE_EPOCHS = 90  # of the preset's 110: the ending takes a minute, and all of it is to take six at most
_OWN_STEPS = 300  # of one's own videos: minutes on two cores
_VIEWS = ("--views.temporal", 5, "--views.spatial", 1)


@dataclass(frozen=True)
class DemoConfig:
    """Pre-train on a small set of made-up videos, or on some of your own, in a few minutes on two CPU cores."""

    out: Path = Path("demo")
    """Where videos, store and run go. A second call goes on where the first one stopped."""
    videos: Path | None = None
    """A folder of your own videos, 8 or more; some dozens are a matter of minutes. Folders in it are taken for classes.
    Left out: made-up ones."""
    num_videos: int = ranged(192, Range(_LEAST_VIDEOS))
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
    preset = "demo"
    if config.videos is None:
        make = command("make-demo-videos", videos, "--num-videos", config.num_videos, "--seed", config.seed)
        _do("1/4  making videos", make)
    else:
        videos, preset = config.videos, "tiny"
    _do(
        "2/4  preparing the store: frames, optical flow, edges",
        command("prepare", videos, "--out", store, "--for", preset),
    )
    train = ["--preset", preset, "--store", store, "--out", run, "--resume", "auto", "--seed", config.seed]
    if config.videos is None:
        train += ["--epochs", _MADE_EPOCHS]
    else:
        train += _few_steps(_num_videos(config.videos, store))
    limit = ["--max-steps", config.max_steps] if config.max_steps is not None else []
    from modist_fast.host.distributed import default_processes  # and torch with it

    processes = config.num_processes or default_processes()
    _do("3/4  pre-training", command("pretrain", *train, *limit, processes=processes))
    learned = _look(config.out, store, run)
    _summarize(config, run, learned, time.monotonic() - start)


def _num_videos(videos: Path, store: Path) -> int:
    """
    Raises:
        ConfigError: too few for a run.
    """
    found = Store.open(store).num_videos
    if found < _LEAST_VIDEOS:
        raise ConfigError(
            f"--videos {videos} holds {found} videos that can be used: a run needs {_LEAST_VIDEOS} or more."
        )
    return found


def _few_steps(num_videos: int) -> list[object]:
    """Options that keep a run on one's own videos to minutes: fewer epochs of more videos, and a warm-up to match."""
    recipe = find_preset("tiny")(None, Path())
    epochs = max(1, min(recipe.epochs, _OWN_STEPS // max(1, num_videos // recipe.batch_size)))
    if epochs == recipe.epochs:
        return []
    return ["--epochs", epochs, "--optim.warmup-epochs", epochs / 10]


def _look(out: Path, store: Path, run: Path) -> str:
    """Linear probes of the run's net and of random weights, Grad-CAM, the report page: what was learned, in a line."""
    labels = out / "labels.csv"
    page = command("report", run, "--out", out / "report.html")
    if not write_labels(store, labels):
        _do("4/4  the report page", page, quiet=True)
        return "No probe and no Grad-CAM: they need two folders (classes) of three videos or more."
    common = ["--store", store, "--labels", labels, *_VIEWS]
    places = {name: out / "evaluation" / name for name in ("linear", "random", "gradcam")}
    for name, backbone in (("linear", run), ("random", f"random:{run}")):
        title = (
            "4/4  what a linear classifier makes of its features" if name == "linear" else "     and of random weights"
        )
        _do(title, command("evaluate", "linear", "--backbone", backbone, *common, "--out", places[name]), quiet=True)
    versus = ["--backbone", run, "--versus", f"random:{run}", "--versus-name", "random weights", "--num-filmed", 1]
    _do("     where they look (Grad-CAM)", command("gradcam", *versus, *common, "--out", places["gradcam"]), quiet=True)
    _do("     the report page", page, quiet=True)
    return compared(places["linear"] / "result.json", places["random"] / "result.json")


def compared(ours: Path, random: Path) -> str:
    """Two results of the same videos in a line, with the interval of their difference."""
    import numpy as np

    from modist_fast.evaluation.statistics import paired_difference

    results = [json.loads(path.read_text(encoding="utf-8")) for path in (ours, random)]
    right = [np.array([row["rank"] == 0 for row in result["videos"]]) for result in results]
    found = paired_difference({0: right[0]}, {0: right[1]})
    verdict = "better than random weights" if found.low > 0 else "not surely better than random weights"
    ours, theirs, chance = (100 * share for share in (results[0]["top1"], results[1]["top1"], results[0]["chance"]))
    return (
        f"linear probe: {ours:.0f} % of {len(right[0])} test videos right, random weights {theirs:.0f} %, chance "
        f"{chance:.0f} %; difference {found.mean:+.0f} points [{found.low:+.0f}, {found.high:+.0f}] (95 %, over test "
        f"videos): {verdict}"
    )


def _do(title: str, words: Sequence[str], quiet: bool = False) -> None:
    """Run a command under its title; `quiet` keeps its tables to itself, not its log."""
    console.rule(f"[bold]{title}", align="left")
    console.print(shlex.join(words), style="dim", highlight=False, soft_wrap=True)
    code = subprocess.run(words, check=False, stdout=subprocess.DEVNULL if quiet else None).returncode
    if code:
        sys.exit(code)


def _summarize(config: DemoConfig, run: Path, learned: str, seconds: float) -> None:
    from modist_fast.watch.run_log import read_metrics

    rows = read_metrics(run / "metrics.jsonl")
    bank = json.loads((run / "config.json").read_text(encoding="utf-8"))["objective"]["bank_size"]
    full = [row for row in rows if row.get("bank_filled", 1.0) >= 1]  # against fewer negatives any loss is low
    since = "since the banks were full" if full else "with banks that were never full, so it says little"
    full = full or rows
    tenth = max(1, len(full) // 10)

    def change(name: str, scale: float = 1.0, form: str = ".2f") -> str:
        first, last = (sum(row[name] for row in part) / len(part) for part in (full[:tenth], full[-tenth:]))
        return f"{scale * first:{form}} -> {scale * last:{form}}"

    gradcam = config.out / "evaluation" / "gradcam"
    shown = f"where it looks {gradcam / 'gradcam.png'}, gradcam.mp4 beside it\n" if gradcam.is_dir() else ""
    rule = " " * 4
    own = (
        f"{rule}modist demo --videos VIDEOS --out own-demo          # the same on a folder of yours, 8 videos or more\n"
        if config.videos is None
        else ""
    )
    console.rule("[bold]done", align="left")
    console.print(
        f"{len(rows)} steps, {seconds / 60:.1f} minutes in all.\n"
        f"loss {change('loss')} {since} (four terms; visual term {change('loss_visual')}), "
        f"top-1 among {bank} negatives {change('top1_visual', 100, '.0f')} %\n"
        f"{learned}\n\n"
        f"report page    {config.out / 'report.html'}   open it in a browser\n"
        f"{shown}"
        f"loss curve     {run / 'loss.png'}\n"
        f"clips          {run / 'clips.png'}   what the nets saw: query and key of both pathways\n"
        f"backbone       {run / 'backbone.safetensors'}   modist_fast.load_backbone(path)\n"
        f"curves         tensorboard --logdir {run / 'tensorboard'}\n"
        "\nWhat comes next:\n"
        f"{own}"
        f"{rule}modist prepare VIDEOS --out STORE --for tiny        # few videos, a laptop: a store for --preset tiny\n"
        f"{rule}modist pretrain --preset tiny --store STORE --out RUN\n"
        f"{rule}modist evaluate linear --backbone RUN --store STORE --labels labels.csv --out OUT\n"
        f"{rule}modist features VIDEOS --backbone RUN --out features.parquet\n"
        "Many videos and GPUs: modist prepare VIDEOS --out STORE, then\n"
        f"{rule}modist --nproc-per-node 8 pretrain --preset modist-r50 --store STORE --out RUN",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    run_cli(main)
