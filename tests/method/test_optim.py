"""Schedule and optimizers against formulas written out by hand."""

import itertools
import math

import pytest
import torch
from torch import nn

from modist_fast.config import OptimConfig
from modist_fast.optim import build_optimizer, learning_rate

CONFIG = OptimConfig(lr=0.1, lr_batch_size=64, warmup_epochs=2, warmup_start_lr=0.001)


def rate(step: int, batch_size: int = 64) -> float:
    return learning_rate(CONFIG, step, steps_per_epoch=10, num_steps=100, batch_size=batch_size)


def test_warm_up_is_linear_and_the_cosine_ends_at_zero() -> None:
    assert rate(0) == pytest.approx(0.001)
    assert rate(10) == pytest.approx((0.001 + 0.1) / 2)
    assert rate(20) == pytest.approx(0.1)
    assert rate(60) == pytest.approx(0.05)
    assert rate(80) == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * 0.75)))
    assert rate(100) == pytest.approx(0.0, abs=1e-12)


def test_rate_follows_the_batch_size() -> None:
    assert rate(33, batch_size=256) == pytest.approx(4 * rate(33))


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def train(net: nn.Module, config: OptimConfig, steps: int = 3) -> list[dict[str, torch.Tensor]]:
    """Weights before each step, and after the last; gradients are those of a fixed loss."""
    optimizer = build_optimizer(net, config)
    data = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    trace = []
    for _ in range(steps):
        optimizer.zero_grad()
        net(data).square().sum().backward()
        trace.append({k: v.detach().clone() for k, v in net.named_parameters()})
        trace[-1] |= {f"{k}.grad": v.grad.clone() for k, v in net.named_parameters() if v.grad is not None}
        optimizer.step()
    trace.append({k: v.detach().clone() for k, v in net.named_parameters()})
    return trace


@pytest.mark.parametrize("name", ["sgd", "lars"])
def test_steps_equal_the_update_rule_written_as_a_loop(name: str) -> None:
    config = OptimConfig(name=name, lr=0.01, weight_decay=0.1)  # pyright: ignore[reportArgumentType]
    trace = train(small_net(), config)
    velocity: dict[str, torch.Tensor] = {}
    for before, after in itertools.pairwise(trace):
        for key in after:
            if key.endswith(".grad"):
                continue
            weight, update = before[key].double(), before[f"{key}.grad"].double()
            if weight.ndim > 1:
                update = update + config.weight_decay * weight
                if name == "lars":
                    update = update * (config.trust_coefficient * weight.norm() / update.norm())
            velocity[key] = config.momentum * velocity.get(key, torch.zeros_like(update)) + update
            expected = weight - config.lr * (update + config.momentum * velocity[key])
            torch.testing.assert_close(after[key].double(), expected, rtol=1e-5, atol=1e-7)


def test_lars_leaves_the_gradients_alone() -> None:
    net = small_net()
    optimizer = build_optimizer(net, OptimConfig(name="lars", lr=0.01))
    net(torch.ones(4, 5)).square().sum().backward()
    before = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    optimizer.step()
    assert all(torch.equal(b, p.grad) for b, p in zip(before, net.parameters(), strict=True) if p.grad is not None)


def test_a_weight_of_zeros_still_moves_under_lars() -> None:
    net = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(net.weight)
    optimizer = build_optimizer(net, OptimConfig(name="lars", lr=0.5))
    net(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    assert float(net.weight.detach().abs().min()) > 0
