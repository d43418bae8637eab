"""The loss over the memory banks, forward and backward: this project's against plain torch and other libraries.

    modist bench loss                 # CPU or GPU, under two minutes on 2 cores
    modist bench loss --sweep --json loss.json --csv loss.csv --plot loss.png

The baseline is the naive formulation: four MoCo losses, each with its own logits (B, N). All providers get the same
fp16 bank; "fp32 bank kept" is given an fp32 copy outside the measurement, which saves it the conversion and
costs a user twice the memory of the bank.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from modist_fast.commands.cli import parse_options
from modist_fast.watch.rates import Roofline
from modist_kernels import queue_infonce, queue_infonce_reference
from modist_pipelines.ranges import COUNT, POSITIVE, ranged
from modist_profiling.frame.report import conditions, print_rows
from modist_profiling.kernels.traffic import counted_in_interpreter, loss_compulsory_bytes
from modist_profiling.kernels.turns import KernelOptions, KernelRow, is_usable, measure, plot_sizes
from modist_profiling.step.plain import TERMS, moco_loss

TEMPERATURE = 0.1
TITLE = "loss, forward and backward"


@dataclass(frozen=True)
class Options(KernelOptions):
    """Benchmark of the loss over the memory banks."""

    batch: int = ranged(32, COUNT)
    """Queries of each modality."""
    num: int = ranged(65536, COUNT)
    """Keys in each bank, N."""
    dim: int = ranged(128, COUNT)
    """Numbers of a key."""
    seconds: float = ranged(12.0, POSITIVE)
    """Time for each shape, beyond one call of each provider."""
    rounds: int = ranged(60, COUNT)
    """Turns at most."""
    compile: bool = True
    """Include torch.compile of plain torch (half a minute at first)."""


@dataclass
class Inputs:
    """Unit vectors: queries and keys (2, B, C) float32, bank (2, N, C) float16, ids as queue_infonce takes them."""

    queries: Tensor
    keys: Tensor
    bank: Tensor
    bank_ids: Tensor
    ids: Tensor

    @property
    def rest(self) -> tuple[Tensor, ...]:
        return self.keys, self.bank, self.bank_ids, self.ids


def make_inputs(batch: int, num: int, dim: int, device: torch.device, hard: bool = False) -> Inputs:
    """Random inputs; `hard` puts every 64th negative near a query."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    queries, keys, bank = unit(2, batch, dim), unit(2, batch, dim), unit(2, num, dim)
    if hard:
        near = queries[:, torch.arange(0, num, 64) % batch]
        bank[:, ::64] = functional.normalize(near + 0.6 * unit(*near.shape), dim=-1)
    bank_ids = torch.randint(0, num, (num,), generator=generator, dtype=torch.int32)
    ids = torch.randint(0, num, (batch,), generator=generator, dtype=torch.int32)
    tensors = (queries, keys, bank.half(), bank_ids, ids)
    return Inputs(*(tensor.to(device) for tensor in tensors))


# ---- Providers: functions of the queries that return the sum of the four terms, mean over the batch


def ours(queries: Tensor, inputs: Inputs) -> Tensor:
    return queue_infonce(queries, *inputs.rest, temperature=TEMPERATURE).losses.mean(1).sum()


def ours_bf16(queries: Tensor, inputs: Inputs) -> Tensor:
    """As the heads' outputs are under bf16 autocast."""
    return ours(queries.bfloat16(), inputs)


def naive(queries: Tensor, inputs: Inputs, bank: Tensor | None = None) -> Tensor:
    """Four times MoCo's loss, its mask included."""

    excluded = (inputs.bank_ids[None, :] == inputs.ids[:, None]) | (inputs.bank_ids[None, :] < 0)
    losses = []
    for query, key, negatives in TERMS:
        stored = bank[negatives] if bank is not None else inputs.bank[negatives].float()
        losses.append(moco_loss(queries[query], inputs.keys[key], stored, excluded, TEMPERATURE))
    return torch.stack(losses).sum()


def shared_products(queries: Tensor, inputs: Inputs) -> Tensor:
    """Plain torch that knows that two terms share a product and its log-sum-exp."""
    excluded = (inputs.bank_ids[None, :] == inputs.ids[:, None]) | (inputs.bank_ids[None, :] < 0)
    losses = []
    for modality in range(2):
        logits = queries[modality] @ inputs.bank[modality].float().T / TEMPERATURE
        lse = torch.logsumexp(logits.masked_fill(excluded, -torch.inf), dim=1)
        for key in inputs.keys:
            losses.append(functional.softplus(lse - (queries[modality] * key).sum(1) / TEMPERATURE).mean())
    return torch.stack(losses).sum()


