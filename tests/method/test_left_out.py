"""A step with gradients that are not finite leaves nothing behind: what follows is as if it never was."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modist_fast.config import TrainConfig
from modist_fast.errors import DivergedError
from modist_fast.host.distributed import World, join_world
from modist_fast.step import TrainingStep
from modist_fast.watch.late import LateLines, LeftOut
from modist_pipelines.clips.loader import ClipBatch
from tests.method.graph_stand_in import RecordedCalls
from tests.method.small_runs import noise, small_config

pytestmark = pytest.mark.fault

BAD = -1
"""In place of a batch's number: one with a NaN in a clip."""


def skipping(num_groups: int = 2, **optim: object) -> TrainConfig:
    config = small_config(num_groups)
    optim = {"warmup_epochs": 0.0, **optim}
    return replace(config, on_bad_step="skip", optim=replace(config.optim, **optim))


def batch_of(config: TrainConfig, number: int) -> ClipBatch:
    batch = noise(config, abs(number))
    if number == BAD:
        assert batch.motion_key is not None
        batch.visual_query[0, 0, 0, 0, 0] = torch.nan
        batch.motion_key[-1, 0, 0, 0, 0] = torch.inf
    return batch


def taken(config: TrainConfig, world: World, numbers: Sequence[int], new_graph: Any = None):
    """The loss of each good step, and the state after all."""
    step = TrainingStep(config, world, new_graph=new_graph)
    figures = [step(batch_of(config, number), 0.05)["loss"].item() for number in numbers]
    state = step.model.state_dict() | {
        f"velocity.{index}": value["momentum_buffer"] for index, value in step.optimizer.state_dict()["state"].items()
    }
    losses = [loss for loss, number in zip(figures, numbers, strict=True) if number != BAD]
    return losses, {name: tensor.clone() for name, tensor in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", ["sgd", "lars"])
@pytest.mark.parametrize("numbers", [[BAD, 1, 2, 3], [1, 2, BAD, 3, 4], [1, BAD, BAD, 2, BAD]], ids=str)
@pytest.mark.parametrize("num_groups", [1, 2])
def test_what_follows_is_as_if_the_step_never_was(name: str, numbers: list[int], num_groups: int) -> None:
    config = skipping(num_groups, name=name)
    if num_groups == 1:
        config = replace(config, objective=replace(config.objective, shuffle_bn=False))
    good = [number for number in numbers if number != BAD]
    with join_world("cpu") as world:
        losses, state = taken(config, world, numbers)
        expected_losses, expected = taken(replace(config, on_bad_step="stop"), world, good)
    if numbers[-1] == BAD:  # the nets of the keys have followed once more already, and will not again
        for tensors in (state, expected):
            for key in [key for key in tensors if key.startswith("momentum.")]:
                tensors.pop(key)
    assert losses == expected_losses
    assert_same(state, expected)


def test_without_the_option_a_bad_step_spoils_the_state() -> None:
    with join_world("cpu") as world:
        _, state = taken(replace(skipping(), on_bad_step="stop"), world, [1, BAD])
    spoiled = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    for part in ("online.", "bank.keys", "running_mean", "velocity."):
        assert any(part in name for name in spoiled), part


def test_recorded_steps_are_left_out_too() -> None:
    config, numbers = skipping(), [1, 2, 3, BAD, 4, BAD, 5, 6]
    with join_world("cpu") as world:
        losses, state = taken(config, world, numbers)
        again, recorded = taken(config, world, numbers, RecordedCalls)
    assert losses == again
    assert_same(recorded, state)


def test_a_run_goes_on_after_a_step_left_out() -> None:
    """The checkpoint of that very step: the momentum nets have moved, and must not move twice."""
    config, numbers = skipping(), [1, BAD, 2, 3]
    with join_world("cpu") as world:
        expected_losses, expected = taken(config, world, numbers)
        step = TrainingStep(config, world)
        for number in numbers[:2]:
            step(batch_of(config, number), 0.05)
        assert step.leave_out is not None
        assert step.leave_out.bad.item() == 1
        resumed = TrainingStep(config, world)
        resumed.model.load_state_dict(step.model.state_dict())
        resumed.optimizer.load_state_dict(step.optimizer.state_dict())
        resumed.go_on(left_out=True)
        losses = [resumed(batch_of(config, number), 0.05)["loss"].item() for number in numbers[2:]]
    assert losses == expected_losses[1:]
    assert_same(dict(resumed.model.state_dict()), {k: v for k, v in expected.items() if "velocity" not in k})


class Reads(TorchDispatchMode):
    """Counts the numbers that the host asks a device for, and waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default or func is torch.ops.aten.is_nonzero.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_the_host_asks_for_no_number(name: str) -> None:
    found = {}
    with join_world("cpu") as world:
        for then in ("stop", "skip"):
            config = replace(skipping(name=name), on_bad_step=then)
            step = TrainingStep(config, world)
            step(batch_of(config, 1), 0.05)
            with Reads() as reads, torch.autograd.set_multithreading_enabled(False):
                step(batch_of(config, 2), 0.05)
            found[then] = reads.count
        with Reads() as reads:
            assert torch.ones(()).item() == 1
    assert found["skip"] == found["stop"]
    assert reads.count == 1, "the counter is blind"


class Lines(LateLines[int]):
    def _row(self, launched: int, found: dict[str, float]) -> dict:
        return {"step": launched, **found}

    def _write(self, row: dict, launched: int) -> None:
        self.row = row


def see(lines: Lines, number: int, **figures: float) -> None:
    found = {"stop": 0.0, "loss": 1.0, "bad_gradients": 0.0, "first_bad_gradient": 0.0, "bad_gradient_norm": 0.0}
    found |= figures
    lines._follow(number, list(found), torch.tensor(list(found.values())))
    lines.flush()


class _Check:
    names = ("w",)


def test_each_is_said_and_one_too_many_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "modist")
    left_out = LeftOut(2)
    lines = Lines(_Check(), left_out=left_out)  # pyright: ignore[reportArgumentType]
    see(lines, 1)
    assert lines.row["step_skipped"] == 0.0
    see(lines, 2, loss=math.nan, bad_gradients=1.0, bad_gradient_norm=math.nan)
    assert lines.row["step_skipped"] == 1.0
    see(lines, 3, bad_gradients=1.0, bad_gradient_norm=math.inf)
    assert left_out.count == 2
    assert (
        "at step 3 on rank 0: 1 of 1 tensors, the first of them w with norm inf. The step was left out"
        in (caplog.messages[1])
    )
    with pytest.raises(DivergedError, match=r"at step 4.*3 steps of this run were left out now.*--max-bad-steps 2"):
        see(lines, 4, bad_gradients=1.0)


def test_a_loss_that_is_none_without_bad_gradients_still_ends_the_run() -> None:
    """The device did not leave it out."""
    lines = Lines(_Check(), left_out=LeftOut(2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DivergedError, match="the loss became nan at step 1"):
        see(lines, 1, loss=math.nan)


def test_an_overflow_of_fp16_is_the_scalers_and_counts_for_itself() -> None:
    left_out = LeftOut(1)
    lines = Lines(_Check(), left_out=left_out)  # pyright: ignore[reportArgumentType]
    for number in range(1, 4):
        see(lines, number, bad_gradients=1.0, loss_scale=1024.0)
        assert lines.row["step_skipped"] == 1.0
    assert left_out.count == 0
    see(lines, 4, bad_gradients=1.0, loss=math.nan, loss_scale=1024.0)
    assert left_out.count == 1
