"""Kernels against their definitions in float64, as figures. Used by parity.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from modist_kernels import flow_edges, flow_edges_reference, queue_infonce, queue_infonce_reference
from modist_kernels.queue_infonce.definition import CrossNegatives
from modist_profiling.frame.accuracy import Parity, largest_error

REFERENCE = "definition in float64"
CLAMP = 10.0


@dataclass(frozen=True)
class LossCase:
    """Inputs of queue_infonce."""

    batch: int
    num: int
    dim: int = 128
    dtype: torch.dtype = torch.float32
    cross_negatives: CrossNegatives = "own"
    modalities: int = 2
    hard: bool = False
    """Every second negative is near a query."""
    part_filled: bool = False
    """Two thirds of the slots are empty."""

    def __str__(self) -> str:
        words = [f"B {self.batch}, N {self.num}, C {self.dim}", str(self.dtype).removeprefix("torch.")]
        words += [self.cross_negatives] if self.modalities == 2 else ["RGB only"]
        return ", ".join(words + ["hard"] * self.hard + ["part-filled"] * self.part_filled)

    def inputs(self) -> tuple[Tensor, ...]:
        """queries, keys, bank, bank_ids, ids, on the CPU; the batch meets its own videos in the bank."""
        generator = torch.Generator().manual_seed(self.batch + self.num)

        def unit(*shape: int) -> Tensor:
            return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

        queries, keys = (unit(self.modalities, self.batch, self.dim) for _ in range(2))
        bank = unit(self.modalities, self.num, self.dim)
        if self.hard:
            near = queries[:, torch.arange(self.num) % self.batch] + 0.6 * unit(*bank.shape)
            bank[:, ::2] = torch.nn.functional.normalize(near, dim=-1)[:, ::2]
        videos = max(3, self.num // 4)
        bank_ids = torch.randint(0, videos, (self.num,), generator=generator, dtype=torch.int32)
        ids = torch.randint(0, videos, (self.batch,), generator=generator, dtype=torch.int32)
        if self.part_filled:
            bank_ids[torch.rand(self.num, generator=generator) > 1 / 3] = -1
        return queries.to(self.dtype), keys.to(self.dtype), bank.half(), bank_ids, ids


def loss_cases(num: int) -> list[LossCase]:
    """The paper's shape, with `num` keys in a bank, and shapes that divide nothing."""
    return [
        LossCase(32, num),
        LossCase(32, num, cross_negatives="other", hard=True),
        LossCase(32, num, dtype=torch.bfloat16),
        LossCase(32, num, dtype=torch.float16, part_filled=True),
        LossCase(64, num, modalities=1),
        LossCase(17, 1000, dim=256, cross_negatives="other"),
        LossCase(33, 2049, dim=64, hard=True),
        LossCase(130, 65, cross_negatives="other", part_filled=True),
    ]


def _loss_and_gradient(call, inputs: tuple[Tensor, ...], case: LossCase):
    queries = inputs[0].clone().requires_grad_()
    result = call(queries, *inputs[1:], cross_negatives=case.cross_negatives)
    weights = torch.linspace(0.5, 1.5, result.losses.numel(), device=queries.device).reshape(result.losses.shape)
    (result.losses * weights).sum().backward()
    assert queries.grad is not None
    return result, queries.grad


def loss_parity(case: LossCase, device: torch.device) -> Iterator[Parity]:
    """Forward and backward of one case. The reference runs on the CPU, whatever the device."""
    inputs = case.inputs()
    found, gradient = _loss_and_gradient(queue_infonce, tuple(tensor.to(device) for tensor in inputs), case)
    exact_inputs = (inputs[0].double(), *inputs[1:])
    exact, exact_gradient = _loss_and_gradient(queue_infonce_reference, exact_inputs, case)
    # The softmax's weights are rounded to fp16 for the second product; that moves their sum by 2^-12 at most. bf16
    # queries may be multiplied as such on a CPU.
    coarse = case.dtype == torch.bfloat16 and device.type == "cpu"
    slack = 2.0**-7 if coarse else 2.0**-12
    for name, bound in (("losses", slack), ("lse", slack), ("positive", slack if coarse else 4e-6)):
        error = largest_error(getattr(found, name), getattr(exact, name))
        yield Parity(f"queue_infonce {name}", str(case), REFERENCE, error, bound, "nats" if name != "positive" else "")
    # A positive within rounding of the hardest negative may fall on either side.
    differing = float((found.top1.cpu().double() != exact.top1).double().mean())
    yield Parity("queue_infonce top1", str(case), REFERENCE, differing, 0.01, "share that differs")
    scale = float(exact_gradient.abs().max())
    error = largest_error(gradient, exact_gradient) / scale
    bound = 1e-4 if case.dtype == torch.float32 else 4 * torch.finfo(case.dtype).eps
    yield Parity("queue_infonce gradient", str(case), REFERENCE, error, bound, "of the largest entry")


def edges_parity(size: int, device: torch.device) -> Iterator[Parity]:
    """Maps and scores of flow_edges, for all its types, layouts and borders, on frames of `size`² and odd ones."""
    types = [
        (torch.float32, "chw", "replicate", torch.uint8),
        (torch.float16, "hwc", "zero", torch.uint8),
        (torch.int16, "chw", "replicate", torch.uint8),
        (torch.float16, "chw", "replicate", torch.float16),
        (torch.float32, "hwc", "zero", torch.float32),
    ]
    for shape, (dtype, layout, border, out_dtype) in product(((size, size), (23, 257)), types):
        flow = torch.randn(3, 2, *shape, generator=torch.Generator().manual_seed(size))
        flow = (flow * (64 if dtype == torch.int16 else 1)).to(dtype)
        flow = flow.movedim(1, -1).contiguous() if layout == "hwc" else flow
        options = {"layout": layout, "border": border, "clamp": CLAMP, "gain": 0.75}
        scale = 1 / 64 if dtype == torch.int16 else 1.0
        edges, score = flow_edges(flow.to(device), scale=scale, out_dtype=out_dtype, **options)
        exact, exact_score = flow_edges_reference(flow.double() * scale, out_dtype=torch.float32, **options)
        names = [str(one).removeprefix("torch.") for one in (dtype, out_dtype)]
        case = f"{shape[0]} × {shape[1]}, {names[0]} to {names[1]}, {layout}, {border}"
        if out_dtype == torch.uint8:
            exact, bound, unit = exact.double() / CLAMP * 255, 0.5 + 1e-3, "of 255 levels"
        else:
            bound, unit = torch.finfo(out_dtype).eps * CLAMP + 1e-5, "of 10, as P"
        yield Parity("flow_edges maps", case, REFERENCE, largest_error(edges, exact), bound, unit)
        error = largest_error(score, exact_score) / float(exact_score.max())
        yield Parity("flow_edges scores", case, REFERENCE, error, 1e-5, "relative")
