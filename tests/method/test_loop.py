"""The loop under both trainers, with a toy step: lines a step late, what is saved and when, a stop, a resume."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from modist_fast.config import CheckpointConfig, ObjectiveConfig, TrainConfig
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import World, join_world
from modist_fast.host.interrupts import Interrupted
from modist_fast.loop import TrainingLoop
from modist_fast.run import checkpoint
from modist_fast.run.whole_state import SaveError
from modist_fast.trainer import Trainer
from modist_fast.watch.late import LateLines


@pytest.fixture
def world() -> Iterator[World]:
    with join_world("cpu") as world:
        yield world


@dataclass(frozen=True)
class ToyConfig:
    checkpoint: CheckpointConfig = field(default_factory=lambda: CheckpointConfig(every=3, keep=100))
    resume: Literal["none", "auto"] = "none"
    overwrite: bool = False
    requeue_exit_code: int | None = None
    hang_minutes: float = 0.0


class ToyStep:
    """Adds 1 to a weight."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)

    def __call__(self) -> None:
        self.model.weight.grad = torch.full_like(self.model.weight, -1.0)
        self.optimizer.step()


class ToyLines(LateLines[int]):
    def __init__(self, events: list[str]) -> None:
        super().__init__()
        self._events = events

    def push(self, step: int, loss: float, stop: bool) -> None:
        self._events.append(f"launch {step}")
        self._follow(step, ["loss", "stop"], Tensor([loss, float(stop)]))

    def _row(self, launched: int, found: dict[str, float]) -> dict[str, Any]:
        return {"step": launched, **found}

    def _write(self, row: dict[str, Any], launched: int) -> None:
        self._events.append(f"line {row['step']}")


class Toy(TrainingLoop[ToyConfig]):
    """Notes what happens; the loss is no number from step `diverges_at` on, SIGTERM comes in step `stopped_in`."""

    def __init__(self, out: Path, world: World, config: ToyConfig, diverges_at: int = 99, stopped_in: int = 99) -> None:
        super().__init__(config, world, out)
        self.step, self.last_step = ToyStep(), 8
        self.events: list[str] = []
        self._diverges_at, self._stopped_in = diverges_at, stopped_in

    def run(self) -> None:
        self._resume({"data": lambda: "toy"}, "toys")
        with self._stopped_by_signals():
            lines = ToyLines(self.events)
            self._take_steps(self._batches, lambda step: self._take(step, lines), lines)
        self._save()
        self._end()

    def _batches(self) -> Iterator[int]:
        try:
            yield from range(self.steps_done + 1, self.last_step + 1)
        finally:
            self.events.append("no more batches")

    def _take(self, step: int, lines: ToyLines) -> None:
        if step == self._stopped_in:
            os.kill(os.getpid(), signal.SIGTERM)
        self.step()
        lines.push(step, float("nan") if step >= self._diverges_at else 1.0, self._stop_requested)

    def _own_state(self) -> dict[str, Any]:
        return {"data": "toy"}

    def _memory_options(self) -> str:
        return "--toys 8"

    def _agree(self) -> None:
        self.events.append(f"save {self.steps_done}")


def test_a_line_follows_the_next_launch_and_comes_before_its_checkpoint(tmp_path: Path, world: World) -> None:
    toy = Toy(tmp_path, world, ToyConfig())
    toy.run()
    expected = ["launch 1", "launch 2", "line 1", "launch 3", "line 2", "line 3", "save 3"]
    expected += ["launch 4", "launch 5", "line 4", "launch 6", "line 5", "line 6", "save 6"]
    assert toy.events == [*expected, "launch 7", "launch 8", "line 7", "line 8", "save 8", "no more batches"]
    assert weight_of(tmp_path) == 8


def weight_of(out: Path) -> float:
    found = checkpoint.latest(out)
    assert found is not None
    state = checkpoint.read(found, torch.device("cpu"))
    assert list(state) == ["format", "step", "config", "digest", "model", "optimizer", "scaler", "data"]
    assert state["step"] == state["model"]["weight"].item()
    return state["step"]


@pytest.mark.fault
@pytest.mark.parametrize("diverges_at", [3, 4, 8])
def test_a_step_whose_loss_is_no_number_is_not_saved(tmp_path: Path, world: World, diverges_at: int) -> None:
    toy = Toy(tmp_path, world, ToyConfig(), diverges_at)
    with pytest.raises(ConfigError, match=rf"the loss became nan at step {diverges_at}\. No checkpoint holds that"):
        toy.run()
    assert toy.events[-1] == "no more batches"  # their reader has ended, though the error goes on
    saved = [event for event in toy.events if event.startswith("save")]
    assert saved == [f"save {step}" for step in (3, 6) if step < diverges_at]


def test_what_was_stopped_goes_on(tmp_path: Path, world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "modist")
    stopped = Toy(tmp_path, world, ToyConfig(), stopped_in=4)
    with pytest.raises(Interrupted, match=r"by SIGTERM\. Saved after step 5 of 8; go on with --resume auto") as caught:
        stopped.run()
    assert caught.value.code == 143
    assert stopped.events[-3:] == ["no more batches", "line 5", "save 5"]  # it knew of it when step 5 was launched
    again = Toy(tmp_path, world, ToyConfig(resume="auto"))
    again.run()
    assert again.events[0] == "launch 6"
    assert f"resumed after step 5 from {tmp_path}" in caplog.text
    assert weight_of(tmp_path) == 8
    over = Toy(tmp_path, world, ToyConfig(resume="auto"))
    over.run()
    assert over.events == ["no more batches"], "nothing is taken nor saved again"


def test_the_cross_terms_grow_over_their_epochs() -> None:
    def weights(epochs: float) -> list[float]:
        part = TrainConfig(store=None, out=Path(), objective=ObjectiveConfig(cross_warmup_epochs=epochs))
        at = [SimpleNamespace(config=part, loader=SimpleNamespace(steps_per_epoch=4), steps_done=n) for n in range(10)]
        return [Trainer._cross_weight(trainer) for trainer in at]  # pyright: ignore[reportArgumentType]

    assert weights(0.0) == [1.0] * 10
    assert weights(1.5) == [0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1]


@pytest.mark.fault
@pytest.mark.parametrize("option", ["stop", "continue"])
@pytest.mark.parametrize("fails_at", [3, 8])
def test_a_save_that_fails_ends_the_run_or_is_gone_on_from(
    tmp_path: Path,
    world: World,
    option: Any,
    fails_at: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save = checkpoint.save

    def full(out: Path, step: int, *rest: Any) -> Path:
        if step == fails_at:
            raise SaveError(f"after step {step}: no room")
        return save(out, step, *rest)

    monkeypatch.setattr(checkpoint, "save", full)
    toy = Toy(tmp_path, world, ToyConfig(checkpoint=CheckpointConfig(every=3, on_save_error=option)))
    if option == "continue" and fails_at == 3:
        toy.run()
        assert "after step 3: no room" in caplog.text
        assert weight_of(tmp_path) == 8
    else:  # without its last checkpoint a run has not done what it says
        with pytest.raises(SaveError, match=f"after step {fails_at}"):
            toy.run()
        assert fails_at == 3 or weight_of(tmp_path) == 6
