"""Running statistics of a step and of clips against float64, and what torch.compile makes of the groups."""

import numpy as np
import pytest
import torch
from small_runs import noise, small_config
from torch import nn
from torch._dynamo.utils import counters

from modist_fast.batch_norm import MOMENTUM, StepStatistics, set_precise_statistics
from modist_fast.host.distributed import join_world
from modist_fast.models.norm import GroupBatchNorm
from modist_fast.models.resnet import visual_resnet
from modist_fast.step import TrainingStep


@pytest.mark.parametrize(("num_groups", "together"), [(1, 1), (3, 1), (4, 2), (3, 3)])
def test_groups_weigh_equally(num_groups: int, together: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(GroupBatchNorm(4))
    norm = net[0]
    statistics = StepStatistics(net, num_groups, together)
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for _ in range(5):
        groups = [torch.randn(3, 4, 2, 5, 5) * (1 + g) + g for g in range(num_groups)]
        statistics.begin()
        for clips in torch.cat(groups).chunk(num_groups // together):
            net(clips)
            statistics.after_pass()
        statistics.end()
        means = torch.stack([g.double().mean(dim=(0, 2, 3, 4)) for g in groups]).mean(0)
        variances = torch.stack([g.double().transpose(0, 1).flatten(1).var(dim=1) for g in groups]).mean(0)
        mean, var = (1 - MOMENTUM) * mean + MOMENTUM * means, (1 - MOMENTUM) * var + MOMENTUM * variances
    assert isinstance(norm.running_mean, torch.Tensor)
    assert isinstance(norm.running_var, torch.Tensor)
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-6)


def test_one_graph_for_queries_and_one_for_keys_however_many_groups() -> None:
    config = small_config(num_groups=3)
    with join_world("cpu") as world:
        plain, compiled = TrainingStep(config, world), TrainingStep(config, world)
        torch._dynamo.reset()
        counters.clear()
        # The graphs are found as always, and run as they are: what is compiled out of them is torch's affair.
        compiled.model.online.compile(backend="eager", fullgraph=True)
        compiled.model.momentum.compile(backend="eager", fullgraph=True)
        for step in range(2):
            batch = noise(config, step)
            expected, found = plain(batch, 0.01), compiled(batch, 0.01)
            assert {name: float(value) for name, value in found.items()} == pytest.approx(
                {name: float(value) for name, value in expected.items()}, rel=1e-4
            )
        assert counters["stats"]["unique_graphs"] == 2
    for name, buffer in plain.model.named_buffers():
        torch.testing.assert_close(compiled.model.get_buffer(name), buffer, rtol=1e-3, atol=1e-4, msg=name)


def test_precise_statistics_are_those_of_all_clips_in_float64() -> None:
    torch.manual_seed(0)
    net = visual_resnet("r18", width=4).train()
    for module in net.modules():
        if isinstance(module, GroupBatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # or residual branches are nothing
    batches = list((3 + 2 * torch.randn(11, 3, 4, 32, 32)).split([4, 5, 2]))
    exact = visual_resnet("r18", width=4).double().train()
    exact.load_state_dict(net.state_dict())
    inputs: dict[str, list[np.ndarray]] = {}

    def keep(name: str):
        def hook(_: nn.Module, x: tuple[torch.Tensor]) -> None:
            inputs.setdefault(name, []).append(x[0].detach().transpose(0, 1).flatten(1).numpy())

        return hook

    for name, module in exact.named_modules():
        if isinstance(module, GroupBatchNorm):
            module.register_forward_pre_hook(keep(name))
    for batch in batches:
        exact(batch.double())
    momentum = net.stem_norm.momentum
    with join_world("cpu"):
        assert set_precise_statistics(net, batches) == 11
    for name, parts in inputs.items():
        norm, together = net.get_submodule(name), np.concatenate(parts, axis=1)
        np.testing.assert_allclose(norm.running_mean.numpy(), together.mean(axis=1), rtol=1e-4, atol=1e-4)  # type: ignore[union-attr]
        np.testing.assert_allclose(norm.running_var.numpy(), together.var(axis=1, ddof=1), rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    assert net.stem_norm.momentum == momentum


def test_no_clips_leave_the_statistics_alone() -> None:
    net = visual_resnet("r18", width=4).train()
    net.stem_norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
    with join_world("cpu"):
        assert set_precise_statistics(net, []) is None
    assert (net.stem_norm.running_mean == 3.0).all()  # type: ignore[union-attr]
