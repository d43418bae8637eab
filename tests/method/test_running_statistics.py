"""Running statistics of a step against the formula in float64, and what torch.compile makes of the groups."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from modist_fast.config import TrainConfig
from modist_fast.host.distributed import join_world
from modist_fast.presets import demo
from modist_fast.running_statistics import MOMENTUM, StepStatistics
from modist_fast.step import TrainingStep
from modist_pipelines.clips.loader import ClipBatch


@pytest.mark.parametrize("num_groups", [1, 3])
def test_groups_weigh_equally(num_groups: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm3d(4))
    norm = net[0]
    statistics = StepStatistics(net, num_groups)
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    for _ in range(5):
        groups = [torch.randn(3, 4, 2, 5, 5) * (1 + g) + g for g in range(num_groups)]
        with statistics.step() as after_group:
            for group in groups:
                net(group)
                after_group()
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


def small_config(num_groups: int) -> TrainConfig:
    recipe = demo(None, Path())
    return replace(
        recipe,
        batch_size=2 * num_groups,
        group_size=2,
        precision="fp32",
        model=replace(recipe.model, visual_width=4, motion_width=4, head_width=16),
    )


def noise(config: TrainConfig, step: int) -> ClipBatch:
    random = torch.Generator().manual_seed(step)
    num = config.batch_size

    def clips(channels: int, frames: int) -> torch.Tensor:
        clip = torch.rand(num, channels, frames, 32, 32, generator=random)
        return clip.contiguous(memory_format=torch.channels_last_3d)

    return ClipBatch(
        step=step,
        epoch=0,
        video_ids=np.arange(num, dtype=np.int32),
        deal=np.random.default_rng(step).permutation(num),
        visual_query=clips(3, 8),
        visual_key=clips(3, 8),
        motion_query=clips(1, 16),
        motion_key=clips(1, 16),
        damaged=np.zeros(num, bool),
        counters={},
    )
