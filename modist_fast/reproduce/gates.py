"""The paper's figures as gates: what to run, what it costs by a model, and how near the result must be."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from modist_fast.ablation.jobs import Job
from modist_fast.errors import ConfigError
from modist_fast.host.processes import command
from modist_pipelines.ranges import COUNT, ranged

GateName = Literal["throughput", "authors-weights", "k400-mini"]

# For the model of hours. Multiplications and additions of one clip of 8 × 224² in R3D-50, forward: 1453 GFLOP are
# counted for a step of 8 samples (docs/step.md), each of them one clip with gradients (3 forwards) and one without.
_GFLOP_A_CLIP = 1453 / 8 / 4
_GFLOP_A_STEP = 1453 / 8
_TFLOPS = 117.0
"""Of one GPU: what the nets of modist-r50 reached on an H200 (docs/gpu.md)."""
_UCF101, _HMDB51 = (9537, 3783), (3570, 1530)  # videos of split 1: training, test
_VIEWS = 30
_MINI = 60_000
_UCF_GB, _HMDB_GB = 7, 2.5  # of the files, as they are downloaded
_STORE_MB_A_CLIP = 1.6  # of a store: 75 frames of ten seconds, 256 pixels, about 15 kB and an edge map of 6 kB each


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Run what one of the paper's figures needs, and say whether it was reached. Run it again after a kill."""

    gate: GateName
    """throughput: the limits of modist bench gpu-check. authors-weights: the authors' maclr.pyth, linear, within 1
    point of 91.5 (UCF101) and 63.0 (HMDB51). k400-mini: 60 000 videos, 100 epochs, within 2 of 78.1 and 47.2."""
    out: Path
    """Takes the runs, and result.json."""
    weights: Path | None = None
    """authors-weights: their maclr.pyth."""
    store: Path | None = None
    """k400-mini: a store of Kinetics-400's training videos, with RAFT's flow."""
    ucf101: Path | None = None
    """A folder with videos/ of UCF101, and trainlist01.txt and testlist01.txt beside it."""
    hmdb51: Path | None = None
    """A folder with videos/ of HMDB51, and its split files in splits/."""
    processes: int = ranged(1, COUNT)
    """GPUs of this machine; more than 1 are started by torchrun."""
    rehearse: bool = False
    """The same jobs at toy size on made-up videos: shows that all of them run, and judges nothing."""
    dry_run: bool = False
    """Print costs and commands, and run nothing."""


class Wanted(NamedTuple):
    """A figure and how near to it one must come."""

    name: str
    read: Callable[[], float]
    paper: float
    within: float


@dataclass(frozen=True)
class Gate:
    """What to run and what it should come to.

    Attributes:
        jobs: in their order, each after those before it.
        gpu_hours: by the model above, for one GPU.
        gigabytes: of data that must be there, and that the jobs make.
        arithmetic: how the hours come about, in words.
    """

    jobs: Sequence[Job]
    wanted: Sequence[Wanted]
    gpu_hours: float
    gigabytes: float
    arithmetic: str
    problems: Callable[[], list[str]] = field(default=list)
    """What a gate that judges itself finds wrong."""


def gate_of(config: GateConfig) -> Gate:
    """
    Raises:
        ConfigError: data that the gate needs was not named, or is not there.
    """
    if config.gate == "throughput":
        return _throughput(config)
    if not config.rehearse:  # which makes them in time
        _need(config, "ucf101", "hmdb51", "weights" if config.gate == "authors-weights" else "store")
    return _authors_weights(config) if config.gate == "authors-weights" else _k400_mini(config)


def _need(config: GateConfig, *names: str) -> None:
    for name in names:
        path = getattr(config, name)
        if path is None:
            raise ConfigError(f"--gate {config.gate} needs --{name}: {_doc(name)}. --rehearse makes videos up.")
        if not path.exists():
            raise ConfigError(f"--{name} {path} does not exist. Give the path of what is there.")


def _doc(name: str) -> str:
    return {
        "ucf101": "a folder with videos/, trainlist01.txt and testlist01.txt",
        "hmdb51": "a folder with videos/ and splits/",
        "weights": "the authors' maclr.pyth",
        "store": "a store of Kinetics-400's training videos",
    }[name]


def _throughput(config: GateConfig) -> Gate:
    folder = config.out / "gpu-check"
    words = ["--out", folder, "--skip-done", *(["--dry-run", "--only", "doctor"] if config.rehearse else [])]
    job = _job(config, "gpu-check", "bench gpu-check", words, folder / "results.json", alone=True)

    def problems() -> list[str]:
        found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        bad = [f"{stage['name']}: {stage['state']} {stage['message']}" for stage in found["stages"]]
        return [] if found["ok"] else bad

    return Gate([job], [], 1.0, 5.0, "about an hour, in stages of nine minutes at most", problems)


