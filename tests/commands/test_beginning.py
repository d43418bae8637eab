"""Where a run begins: never over another in silence, and from whole checkpoints alone."""

import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from modist_fast.commands.pretrain import open_source
from modist_fast.config import CheckpointConfig, OptimConfig, TrainConfig, check
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.host.distributed import join_world
from modist_fast.presets import PRESETS
from modist_fast.run.files import traces
from modist_fast.trainer import Trainer
from modist_fast.watch.run_log import read_metrics
from modist_pipelines.errors import DataError
from tests.commands.launching import newest

pytestmark = [pytest.mark.slow, pytest.mark.fault]

STEPS = 4


@pytest.fixture(autouse=True)
def sigterm_as_it_was() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def small(store: Path, out: Path) -> TrainConfig:
    """The smallest nets, saved at every step."""
    base = PRESETS["demo"](store, out)
    return replace(
        base,
        precision="fp32",
        device="cpu",
        batch_size=8,
        group_size=4,
        max_steps=STEPS,
        model=replace(base.model, visual_width=8),
        clips=replace(base.clips, crop_size=32),
        objective=replace(base.objective, bank_size=16),
        checkpoint=CheckpointConfig(every=1, keep=3),
    )


def pretrain(config: TrainConfig, trainer: type[Trainer] = Trainer) -> None:
    """As launch/pretrain.py does, in this process."""
    with join_world("cpu") as world:
        check(config, world.size)
        trainer(config, world, open_source(config, world.device)).run()


@pytest.fixture(scope="module")
def finished(demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    pretrain(small(demo_store, run))
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged."""
    shutil.copytree(finished, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO, "modist")
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def contents(run: Path) -> dict[Path, bytes]:
    """Its files; .lock names whoever wrote there last."""
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in paths}


def step_file(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}.pt"


def flip_a_weight(path: Path) -> None:
    """A byte of a weight changes; torch.load would not notice."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)
    torch.load(path)


def not_finite(path: Path) -> None:
    state = torch.load(path)
    state["model"]["bank.keys"][0, 0, 0] = torch.nan
    torch.save(state, path)


def link_nowhere(run: Path) -> None:
    latest = run / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to("step-00000099.pt")


# Going on


@pytest.mark.parametrize("lose", [lambda run: (run / "checkpoints" / "latest").unlink(), link_nowhere])
def test_without_latest_the_newest_whole_checkpoint_is_taken(
    demo_store: Path, run: Path, finished: Path, lose: Callable[[Path], None], warnings: Callable[[], list[str]]
) -> None:
    lose(run)
    flip_a_weight(step_file(run, 4))
    not_finite(step_file(run, 3))
    pretrain(replace(small(demo_store, run), resume="auto"))
    (line,) = warnings()
    for words in (
        "WARNING",
        "latest",
        "passed over",
        "Taking the newest whole",
        "step-00000002.pt",
        "step-00000004.pt cannot be",
    ):
        assert words in line
    assert "step-00000003.pt has numbers that are not finite" in line
    assert [row["loss"] for row in read_metrics(run / "metrics.jsonl")] == [
        row["loss"] for row in read_metrics(finished / "metrics.jsonl")
    ]
    weights = [torch.load(newest(path))["model"] for path in (run, finished)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_no_whole_checkpoint_is_no_beginning(demo_store: Path, run: Path) -> None:
    link_nowhere(run)
    for step in (2, 3, 4):
        step_file(run, step).write_bytes(b"")
    before = contents(run)
    with pytest.raises(ConfigError) as caught:
        pretrain(replace(small(demo_store, run), resume="auto"))
    for words in ("leads nowhere", "step-00000002.pt", "step-00000003.pt", "step-00000004.pt", "--overwrite"):
        assert words in str(caught.value)
    assert contents(run) == before


@pytest.mark.parametrize("damage", [flip_a_weight, not_finite])
def test_a_damaged_latest_gives_way_to_the_next_older_one(
    demo_store: Path,
    run: Path,
    finished: Path,
    damage: Callable[[Path], None],
    warnings: Callable[[], list[str]],
) -> None:
    damage(step_file(run, 4))
    pretrain(replace(small(demo_store, run), resume="auto"))
    (line,) = warnings()
    for words in ("WARNING", "passed over: step-00000004.pt", "Taking the newest whole", "step-00000003.pt"):
        assert words in line
    weights = [torch.load(newest(path))["model"] for path in (run, finished)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def _only_metrics(run: Path) -> None:
    for path in traces(run):
        if path.name not in ("metrics.jsonl", "config.json"):
            path.unlink()


@pytest.mark.parametrize(
    ("lose", "words"),
    [
        (lambda run: shutil.rmtree(run / "checkpoints"), "backbone.safetensors"),
        (lambda run: [step_file(run, step).unlink() for step in (2, 3, 4)], "checkpoints/latest"),
        (_only_metrics, "metrics.jsonl reaches step 4, which beginning anew would drop"),
    ],
)
def test_a_run_that_lost_its_checkpoints_is_no_beginning(
    demo_store: Path, run: Path, lose: Callable[[Path], None], words: str
) -> None:
    lose(run)
    before = contents(run)
    # A larger --checkpoint.every now does not make the old run a younger one.
    config = replace(small(demo_store, run), resume="auto", checkpoint=CheckpointConfig(every=1000))
    with pytest.raises(ConfigError, match=r"without a checkpoint.*--overwrite") as caught:
        pretrain(config)
    assert words in str(caught.value)
    assert contents(run) == before


@pytest.mark.parametrize("steps", [0, 2])
def test_a_run_killed_before_its_first_checkpoint_begins(
    demo_store: Path, run: Path, finished: Path, warnings: Callable[[], list[str]], steps: int
) -> None:
    """Saved at every step, the first may still be written while the second is taken; three steps must have left one."""
    _only_metrics(run)
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:3]))
    with pytest.raises(ConfigError, match="reaches step 3"):
        pretrain(replace(small(demo_store, run), resume="auto"))
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:steps]))
    pretrain(replace(small(demo_store, run), resume="auto"))
    (line,) = warnings()
    for words in ("WARNING", str(run), "before its first checkpoint"):
        assert words in line
    assert [row["loss"] for row in read_metrics(run / "metrics.jsonl")] == [
        row["loss"] for row in read_metrics(finished / "metrics.jsonl")
    ]


