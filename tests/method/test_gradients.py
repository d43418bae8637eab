"""Gradients that are no numbers: counted, named, kept out of checkpoints; and the alarm for a collapse."""

import logging
import math

import pytest
import torch
from torch import nn

from modist_fast.errors import ConfigError, DivergedError
from modist_fast.host.distributed import join_world
from modist_fast.step import TrainingStep
from modist_fast.watch.collapse import CollapseAlarm
from modist_fast.watch.gradients import GradientCheck, take_fault
from modist_fast.watch.late import LateLines
from tests.method.small_runs import noise, small_config

pytestmark = pytest.mark.fault

CPU = torch.device("cpu")


def net_with(gradients: list[torch.Tensor]) -> nn.ParameterList:
    net = nn.ParameterList([nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients])
    for parameter, gradient in zip(net, gradients, strict=True):
        parameter.grad = gradient
    return net


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", [[0], [2], [1, 2]])
def test_bad_gradients_are_counted_as_a_loop_counts_them(bad: float, where: list[int]) -> None:
    gradients = [torch.full((3, 2), 3e38), torch.zeros(5), torch.tensor(1e-45)]  # a sum of squares would overflow
    for index in where:
        gradients[index].view(-1)[-1] = bad
    check = GradientCheck(net_with(gradients).named_parameters(), 0, 1, CPU)
    found = {name: value.item() for name, value in check.figures().items()}
    slow = [index for index, gradient in enumerate(gradients) if not all(map(math.isfinite, gradient.view(-1)))]
    assert (found["bad_gradients"], found["first_bad_gradient"]) == (len(slow), slow[0])
    fault = take_fault(found, check.names)
    assert f"{len(where)} of 3 tensors, the first of them {where[0]} with norm {abs(bad)}" in fault
    assert not found, "nothing of it is left for the line"


def test_finite_gradients_are_no_fault() -> None:
    check = GradientCheck(net_with([torch.full((3, 2), -3.4e38), torch.zeros(5)]).named_parameters(), 0, 1, CPU)
    assert take_fault({name: value.item() for name, value in check.figures().items()}, check.names) == ""


def test_the_rank_whose_own_gradients_were_bad_is_named() -> None:
    """After the average both are bad."""
    figures = []
    for rank in range(2):
        check = GradientCheck(net_with([torch.tensor([math.nan])]).named_parameters(), rank, 2, CPU)
        check.see_own(torch.ones(4))
        check.see_own(torch.tensor([0.0, math.inf if rank == 1 else 1.0]))
        figures.append(check.figures())
    mean = {name: ((figures[0][name] + figures[1][name]) / 2).item() for name in figures[0]}
    assert take_fault(mean, check.names).startswith(" on rank 1: 1 of 1 tensors")


class Lines(LateLines[int]):
    def _row(self, launched: int, found: dict[str, float]) -> dict:
        return {"step": launched, **found}

    def _write(self, row: dict, launched: int) -> None:
        self.row = row


def test_a_planted_gradient_ends_the_run_with_its_name_one_step_late() -> None:
    """The loss is finite: nothing else would notice before the next save."""
    config = small_config(2)
    with join_world("cpu") as world:
        step = TrainingStep(config, world)
        lines = Lines(step.gradients)
        names = [name for name, parameter in step.model.online.named_parameters() if parameter.requires_grad]
        for number in (1, 2):
            if number == 2:
                planted = dict(step.model.online.named_parameters())[names[3]]
                planted.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
            figures = step(noise(config, number), 0.01)
            mine = {"stop": torch.zeros(()), **figures}
            lines._follow(number, list(mine), torch.stack(list(mine.values())))
        assert "bad_gradients" not in lines.row
        assert lines.row["step"] == 1
        with pytest.raises(DivergedError) as caught:
            lines.flush()
    for words in ("at step 2", "on rank 0", f"1 of {len(names)} tensors", names[3], "norm inf", "--optim.lr"):
        assert words in str(caught.value)


def test_fp16_counts_what_it_leaves_out_until_the_scale_is_nothing() -> None:
    """With torch's own scaler: an overflow is left out, one after another come to an error."""
    weight = nn.Parameter(torch.ones(2))
    check, optimizer = GradientCheck([("w", weight)], 0, 1, CPU), torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu")
    lines = Lines(check)

    def take(number: int) -> None:
        scaler.scale(weight.sum()).backward()
        assert weight.grad is not None
        weight.grad *= torch.inf
        figures = check.figures()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert scaler._scale is not None
        mine = {"stop": torch.zeros(()), "loss": torch.ones(()), **figures, "loss_scale": scaler._scale.clone()}
        lines._follow(number, list(mine), torch.stack([value.reshape(()) for value in mine.values()]))
        lines.flush()

    for number in range(1, 27):
        take(number)
        assert lines.row["step_skipped"] == 1.0
    with pytest.raises(DivergedError, match=r"loss scale of fp16 has come down to .* at step 27, .*first of them w"):
        take(27)
    assert torch.equal(weight.detach(), torch.ones(2))


def figures(spread: float, retrieval: float) -> dict[str, float]:
    return {"spread_visual": spread, "uniformity_visual": -0.01, "retrieval_visual": retrieval}


def test_a_collapse_is_said_once_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "modist")
    alarm = CollapseAlarm(64, "warn", window=4)
    for step in range(1, 20):
        alarm.see(step, figures(0.5 if step <= 2 else 0.01, 1 / 64))
    (line,) = [record.getMessage() for record in caplog.records]
    for words in ("by step 6", "visual has spread 0.010", "uniformity -0.010", "0.016 (chance 0.016)", "--on-collapse"):
        assert words in line
    stopping = CollapseAlarm(64, "stop", window=2)
    stopping.see(1, figures(0.01, 0.0))
    with pytest.raises(ConfigError, match="collapsed by step 2"):
        stopping.see(2, figures(0.01, 0.0))


@pytest.mark.parametrize(("spread", "retrieval"), [(0.5, 1 / 64), (0.01, 0.5)])
def test_narrow_or_poor_alone_is_no_collapse(spread: float, retrieval: float, caplog: pytest.LogCaptureFixture) -> None:
    alarm = CollapseAlarm(64, "stop", window=4)
    for step in range(10):
        alarm.see(step, figures(spread, retrieval))
    assert not caplog.records
