"""Float64 definitions written as loops, and the cases that all implementations face."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

EMPTY = -1


@dataclass
class Case:
    """Inputs of queue_infonce."""

    queries: Tensor
    keys: Tensor
    bank: Tensor
    bank_ids: Tensor
    ids: Tensor
    temperature: float
    cross_negatives: str

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        return self.queries, self.keys, self.bank, self.bank_ids, self.ids

    @property
    def options(self) -> dict:
        return {"temperature": self.temperature, "cross_negatives": self.cross_negatives}

    def to(self, device: str) -> "Case":
        queries, keys, bank, bank_ids, ids = (tensor.to(device) for tensor in self.arguments)
        return Case(queries, keys, bank, bank_ids, ids, self.temperature, self.cross_negatives)


def unit(generator: torch.Generator, *shape: int) -> Tensor:
    """Random unit vectors."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def make_case(
    *,
    modalities: int = 2,
    batch: int = 5,
    num: int = 100,
    dim: int = 128,
    temperature: float = 0.1,
    cross_negatives: str = "own",
    kind: str = "random",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """Make inputs whose batch meets its own videos in the bank.

    Kinds: "random"; "part-filled", a third of the slots occupied, scattered; "masked", nothing counts for anyone;
    "row-masked", nothing counts for the first query; "hard", every second negative is near a query; "large", vectors
    of norm 6, so that logits reach hundreds.
    """
    generator = torch.Generator().manual_seed(seed)
    queries, keys = unit(generator, modalities, batch, dim), unit(generator, modalities, batch, dim)
    bank = unit(generator, modalities, num, dim)
    videos = max(3, num // 4)
    bank_ids = torch.randint(0, videos, (num,), generator=generator, dtype=torch.int32)
    ids = torch.randint(0, videos, (batch,), generator=generator, dtype=torch.int32)
    if kind == "part-filled":
        bank_ids[torch.rand(num, generator=generator) > 1 / 3] = EMPTY
    elif kind == "masked":
        bank_ids[:], ids[:] = 7, 7
        bank_ids[::2] = EMPTY
    elif kind == "row-masked":
        bank_ids[:], ids[:] = 7, 8
        ids[0] = 7
    elif kind == "hard":
        near = queries[:, torch.arange(num) % batch] + 0.6 * unit(generator, modalities, num, dim)
        bank[:, ::2] = torch.nn.functional.normalize(near, dim=-1)[:, ::2]
    elif kind == "large":
        queries, bank = queries * 6, bank * 6
    else:
        assert kind == "random", kind
    return Case(queries.to(dtype), keys.to(dtype), bank.half(), bank_ids, ids, temperature, cross_negatives)


def info_nce(query: list[float], key: list[float], negatives: list[list[float]], temperature: float) -> dict:
    """Eq. 1 as a loop over numbers, for one query."""

    def logit(other: list[float]) -> float:
        return math.fsum(a * b for a, b in zip(query, other, strict=True)) / temperature

    positive = logit(key)
    logits = [logit(negative) for negative in negatives]
    largest = max([positive, *logits])
    denominator = math.fsum(math.exp(x - largest) for x in [positive, *logits])
    gradient = [-k / temperature for k in key]
    for other, x in zip([key, *negatives], [positive, *logits], strict=True):
        share = math.exp(x - largest) / denominator / temperature
        gradient = [g + share * o for g, o in zip(gradient, other, strict=True)]
    return {
        "loss": math.log(denominator) + largest - positive,
        "top1": float(all(positive > x for x in logits)),
        "positive": positive * temperature,
        "lse": max(logits) + math.log(math.fsum(math.exp(x - max(logits)) for x in logits)) if logits else -math.inf,
        "gradient": gradient,
    }


def loop_oracle(case: Case, weights: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Every term and row by Eq. 1 to 3; and the gradient of (losses * weights).sum()."""
    modalities, batch, _ = case.queries.shape
    own = case.cross_negatives == "own"
    terms = [(0, 0, 0), (1, 1, 1), (0, 1, 0 if own else 1), (1, 0, 1 if own else 0)]  # query, key, negatives
    terms = terms if modalities == 2 else terms[:1]
    queries, keys, bank = (x.double().tolist() for x in (case.queries, case.keys, case.bank))
    gradient = torch.zeros(case.queries.shape, dtype=torch.float64)
    columns: dict[str, list] = {"losses": [], "top1": [], "positive": [], "lse": []}
    for t, (query, key, negatives) in enumerate(terms):
        rows = []
        for b in range(batch):
            owner = case.bank_ids.tolist()
            usable = [n for n in range(len(owner)) if owner[n] >= 0 and owner[n] != int(case.ids[b])]
            result = info_nce(queries[query][b], keys[key][b], [bank[negatives][n] for n in usable], case.temperature)
            gradient[query, b] += weights[t, b].double() * torch.tensor(result["gradient"], dtype=torch.float64)
            rows.append(result)
        for name, column in columns.items():
            column.append([row["loss" if name == "losses" else name] for row in rows])
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}, gradient


def plain_gradient(case: Case, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient by plain torch with products in `dtype` and sums in float32: the accuracy to be judged against."""
    queries = case.queries.to(dtype).requires_grad_()
    excluded = (case.bank_ids[None] < 0) | (case.bank_ids[None] == case.ids[:, None])
    own = case.cross_negatives == "own"
    terms = [(0, 0, 0), (1, 1, 1), (0, 1, 0 if own else 1), (1, 0, 1 if own else 0)][: len(weights)]
    total = torch.zeros((), device=queries.device)
    for t, (query, key, negatives) in enumerate(terms):
        positive = (queries[query] * case.keys[key].to(dtype)).sum(1, keepdim=True)
        negative = (queries[query] @ case.bank[negatives].to(dtype).T).masked_fill(excluded, -torch.inf)
        logits = torch.cat([positive, negative], 1).float() / case.temperature
        total = total + ((torch.logsumexp(logits, 1) - logits[:, 0]) * weights[t]).sum()
    (gradient,) = torch.autograd.grad(total, queries)
    return gradient.double()


def edges_oracle(flow: Tensor, gain: float, border: str, clamp: float) -> tuple[Tensor, float]:
    """Flow edges of one frame (2, H, W), pixel by pixel: P (H, W) float64 and its mean."""
    magnitude = [[math.hypot(u, v) for u, v in zip(*rows, strict=True)] for rows in zip(*flow.tolist(), strict=True)]
    height, width = len(magnitude), len(magnitude[0])

    def at(y: int, x: int) -> float:
        if border == "zero" and not (0 <= y < height and 0 <= x < width):
            return 0.0
        return magnitude[min(max(y, 0), height - 1)][min(max(x, 0), width - 1)]

    smooth = {-1: 1, 0: 2, 1: 1}
    edges = torch.zeros(height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            across = sum(smooth[d] * (at(y + d, x + 1) - at(y + d, x - 1)) for d in smooth)
            down = sum(smooth[d] * (at(y + 1, x + d) - at(y - 1, x + d)) for d in smooth)
            edges[y, x] = min(gain * math.hypot(across, down), clamp)
    return edges, float(edges.mean())