def test_an_evaluation_takes_the_newest_whole_checkpoint(run: Path, warnings: Callable[[], list[str]]) -> None:
    (run / "backbone.safetensors").unlink()
    link_nowhere(run)
    flip_a_weight(step_file(run, 4))
    state = torch.load(step_file(run, 3))
    state["model"]["online.visual.stem_norm.running_var"][0] = torch.inf
    torch.save(state, step_file(run, 3))
    assert "step-00000002.pt" in open_backbone(BackboneConfig(str(run))).origin
    (line,) = warnings()
    assert "step-00000002.pt" in line
    for step, words in ((3, "not finite in 1 of .* stem_norm.running_var"), (4, "checksum")):
        with pytest.raises(ConfigError, match=words):
            open_backbone(BackboneConfig(str(step_file(run, step))))


# Beginning anew


@pytest.mark.parametrize(
    "left",
    [
        ["config.json"],
        ["environment.json"],
        ["clips.png"],
        ["metrics.jsonl"],
        ["budget.jsonl"],
        ["backbone.safetensors", "backbone.json"],
        ["tensorboard"],
        ["checkpoints"],
    ],
)
def test_any_trace_of_a_run_keeps_another_out(demo_store: Path, run: Path, left: list[str]) -> None:
    for path in run.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = contents(run)
    with pytest.raises(ConfigError) as caught:
        pretrain(small(demo_store, run))
    for words in (left[0], "--resume auto", "--overwrite", "another --out"):
        assert words in str(caught.value)
    assert contents(run) == before


def test_overwrite_removes_the_old_run_and_nothing_else(
    demo_store: Path, run: Path, warnings: Callable[[], list[str]]
) -> None:
    own = [run / "notes.txt", run / "result.json", run / "checkpoints" / "step-of-mine.txt", run / "features" / "0.bin"]
    own[-1].parent.mkdir()
    for path in own:
        path.write_text("mine")
    old = [path for path in traces(run) if path not in own]
    config = small(demo_store, run)
    pretrain(replace(config, overwrite=True, max_steps=1, clips=replace(config.clips, crop_size=40)))
    (line,) = warnings()
    for words in ("--overwrite: removed", "metrics.jsonl", "backbone.safetensors", "4 files in checkpoints/"):
        assert words in line
    assert [path.read_text() for path in own] == ["mine"] * len(own)
    assert len(read_metrics(run / "metrics.jsonl")) == 1
    assert not any(step_file(run, step).exists() for step in (2, 3, 4))
    events = [path for path in old if path.parent.name == "tensorboard"]
    assert events
    assert not any(path.exists() for path in events)


def test_overwrite_costs_nothing_where_the_data_is_wrong(demo_store: Path, run: Path, tmp_path: Path) -> None:
    before = contents(run)
    config = replace(small(demo_store, run), overwrite=True)
    for wrong in ({"store": tmp_path}, {"batch_size": 6}, {"clips": replace(config.clips, motion_input="magnitude")}):
        with pytest.raises((ConfigError, DataError)):
            pretrain(replace(config, **wrong))
        assert contents(run) == before


def test_overwrite_and_resume_contradict_each_other(demo_store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--overwrite --resume auto"):
        check(replace(small(demo_store, tmp_path), overwrite=True, resume="auto"), 1)


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()  # a link to a larger disk, perhaps
    assert traces(tmp_path) == []


# Nothing broken is kept


class Stopped(Trainer):
    """Gets SIGTERM as its first step begins."""

    def _loop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        super()._loop()


@pytest.mark.parametrize(("trainer", "max_steps"), [(Trainer, 2), (Stopped, 100)])
def test_diverged_weights_are_not_kept(
    demo_store: Path, tmp_path: Path, trainer: type[Trainer], max_steps: int
) -> None:
    """The second step's loss is finite still; the weights that it leaves are not."""
    config = replace(small(demo_store, tmp_path / "run"), optim=OptimConfig(lr=1e45), max_steps=max_steps)
    every = 1 if trainer is Trainer else 1000
    with pytest.raises(ConfigError) as caught:
        pretrain(replace(config, checkpoint=CheckpointConfig(every=every)), trainer)
    kept = "the checkpoint kept is" if trainer is Trainer else "there is no checkpoint"
    for words in ("after step 2", "model.online.", kept, "--optim.lr", "--precision fp32"):
        assert words in str(caught.value)
    checkpoints = [path.name for path in (tmp_path / "run" / "checkpoints").glob("*")]
    assert sorted(checkpoints) == (["latest", "step-00000001.pt"] if trainer is Trainer else [])
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