def _authors_weights(config: GateConfig) -> Gate:
    assert config.weights is not None
    jobs, wanted = _linear(config, str(config.weights), (91.5, 63.0), within=1.0, frames=32)
    hours = _linear_hours(frames=32)
    return Gate(jobs, wanted, hours, _UCF_GB + _HMDB_GB, _LINEAR_WORDS.format(frames=32))


def _k400_mini(config: GateConfig) -> Gate:
    assert config.store is not None
    run = config.out / "run"
    words = ["--preset", "k400-mini", "--store", config.store, "--out", run, "--resume", "auto", *_toy_run(config)]
    train = _job(config, "pretrain", "pretrain", words, run / "backbone.json")
    jobs, wanted = _linear(config, str(run), (78.1, 47.2), within=2.0, frames=8)
    hours = _MINI * 100 * _GFLOP_A_STEP / (_TFLOPS * 1e3) / 3600 + _linear_hours(frames=8)
    gigabytes = _UCF_GB + _HMDB_GB + _MINI * _STORE_MB_A_CLIP / 1e3
    arithmetic = f"{_MINI} videos x 100 epochs x {_GFLOP_A_STEP:.0f} GFLOP; then {_LINEAR_WORDS.format(frames=8)}"
    return Gate([train, *jobs], wanted, hours, gigabytes, arithmetic)


_LINEAR_WORDS = (
    "200 epochs over the training videos, 30 views of 256 pixels of the test videos, clips of {frames} frames, "
    f"at {_TFLOPS:.0f} TFLOP/s a GPU, as one H200 gave (docs/gpu.md); longer where decoding is the limit"
)


def _linear_hours(frames: int) -> float:
    gflop = _GFLOP_A_CLIP * frames / 8
    clips = sum(200 * train + _VIEWS * (256 / 224) ** 2 * test for train, test in (_UCF101, _HMDB51))
    return clips * gflop / (_TFLOPS * 1e3) / 3600


def _linear(
    config: GateConfig, backbone: str, paper: tuple[float, float], within: float, frames: int
) -> tuple[list[Job], list[Wanted]]:
    """The paper's linear protocol on split 1 of both sets."""
    assert config.ucf101 is not None
    assert config.hmdb51 is not None
    ucf, hmdb = config.ucf101, config.hmdb51
    lists = {
        "ucf101": [
            *("--videos", ucf / "videos"),
            *("--train-list", ucf / "trainlist01.txt", "--test-list", ucf / "testlist01.txt"),
        ],
        "hmdb51": ["--videos", hmdb / "videos", "--labels", hmdb / "splits", "--hmdb-split", 1],
    }
    jobs, wanted = [], []
    for (name, data), figure in zip(lists.items(), paper, strict=True):
        folder = config.out / name
        words = ["finetune", "--preset", f"{name}-linear", "--backbone", backbone, *data, "--out", folder]
        words += ["--views.num-frames", frames, "--leaks", "report", "--resume", "auto", *_toy_test(config)]
        jobs.append(_job(config, name, "evaluate", words, folder / "result.json"))
        wanted.append(Wanted(f"{name} top-1", _top1(folder / "result.json"), figure, within))
    return jobs, wanted


def _top1(path: Path) -> Callable[[], float]:
    return lambda: 100 * json.loads(path.read_text(encoding="utf-8"))["top1"]


def _job(config: GateConfig, name: str, what: str, words: Sequence[object], result: Path, alone: bool = False) -> Job:
    processes = None if alone or config.processes == 1 else config.processes
    first, *rest = what.split()
    return Job(name, command(first, *rest, *words, processes=processes), config.out / f"{name}-job", result)


def _toy_run(config: GateConfig) -> list[object]:
    if not config.rehearse:
        return []
    tiny = ["--model.arch", "r18", "--model.visual-width", 8, "--clips.crop-size", 32, "--objective.bank-size", 64]
    tiny += ["--clips.subset", 16]
    return [*tiny, "--batch-size", 8, "--group-size", 4, "--max-steps", 4, "--device", "cpu", "--precision", "fp32"]


def _toy_test(config: GateConfig) -> list[object]:
    if not config.rehearse:
        return []
    views = ["--views.crop-size", 32, "--views.test-crop-size", 36, "--views.temporal", 2, "--views.spatial", 1]
    views += ["--views.num-frames", 4, "--views.stride", 4]
    return [*views, "--epochs", 1, "--batch-size", 8, "--group-size", 4, "--device", "cpu", "--precision", "fp32"]
