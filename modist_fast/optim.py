"""Optimizers and the learning-rate schedule."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modist_fast.config import OptimConfig
from modist_fast.errors import ConfigError

_LAMB_BETA2 = 0.999  # decay of the mean square, as You et al. (arXiv:1904.00962) have it


class LARS(torch.optim.Optimizer):
    """SGD whose step for each weight matrix is scaled to the weight's own norm (You et al., arXiv:1708.03888).

    Parameter groups with `adapt=False` (biases, batch norm) take plain SGD steps. Nesterov momentum, as the SGD here.

    Attributes:
        found_inf: () of the device; where it is 1, a step changes nothing, as of torch's fused SGD. None: every step is
            taken.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "adapt": adapt,
            },
        )

    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step on all parameters that have a gradient."""
        assert closure is None, "this training loop has no closure"
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            weights: list[Tensor] = [p.detach() for p in params]
            # A copy: the gradients are views of DDP's buckets, and decay and trust ratio must not leak into them.
            updates = torch._foreach_add([p.grad for p in params], weights, alpha=group["weight_decay"])
            if group["adapt"]:
                torch._foreach_mul_(updates, _trust_ratios(weights, updates, group["trust_coefficient"]))
            for param in params:
                if "momentum_buffer" not in self.state[param]:
                    self.state[param]["momentum_buffer"] = torch.zeros_like(param)
            velocities = [self.state[p]["momentum_buffer"] for p in params]
            if self.found_inf is not None:
                self._stay(velocities, updates, group["momentum"], self.found_inf)
            else:
                torch._foreach_mul_(velocities, group["momentum"])
                torch._foreach_add_(velocities, updates)
                torch._foreach_add_(updates, velocities, alpha=group["momentum"])
            torch._foreach_mul_(updates, -group["lr"])  # a number, or where a graph is replayed a tensor
            torch._foreach_add_(weights, updates)

    @staticmethod
    def _stay(
        velocities: list[Tensor], updates: tuple[Tensor, ...] | list[Tensor], momentum: float, bad: Tensor
    ) -> None:
        """The momentum's part of a step; where it is `bad`, velocities stay and updates, whatever they hold, are 0."""
        for update in updates:
            update.masked_fill_(bad > 0, 0.0)
        torch._foreach_mul_(velocities, torch.where(bad > 0, 1.0, momentum))
        torch._foreach_add_(velocities, updates)
        torch._foreach_add_(updates, velocities, alpha=momentum)
        torch._foreach_mul_(updates, 1 - bad)


def _trust_ratios(weights: Sequence[Tensor], updates: Sequence[Tensor], coefficient: float) -> list[Tensor]:
    weight_norms = torch.stack(torch._foreach_norm(list(weights)))
    update_norms = torch.stack(torch._foreach_norm(list(updates)))
    usable = (weight_norms > 0) & (update_norms > 0)
    ratios = torch.where(usable, coefficient * weight_norms / update_norms, torch.ones_like(weight_norms))
    return list(ratios.unbind())


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer of the online nets: no weight decay (and no LARS scaling) on biases and batch norm.

    Raises:
        ConfigError: apex is asked for and cannot be had.
    """
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    if config.implementation == "apex":
        return _of_apex([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], config)
    if config.name == "lars":
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0, "adapt": False}]
        return LARS(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            trust_coefficient=config.trust_coefficient,
        )
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
        fused=True,
    )


def _of_apex(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    """NVIDIA apex's optimizer of that name, for which each group is one multi-tensor launch."""
    if not groups[0]["params"][0].is_cuda:
        raise ConfigError(
            "--optim.implementation apex: its optimizers run on GPUs alone, and this run computes on the CPU. Leave "
            "the option out, or pass --device cuda."
        )
    try:
        optimizers = importlib.import_module("apex.optimizers")
        FusedSGD, FusedLAMB = optimizers.FusedSGD, optimizers.FusedLAMB
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"--optim.implementation apex: no NVIDIA apex here ({error}). Build it as `modist doctor` says (PyPI's "
            "`apex` is another package), or leave the option out."
        ) from error
    common = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "lamb":
        return FusedLAMB(groups, betas=(config.momentum, _LAMB_BETA2), **common)
    return FusedSGD(groups, momentum=config.momentum, nesterov=config.momentum > 0, **common)


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, num_steps: int, batch_size: int) -> float:
    """Linear warm-up, then half a cosine to zero at `num_steps`.

    Args:
        step: the step about to be taken, from 0.
        batch_size: samples a step over all processes; scales both ends of the warm-up.
    """
    scale = batch_size / config.lr_batch_size
    warmup_steps = config.warmup_epochs * steps_per_epoch
    if step < warmup_steps:
        share = step / warmup_steps
        return scale * (config.warmup_start_lr + share * (config.lr - config.warmup_start_lr))
    progress = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return scale * config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