def as_classifier(queries: Tensor, inputs: Inputs, loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The terms as classification over [keys of the batch, bank], for libraries that know nothing else."""
    targets = torch.arange(queries.shape[1], device=queries.device)
    losses = []
    for query, key, negatives in TERMS:
        weights = torch.cat([inputs.keys[key], inputs.bank[negatives].float()])
        losses.append(loss(queries[query], weights, targets))
    return torch.stack(losses).sum()


def inf_cl(query: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    library = importlib.import_module("inf_cl")
    return library.cal_flash_loss(query, weights, targets, 1 / TEMPERATURE, query.shape[1]).mean()


def liger(query: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    library = importlib.import_module("liger_kernel.transformers")
    return library.LigerFusedLinearCrossEntropyLoss()(weights, query / TEMPERATURE, targets)


def cut_cross_entropy(query: Tensor, weights: Tensor, targets: Tensor) -> Tensor:
    library = importlib.import_module("cut_cross_entropy")
    return library.linear_cross_entropy((query / TEMPERATURE).half(), weights.half(), targets)


NO_MASK = "no mask of a query's own video or of empty slots; the batch's keys become negatives"
LIBRARIES = {
    "inf_cl": (inf_cl, f"fp32 only, one program at B <= 64; {NO_MASK}"),
    "liger_kernel": (liger, f"materializes logits in chunks of rows; {NO_MASK}"),
    "cut_cross_entropy": (cut_cross_entropy, f"reads the bank again in backward, filters gradients; {NO_MASK}"),
}


def whole_call(loss: Callable[..., Tensor], inputs: Inputs, *rest: object) -> Tensor:
    """Forward and backward; the gradient."""
    queries = inputs.queries.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(queries, inputs, *rest), queries)
    return gradient


# ---- Accuracy and traffic


def exact_gradient(inputs: Inputs) -> Tensor:
    """Of the definition in float64, in slices of the batch: its logits would fill the memory."""
    gradients = []
    size = inputs.queries.shape[1]
    bank = inputs.bank.double()
    for start in range(0, size, 32):
        rows = slice(start, start + 32)
        queries = inputs.queries[:, rows].double().requires_grad_()
        losses = queue_infonce_reference(
            queries, inputs.keys[:, rows], bank, inputs.bank_ids, inputs.ids[rows], temperature=TEMPERATURE
        ).losses
        gradients.append(torch.autograd.grad(losses.sum() / size, queries)[0])
    return torch.cat(gradients, dim=1)


def gradient_error(loss: Callable[..., Tensor], inputs: Inputs, exact: Tensor) -> float:
    """Largest error relative to the largest entry of the gradient."""
    return float((whole_call(loss, inputs).double() - exact).abs().max() / exact.abs().max())


def count_in_interpreter(batch: int, num: int, dim: int) -> tuple[int, int]:
    """Bytes moved by the Triton kernels, forward and backward, and bytes of the bank read in backward.

    Of the bank's N rows the interpreter walks a part, with as many splits; the bytes of the rest are those of the
    bank and its ids, which is all that a longer split reads (tests/kernels/cases_guard.py checks that).
    """
    from modist_kernels.configurations import partial_configuration
    from modist_kernels.queue_infonce.launches import split_bank
    from modist_profiling.kernels.interpreter_guard import watch

    configuration = partial_configuration(90, batch, dim)
    row_tiles, splits, _ = split_bank(configuration, batch, num, 2)
    walked = min(num, splits * configuration.block_negatives)
    inputs = make_inputs(batch, walked, dim, torch.device("cpu"))
    queries = inputs.queries.requires_grad_()
    with watch() as seen:
        loss = queue_infonce(queries, *inputs.rest, backend="triton").losses.sum()
        launches = len(seen.launches)
        loss.backward()
    backward = seen.launches[launches:]
    in_backward = sum(a.bytes_read for launch in backward for n, a in launch.arguments.items() if n == "bank")
    return seen.bytes_moved + row_tiles * 2 * (num - walked) * (dim * 2 + 4), in_backward


def estimated_traffic(batch: int, num: int, dim: int, products: int, converts: bool) -> float:
    """Bytes of plain torch, forward and backward, by the tensors that its operations read and write.

    A product reads the fp32 bank twice (forward, backward); some 13 passes go over its logits (mask, cat, scale,
    softmax, their backward); converting reads fp16 and writes fp32.
    """
    bank, logits = num * dim * 4, batch * num * 4
    return products * (2 * bank + 13 * logits + (1.5 * bank if converts else 0))


# ---- Report


def bench_shape(
    options: Options, batch: int, num: int, device: torch.device, limits: Roofline, full: bool
) -> list[KernelRow]:
    dim = options.dim
    inputs = make_inputs(batch, num, dim, device)
    exact = exact_gradient(inputs)
    traffic = partial(estimated_traffic, batch, num, dim)
    stored = inputs.bank.float()
    losses: dict[str, tuple[Callable[..., Tensor], float | None, str]] = {
        "naive four terms": (naive, traffic(4, True), ""),
        "naive, fp32 bank kept": (partial(naive, bank=stored), traffic(4, False), "twice the memory of the bank"),
        "shared products": (shared_products, traffic(2, True), ""),
    }
    if full and options.compile:
        losses["shared products, torch.compile"] = (torch.compile(shared_products), None, "compiles for each shape")
    once = loss_compulsory_bytes(modalities=2, batch=batch, num=num, dim=dim)  # chunks stay in the cache
    losses["modist queue_infonce"] = (ours, once, "")
    losses["modist queue_infonce, bf16 queries"] = (ours_bf16, once, "bf16 products where the CPU has them")
    if full:
        for module, (loss, limit) in LIBRARIES.items():
            if is_usable(module, device):
                losses[module] = (partial(as_classifier, loss=loss), None, limit)
    shape: dict[str, int | str] = {"B": batch, "N": num, "C": dim, "threads": options.threads}
    flops = 2 * 2 * 2 * batch * num * dim  # two modalities, two products of 2 B N C
    common = {"shape": shape, "flops": flops, "least_ms": 1e3 * limits.seconds(once, flops)}
    calls = []
    for name, (loss, moved, limit) in losses.items():
        error = gradient_error(loss, inputs, exact) if NO_MASK not in limit else None
        row = KernelRow(TITLE, name, bytes_moved=moved, limit=limit, gradient_error=error, **common)
        calls.append((row, partial(whole_call, loss, inputs)))
    return measure(calls, device, options.rounds, options.seconds if full else options.seconds / 4)


def ratios_of(options: Options, rows: list[KernelRow], device: torch.device) -> dict[str, float]:
    """The figures that the project holds itself to."""
    by_name = {row.name: row for row in rows if row.mode != "cold L2" and row.shape["B"] == options.batch}
    mine, half = by_name["modist queue_infonce"], by_name["modist queue_infonce, bf16 queries"]
    base, kept = by_name["naive four terms"], by_name["naive, fp32 bank kept"]
    where = device.type if device.type == "cpu" else "gpu"
    ratios = {
        f"loss_{where}_speedup_vs_naive": base.median / mine.median,
        f"loss_{where}_speedup_vs_naive_fp32_bank": kept.median / mine.median,
        # On a CPU that has bf16 products; at the accuracy of bf16, so not like for like.
        f"loss_{where}_speedup_vs_naive_bf16_queries": base.median / half.median,
        f"loss_{where}_memory_vs_naive": mine.extra_memory / base.extra_memory,
        f"loss_{where}_memory_vs_naive_bf16_queries": half.extra_memory / base.extra_memory,
    }
    for kind in ("random", "hard"):
        inputs = make_inputs(options.batch, options.num, options.dim, device, hard=kind == "hard")
        ratios[f"loss_gradient_error_{kind}"] = gradient_error(ours, inputs, exact_gradient(inputs))
    if options.count:
        moved, in_backward = counted_in_interpreter(count_in_interpreter, options.batch, options.num, options.dim)
        size = {"modalities": 2, "batch": options.batch, "num": options.num, "dim": options.dim}
        ratios["loss_traffic_vs_compulsory"] = moved / loss_compulsory_bytes(**size)
        ratios["loss_bank_bytes_in_backward"] = in_backward
        if device.type == "cuda":
            mine.bytes_moved, mine.traffic = moved, "counted"
    return ratios


def main() -> None:
    options = parse_options(Options, description=__doc__)
    device, limits = options.start()
    rows = bench_shape(options, options.batch, options.num, device, limits, full=True)
    ratios = ratios_of(options, rows, device)
    if options.sweep:
        sizes = [(batch, options.num) for batch in (8, 64, 128, 256)]
        sizes += [(options.batch, num) for num in (4096, 16384, 262144)]
        for batch, num in sizes:
            rows += bench_shape(options, batch, num, device, limits, full=False)
    print_rows(rows)
    options.give(rows, ratios, conditions(device, limits), partial(plot_sizes, axes=("B", "N")))
