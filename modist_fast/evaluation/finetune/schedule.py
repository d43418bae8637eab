"""The learning rate of supervised training, as PySlowFast's recipes have it."""

import math
from dataclasses import dataclass
from typing import Literal

from modist_fast.config import OptimConfig
from modist_fast.errors import ConfigError
from modist_pipelines.ranges import COUNT, FROM_ZERO, MOMENTUM, POSITIVE, ranged


@dataclass(frozen=True)
class SupervisedOptimConfig:
    """SGD with Nesterov momentum. Learning rates are for `lr_batch_size` samples a step and scale linearly."""

    lr: float = ranged(0.01, FROM_ZERO)
    """Peak learning rate for `lr_batch_size` clips a step; scaled linearly with --batch-size."""
    lr_batch_size: int = ranged(64, COUNT)
    """Clips a step that the rates are meant for."""
    momentum: float = ranged(0.9, MOMENTUM)
    """Nesterov's."""
    weight_decay: float = ranged(1e-4, FROM_ZERO)
    """Not applied to biases and batch norm."""
    warmup_epochs: float = ranged(34.0, FROM_ZERO)
    """Epochs over which the rate grows to its peak, in a line."""
    warmup_start_lr: float = ranged(0.001, FROM_ZERO)
    """Where it begins, for `lr_batch_size` clips a step."""
    policy: Literal["cosine", "steps"] = "cosine"
    """How the rate falls: half a cosine to zero, or by `step_factor` at each of the given epochs."""
    step_epochs: tuple[float, ...] = ranged((), POSITIVE)
    """steps: the rate is multiplied by `step_factor` at each of these."""
    step_factor: float = ranged(0.1, POSITIVE)
    """What the rate is multiplied by at a step."""

    def as_sgd(self) -> OptimConfig:
        """What `build_optimizer` takes."""
        return OptimConfig(name="sgd", lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)


def check_schedule(config: SupervisedOptimConfig, epochs: float) -> None:
    """
    Raises:
        ConfigError: epochs of the schedule lie outside the run.
    """
    if config.policy == "steps" and not config.step_epochs:
        raise ConfigError("--optim.policy steps needs --optim.step-epochs, the epochs at which the rate falls.")
    if list(config.step_epochs) != sorted(config.step_epochs):
        raise ConfigError(f"--optim.step-epochs {' '.join(map(str, config.step_epochs))}: give them in rising order.")
    if not 0 <= config.warmup_epochs <= epochs:
        raise ConfigError(
            f"--optim.warmup-epochs {config.warmup_epochs:g} is not within the {epochs:g} --epochs of the run. Use "
            f"fewer, such as --optim.warmup-epochs {epochs / 10:g}, or more --epochs."
        )


def supervised_learning_rate(config: SupervisedOptimConfig, epoch: float, epochs: float, batch_size: int) -> float:
    """The rate at a moment of the run.

    The cosine runs over all epochs, from the first one on; the warm-up is a straight line from its start to where the
    policy is at its end.

    Args:
        epoch: fractional, from 0.
        epochs: of the run.
        batch_size: samples a step, over all processes.
    """
    scale = batch_size / config.lr_batch_size
    if epoch >= config.warmup_epochs:
        return scale * _policy(config, epoch, epochs)
    end = _policy(config, config.warmup_epochs, epochs)
    return scale * (config.warmup_start_lr + epoch / config.warmup_epochs * (end - config.warmup_start_lr))


def _policy(config: SupervisedOptimConfig, epoch: float, epochs: float) -> float:
    if config.policy == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / epochs)))
    return config.lr * config.step_factor ** sum(epoch >= step for step in config.step_epochs)
