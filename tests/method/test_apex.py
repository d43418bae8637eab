"""--optim.implementation apex: what NVIDIA's classes are called with, and on a GPU that they step as torch's do."""

import copy
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from small_runs import noise, small_config
from torch import nn
from torch._subclasses import FakeTensorMode

from modist_fast import groups
from modist_fast.config import OptimConfig, check
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import join_world
from modist_fast.optim import build_optimizer
from modist_fast.presets import find_preset
from modist_fast.step import TrainingStep

APEX = OptimConfig(implementation="apex", lr=0.3, weight_decay=0.02, momentum=0.8)


class Told(torch.optim.Optimizer):
    """Takes the arguments that apex's classes take, and no others."""

    def __init__(self, params: Any, lr: float, weight_decay: float, **own: Any) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.own = own

    def zero_grad(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride], as FusedLAMB has it
        raise AssertionError("takes no set_to_none, and is not to be called")


class FusedSGD(Told):
    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float, nesterov: bool) -> None:
        super().__init__(params, lr, weight_decay, momentum=momentum, nesterov=nesterov)


class FusedLAMB(Told):
    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(params, lr, weight_decay, betas=betas)


@pytest.fixture
def apex(monkeypatch: pytest.MonkeyPatch) -> None:
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedSGD, optimizers.FusedLAMB = FusedSGD, FusedLAMB  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "apex", package)
    monkeypatch.setitem(sys.modules, "apex.optimizers", optimizers)


def net_on_a_gpu() -> nn.Module:
    with FakeTensorMode(), torch.device("cuda"):
        return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def test_apex_is_told_what_torch_is_told(apex):
    net = net_on_a_gpu()
    optimizer = build_optimizer(net, APEX)
    assert isinstance(optimizer, FusedSGD)
    assert optimizer.own == {"momentum": 0.8, "nesterov": True}
    torchs = build_optimizer(net, replace(APEX, implementation="torch"))
    for mine, theirs in zip(optimizer.param_groups, torchs.param_groups, strict=True):
        assert [id(weight) for weight in mine["params"]] == [id(weight) for weight in theirs["params"]]
        assert (mine["lr"], mine["weight_decay"]) == (theirs["lr"], theirs["weight_decay"])
    assert torchs.param_groups[0]["nesterov"] is True
    assert isinstance(build_optimizer(net, replace(APEX, name="lamb")), FusedLAMB)
    lamb: Any = build_optimizer(net, replace(APEX, name="lamb"))
    assert lamb.own == {"betas": (0.8, 0.999)}
    assert [group["weight_decay"] for group in lamb.param_groups] == [0.02, 0.0]


def test_without_a_gpu_or_apex_it_is_refused(apex, monkeypatch):
    with pytest.raises(ConfigError, match="run on GPUs alone"):
        build_optimizer(nn.Linear(3, 3), APEX)
    monkeypatch.setitem(sys.modules, "apex.optimizers", ModuleType("apex.optimizers"))  # PyPI's has no such classes
    with pytest.raises(ConfigError, match=r"no NVIDIA apex here.*modist doctor"):
        build_optimizer(net_on_a_gpu(), APEX)
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)
    with pytest.raises(ConfigError, match="no NVIDIA apex here"):
        build_optimizer(net_on_a_gpu(), APEX)


@pytest.mark.parametrize(("name", "implementation"), [("lamb", "torch"), ("lars", "apex")])
def test_what_neither_has_is_refused_at_once(name, implementation, tmp_path):
    config = find_preset("demo")(tmp_path, tmp_path / "run")
    config = replace(config, optim=replace(config.optim, name=name, implementation=implementation))
    with pytest.raises(ConfigError, match=f"--optim.name {name} --optim.implementation {implementation}"):
        check(config, 1)


class StandsIn(torch.optim.SGD):
    """Steps as torch's, and is called as apex's classes can be."""

    def zero_grad(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise AssertionError("takes no set_to_none, and is not to be called")

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert all(type(group["lr"]) is float for group in self.param_groups), "its kernels take a number"
        super().step(closure)


def test_it_cannot_leave_steps_out(tmp_path):
    config = find_preset("demo")(tmp_path, tmp_path / "run")
    config = replace(config, on_bad_step="skip", optim=replace(config.optim, implementation="apex"))
    with pytest.raises(ConfigError, match=r"--on-bad-step skip --optim\.implementation apex"):
        check(config, 1)


def test_a_whole_step_calls_it_as_it_can_be_called(monkeypatch):
    config = small_config(num_groups=2)
    with join_world("cpu") as world:
        torchs = TrainingStep(config, world)
        monkeypatch.setattr(groups, "build_optimizer", lambda net, optim: stand_in(net, optim))
        apexes = TrainingStep(replace(config, optim=replace(config.optim, implementation="apex")), world)
        for number in range(3):
            batch = noise(config, number)
            assert torchs(batch, 0.1 / (1 + number))["loss"] == apexes(batch, 0.1 / (1 + number))["loss"]
    for mine, other in zip(torchs.model.parameters(), apexes.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def stand_in(net: nn.Module, config: OptimConfig) -> StandsIn:
    torchs = build_optimizer(net, replace(config, implementation="torch"))
    options = {name: torchs.defaults[name] for name in ("lr", "momentum", "nesterov", "fused")}
    return StandsIn([{k: group[k] for k in ("params", "weight_decay")} for group in torchs.param_groups], **options)


@pytest.mark.gpu
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_apex_steps_as_torch(momentum):
    pytest.importorskip("amp_C", reason="NVIDIA apex with its CUDA extensions")
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(50, 70), nn.BatchNorm1d(70), nn.Linear(70, 3)).cuda()
    theirs = copy.deepcopy(ours)
    config = replace(APEX, momentum=momentum)
    optimizers = build_optimizer(theirs, config), build_optimizer(ours, replace(config, implementation="torch"))
    clips = torch.randn(16, 50, device="cuda")
    for number in range(5):
        for net, optimizer in zip((theirs, ours), optimizers, strict=True):
            net(clips).square().mean().backward()
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (1 + number)
            optimizer.step()
            torch.optim.Optimizer.zero_grad(optimizer)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)
