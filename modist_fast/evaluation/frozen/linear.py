"""Linear classifiers on frozen features: L-BFGS with a fixed penalty, or the paper's SGD."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen.config import LbfgsConfig, SgdConfig

_MAX_ITERATIONS = 2000
_GRADIENT_LIMIT = 1e-7  # largest entry of the gradient, of the loss divided by C · samples, where L-BFGS ends
_WORTH_THREADS = 1 << 24
"""Multiplications of a product from which on torch's threads share it; below, it is over within milliseconds on one."""


class Linear(NamedTuple):
    """A trained classifier: softmax of ((x - shift) * scale) W + b, of x / |x| where `unit`."""

    weight: Tensor
    """(D, K) float64; K counts the classes that were trained."""
    bias: Tensor
    shift: Tensor
    scale: Tensor
    unit: bool
    classes: np.ndarray
    """(K,) int64 labels of the columns."""

    def probabilities(self, features: np.ndarray, num_classes: int) -> np.ndarray:
        """(..., D) to (..., num_classes) float64; 0 for classes that had no training sample."""
        x = torch.from_numpy(np.ascontiguousarray(features)).double().to(self.weight.device)
        if self.unit:
            x = nn.functional.normalize(x, dim=-1)
        scores = ((x - self.shift) * self.scale) @ self.weight + self.bias
        found = np.zeros((*features.shape[:-1], num_classes))
        found[..., self.classes] = scores.softmax(dim=-1).numpy(force=True)
        return found

    def on_features(self, num_classes: int) -> tuple[Tensor, Tensor]:
        """(K, D) weights and (K,) biases on x itself, or x / |x|; classes that had no sample are out of reach."""
        weight = torch.zeros(num_classes, len(self.weight), dtype=torch.float64)
        bias = torch.full((num_classes,), -torch.inf, dtype=torch.float64)
        scaled = self.scale[:, None] * self.weight
        weight[self.classes] = scaled.T.cpu()
        bias[self.classes] = (self.bias - self.shift @ scaled).cpu()
        return weight, bias


class _Prepared(NamedTuple):
    x: Tensor
    y: Tensor
    shift: Tensor
    scale: Tensor
    classes: np.ndarray


def _prepare(features: np.ndarray, labels: np.ndarray, normalize: str, device: torch.device) -> _Prepared:
    """Samples as float64, normalized, and labels as places among the classes that are there."""
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ConfigError(
            "the training part has videos of one class only: there is nothing to tell apart. "
            "Look at the column of labels, and at --train-where."
        )
    x = torch.from_numpy(np.ascontiguousarray(features)).double().to(device)
    shift, scale = torch.zeros_like(x[0]), torch.ones_like(x[0])
    if normalize == "standardize":
        shift, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
        # A feature that never varies over the training samples carries nothing; its rounding errors must not.
        varies = deviation > 1e-10 * (shift.abs() + deviation.max())
        scale = torch.where(varies, 1 / deviation.where(varies, torch.ones_like(deviation)), 1.0)
    elif normalize == "l2":
        x = nn.functional.normalize(x, dim=-1)
    return _Prepared((x - shift) * scale, torch.from_numpy(places).to(device), shift, scale, classes)


@contextmanager
def threads_for(num_multiplications: int) -> Iterator[None]:
    """Compute in here on one thread, if a product is so small that a second would not pay.

    Where the cores are busy, a thread that waits for another's small part waits for the scheduler: fits of a second
    took half a minute.

    Args:
        num_multiplications: of the largest product in here.
    """
    before = torch.get_num_threads()
    if num_multiplications < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_lbfgs(features: np.ndarray, labels: np.ndarray, config: LbfgsConfig, device: torch.device) -> Linear:
    """Minimize to the end, in float64; a small problem on one thread.

    Args:
        features: (n, D) training samples.
        labels: (n,)

    Raises:
        ConfigError: fewer than two classes, or it does not converge.
    """
    data = _prepare(features, labels, config.normalize, device)
    num, dim = data.x.shape
    weight = torch.zeros(dim, len(data.classes), dtype=torch.float64, device=device, requires_grad=True)
    bias = torch.zeros(len(data.classes), dtype=torch.float64, device=device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=_GRADIENT_LIMIT,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        # Divided by C · n: its size then does not depend on either, so one limit on the gradient serves all.
        value = nn.functional.cross_entropy(data.x @ weight + bias, data.y) + weight.square().sum() / (
            2 * config.c * num
        )
        value.backward()
        return value

    with threads_for(num * dim * len(data.classes)):
        optimizer.step(loss)  # type: ignore[arg-type]
        loss()
    assert weight.grad is not None
    assert bias.grad is not None
    gradient = max(float(weight.grad.abs().max()), float(bias.grad.abs().max()))
    if not gradient < 100 * _GRADIENT_LIMIT:
        raise ConfigError(
            f"L-BFGS has not converged in {_MAX_ITERATIONS} steps (gradient {gradient:.1e}): the features are not "
            "finite, or the penalty is too weak. Use a smaller --lbfgs.c."
        )
    return Linear(weight.detach(), bias.detach(), data.shift, data.scale, config.normalize == "l2", data.classes)


def fit_sgd(features: np.ndarray, labels: np.ndarray, config: SgdConfig, device: torch.device, seed: int = 0) -> Linear:
    """Train as the paper does; each epoch shows one view of each video, drawn by the seed.

    Args:
        features: (n, V, D), the views of each training video.
        labels: (n,)
    """
    num, num_views, dim = features.shape
    data = _prepare(features.reshape(-1, dim), np.repeat(labels, num_views), config.normalize, device)
    x, y = data.x.float().view(num, num_views, dim), data.y.view(num, num_views)[:, 0]
    random = torch.Generator().manual_seed(seed)
    layer = nn.Linear(dim, len(data.classes)).to(device)
    with torch.no_grad():
        layer.weight.copy_(torch.empty(layer.weight.shape).normal_(0, 0.01, generator=random))
        layer.bias.zero_()
    optimizer = torch.optim.SGD(layer.parameters(), lr=config.lr, momentum=config.momentum, nesterov=True)
    batches_per_epoch = math.ceil(num / config.batch_size)
    num_steps, step = config.epochs * batches_per_epoch, 0
    with threads_for(min(num, config.batch_size) * dim * len(data.classes)):
        for _ in range(config.epochs):
            order = torch.randperm(num, generator=random)
            views = torch.randint(num_views, (num,), generator=random)
            for videos in order.split(config.batch_size):
                for group in optimizer.param_groups:
                    # The rate belongs to a full batch; a smaller one is scaled, as the trainer's is.
                    group["lr"] = config.lr * len(videos) / 256 * 0.5 * (1 + math.cos(math.pi * step / num_steps))
                batch, target = x[videos.to(device), views[videos].to(device)], y[videos.to(device)]
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(batch), target).backward()
                optimizer.step()
                step += 1
    weight, bias = layer.weight.detach().T.double(), layer.bias.detach().double()
    if not torch.isfinite(weight).all():
        raise ConfigError(f"the linear classifier diverged at --sgd.lr {config.lr}. Use a smaller one.")
    return Linear(weight, bias, data.shift, data.scale, config.normalize == "l2", data.classes)
