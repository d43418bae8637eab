"""Made-up stand-ins for what a gate needs: the same jobs, in minutes on two cores."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from modist_fast.ablation.jobs import Job
from modist_fast.demo_videos import make_demo_videos
from modist_fast.errors import ConfigError
from modist_fast.host.processes import command
from modist_fast.models import build_visual
from modist_fast.reproduce.gates import GateConfig
from modist_fast.weights.names import PYSLOWFAST
from modist_pipelines.store.reader import META_NAME

_NUM_VIDEOS = 24


def stand_ins(config: GateConfig) -> GateConfig:
    """`config` with the data that `prepare_stand_ins` makes.

    Raises:
        ConfigError: real data was named too.
    """
    for name in ("weights", "store", "ucf101", "hmdb51"):
        if getattr(config, name) is not None:
            raise ConfigError(f"--rehearse makes its data up: leave out --{name}.")
    made = config.out / "made-up"
    return replace(config, weights=made / "maclr.pyth", store=made / "store", ucf101=made / "ucf", hmdb51=made / "hmdb")


def job_of_store(config: GateConfig) -> Job:
    """The store of the made-up videos."""
    made = config.out / "made-up"
    words = command("prepare", made / "demo", "--out", made / "store", "--short-side", 48)
    return Job("made-up store", words, made / "store-job", made / "store" / META_NAME)


def lay_out(config: GateConfig) -> None:
    """Make videos, under the names of UCF101's and HMDB51's too, with their lists; and weights like the authors'."""
    made = config.out / "made-up"
    make_demo_videos(made / "demo", num_videos=_NUM_VIDEOS, seed=0, workers=1)  # those that are there are left alone
    videos = sorted((made / "demo").rglob("*.mp4"))
    names = [f"{path.parent.name}/v_{path.parent.name}_g{place:02d}_c01.avi" for place, path in enumerate(videos)]
    tested = [place % 3 == 0 for place in range(len(videos))]
    for path, name in zip(videos, names, strict=True):
        for folder in (made / "ucf", made / "hmdb"):
            (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / "videos" / name)
    classes = sorted({path.parent.name for path in videos})
    numbers = [1 + classes.index(path.parent.name) for path in videos]
    train = [f"{name} {number}" for name, number, test in zip(names, numbers, tested, strict=True) if not test]
    test = [name for name, test in zip(names, tested, strict=True) if test]
    _write(made / "ucf" / "trainlist01.txt", train)
    _write(made / "ucf" / "testlist01.txt", test)
    for label in classes:
        own = [(name, test) for name, test in zip(names, tested, strict=True) if name.startswith(f"{label}/")]
        lines = [f"{name.partition('/')[2]} {2 if test else 1}" for name, test in own]
        _write(made / "hmdb" / "splits" / f"{label}_test_split1.txt", lines)
    torch.manual_seed(0)
    state = PYSLOWFAST.theirs(build_visual("r18", 8).state_dict())
    torch.save({"model_state": {f"encoder_q.{name}": tensor for name, tensor in state.items()}}, made / "maclr.pyth")


def _write(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
