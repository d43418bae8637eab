"""Launches of a GPU's step, counted on fake tensors against what is held; a wait planted in each phase is found."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from modist_fast.pathways import MoDist
from modist_fast.step import TrainingStep
from modist_fast.watch.gradients import GradientCheck
from modist_profiling.step.launches import _kernels, count_launches, of_preset
from modist_profiling.step.worker import step_config

pytestmark = pytest.mark.slow


def test_step_of_the_paper() -> None:
    one, eight = of_preset("modist-r50", 1), of_preset("modist-r50", 8)
    assert one.kernels.total() <= 1500
    assert eight.kernels.total() <= 1800
    assert one.waits == eight.waits == []
    assert one.norm_bytes <= 0.65 * one.unfused_norm_bytes  # docs/gpu.md says what keeps it from less
    assert eight.norm_bytes == 8 * one.norm_bytes
    # By hand: 53 norms in each of two nets, for queries and for keys, two kernels each; backward as many for queries.
    assert one.kernels["batch_norm"] == 2 * 2 * 2 * 53
    assert one.kernels["batch_norm_backward"] == 2 * 2 * 53
    assert one.kernels["convolution"] == 2 * 2 * 53
    assert one.kernels["convolution_backward"] == 2 * 2 * 53 - 2  # no gradient goes to the clips


def small():
    config = step_config({"preset": "demo", "batch": 4, "crop": 32, "bank": 64})
    return replace(config, group_size=2)


def item(tensor: torch.Tensor) -> None:
    tensor.new_ones(()).item()


def mask(tensor: torch.Tensor) -> None:
    tensor.new_ones(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("wait", [item, mask, torch.nonzero])
@pytest.mark.parametrize(
    ("owner", "method", "phase"),
    [
        (MoDist, "update_momentum", "momentum"),
        (TrainingStep, "_embed_keys", "keys"),
        (TrainingStep, "_embed_queries", "queries"),
        (TrainingStep, "_loss", "loss"),
        (GradientCheck, "figures", "checks"),
        (TrainingStep, "_update_weights", "optimizer"),
        (TrainingStep, "_health", "log"),
    ],
)
def test_a_wait_is_found_where_it_is(owner, method, phase, wait, monkeypatch: pytest.MonkeyPatch) -> None:
    real = getattr(owner, method)

    def waits(self, *args):
        with suppress(Exception):  # a fake tensor has no number to give, after the call was counted
            wait(torch.empty(4))
        return real(self, *args)

    monkeypatch.setattr(owner, method, waits)
    found = count_launches(small()).waits
    assert found
    assert all(line.endswith(f"in {phase}") for line in found)


def test_the_small_step_waits_for_nothing() -> None:
    assert count_launches(small()).waits == []


def test_a_list_whose_strides_differ_is_counted_tensor_by_tensor() -> None:
    plain = [torch.empty(4, 6, 1) for _ in range(5)]
    turned = [torch.empty(6, 4, 1).transpose(0, 1) for _ in range(5)]
    length_one = [tensor.as_strided((4, 6, 1), (6, 1, 99)) for tensor in plain]
    assert _kernels("_foreach_copy_", (plain, length_one)) == 1
    assert _kernels("_foreach_copy_", (plain, turned)) == 5
