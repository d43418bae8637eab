"""What a GPU's step hands to its device, counted without one: calls, kernels by a table, reads that wait.

The step runs on fake tensors, which have shapes and no contents, with all that a GPU would choose: the Triton kernels,
bf16, weights cast in lists, the stem by frames, every group in one pass. docs/gpu.md sets the count beside what a
profiler saw on a real one.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from modist_fast.config import TrainConfig
from modist_fast.host.distributed import join_world
from modist_fast.models.layers import Stem
from modist_fast.pathways import Pathways
from modist_fast.step import TrainingStep
from modist_fast.watch.gradients import GradientCheck
from modist_kernels.dispatch import ENVIRONMENT_VARIABLE
from modist_profiling.step.operations import FREE
from modist_profiling.step.worker import made_up_batch, step_config

KERNELS = {
    "batch_norm": 2,  # statistics, normalization
    "batch_norm_backward": 2,  # sums, gradient
    "queue_infonce": 2,  # the pass over the banks, their combination
    "queue_infonce_backward": 1,
    "convolution_backward": 2,  # by weights and by inputs; of a stem by weights alone, see `_kernels`
    "max_pool2d_with_indices_backward": 2,  # a fill before it
    "std": 2,
    "cat": 1,
}
"""Kernels of an ATen call or custom op, where it is more than one, or worth saying."""
_LIST_LENGTH = {1: 110, 2: 64, 3: 48, 4: 36}  # tensors of a launch, by lists that it walks (MultiTensorApply.cuh)
_LIST_BLOCKS, _LIST_CHUNK = 320, 65536  # blocks of a launch, values of a block
_WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}


@dataclass
class StepLaunches:
    """Of one step."""

    calls: Counter[str]
    """ATen calls and custom ops that do something, by name."""
    kernels: Counter[str]
    """Kernels that these launch, by name of the call."""
    waits: list[str]
    """Calls, with the span they were met in, for which the host waits until the device is done."""
    norm_bytes: int = 0
    """That the fused norm, ReLU and addition read and write, forward and backward."""
    unfused_norm_bytes: int = 0
    """The same by a kernel for each: norm, addition, ReLU; backward of ReLU and norm."""


class _Count(TorchDispatchMode):
    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self._step, self.found = step, StepLaunches(Counter(), Counter(), [])

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[-1]
        if name in _WAITS or (name.startswith("index") and _is_by_mask(args)):
            self.found.waits.append(f"{name} in {self._step.spans.phase or 'between spans'}")
        if not func.is_view and name not in FREE:
            self.found.calls[name] += 1
            self.found.kernels[name] += _kernels(name, args)
        if name in ("batch_norm", "batch_norm_backward"):
            self._add_bytes(name, args)
        return func(*args, **(kwargs or {}))

    def _add_bytes(self, name: str, args: tuple) -> None:
        """Tensors of the input's size that each kernel reads or writes (batch_norm/kernels.py)."""
        if name == "batch_norm":
            x, residual, relu = args[0], args[9] is not None, args[10]
            fused = 3 + residual  # x, to sum; x, residual and y
            unfused = 3 + 3 * residual + 2 * relu
        else:
            x, residual, relu = args[1], args[8], args[9]
            fused = 5 + 2 * residual  # two, to sum, with y and what the residual gets; two, and the gradient
            unfused = 5 + 3 * relu
        self.found.norm_bytes += fused * x.numel() * x.element_size()
        self.found.unfused_norm_bytes += unfused * x.numel() * x.element_size()


def _is_by_mask(args: tuple) -> bool:
    """Whether an index is a mask, whose length only the device knows."""
    lists = [arg for arg in args if isinstance(arg, list | tuple)]
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for one in lists for index in one)


def _lie_apart(one: Tensor, other: Tensor) -> bool:
    """Whether strides differ, those of axes of length 1 apart (ATen/native/ForeachUtils.h)."""
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return any(length > 1 and left != right for length, left, right in strides)


def _kernels(name: str, args: tuple) -> int:
    if name == "convolution_backward":
        return sum(args[-1][:2])  # output_mask: gradients by input and by weight
    if name.startswith(("_foreach", "_fused")):
        lists = [arg for arg in args if isinstance(arg, list | tuple) and arg and isinstance(arg[0], Tensor)]
        if any(_lie_apart(one, other) for rest in lists[1:] for one, other in zip(lists[0], rest, strict=True)):
            return len(lists[0])  # torch then goes tensor by tensor
        depth = len(lists) + (not name.endswith("_"))  # one that is not in place writes another
        blocks = sum(-(-tensor.numel() // _LIST_CHUNK) for tensor in lists[0])
        return max(-(-len(lists[0]) // _LIST_LENGTH[min(depth, 4)]), -(-blocks // _LIST_BLOCKS))
    return KERNELS.get(name, 1)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Within, CPU tensors take the ways of CUDA tensors; only fake ones can go them."""
    with (
        mock.patch.dict("os.environ", {ENVIRONMENT_VARIABLE: "triton"}),
        mock.patch("modist_kernels.dispatch.interpreting", return_value=True),
        mock.patch.object(Stem, "by_frames", True),
        mock.patch.object(GradientCheck, "reads_one_by_one", return_value=False),
        torch.autograd.set_multithreading_enabled(False),
    ):
        yield


@contextmanager
def _fake_nets(config: TrainConfig) -> Iterator[None]:
    """Two things that torch does by a tensor's memory, of which a fake one has none: copying a net, converting one."""

    def copied(_: nn.Module) -> nn.Module:
        return Pathways(config.model, config.motion_channels)

    def to(net: nn.Module, *_: object, memory_format: torch.memory_format) -> nn.Module:
        for module in net.modules():
            for name, weight in module.named_parameters(recurse=False):
                layout = memory_format if weight.dim() == 5 else torch.contiguous_format
                module.register_parameter(
                    name, nn.Parameter(torch.empty_like(weight, memory_format=layout), weight.requires_grad)
                )
        return net

    with (
        mock.patch("modist_fast.pathways.copy.deepcopy", side_effect=copied),
        mock.patch.object(nn.Module, "to", to),
    ):
        yield


def count_launches(config: TrainConfig) -> StepLaunches:
    """Count the second step of `config` on one process, in bf16, all its groups in one pass, without graphs."""
    together = config.batch_size // config.group_size
    config = replace(config, precision="bf16", groups_together=together, compile=False)
    with join_world("cpu") as world, as_on_a_gpu(), FakeTensorMode(allow_non_fake_inputs=True), _fake_nets(config):
        step = TrainingStep(config, world)
        batch = made_up_batch(config, world.device)
        step(batch, 0.1)
        with _Count(step) as count:
            step(batch, 0.1)
    return count.found


def of_preset(preset: str, num_groups: int, crop: int = 224) -> StepLaunches:
    """A step of `num_groups` groups of 8 samples."""
    config = step_config({"preset": preset, "batch": 8 * num_groups, "crop": crop, "bank": 65536})
    return count_launches(replace(config, group_size=8))
