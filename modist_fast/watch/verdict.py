"""The verdict on a step budget: what holds the run back, in one line, and what to do about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# A phase that takes less of the step than this is not worth a user's time.
_NOTABLE = 0.10
# Work that does not grow with the batch: the fewer samples a step has, the more of it.
_PER_STEP = ("copy", "momentum", "checks", "optimizer", "enqueue", "other")
_NETS = ("keys", "queries", "backward")
_WAITS = ("gather", "all_reduce", "log")
_STRAGGLER_RATIO = 1.15
# Others have the cores for more of the time than this: what a step's parts take then says little of the parts.
_STARVED = 0.25
# Nets that reach less of the peak are not short of arithmetic: calling them costs more than what they compute.
_IDLE_PEAK_SHARE = 0.05
# A host that launches for this share of the step is never ahead of its GPU: the rest goes into the line of a step.
_ALWAYS_LAUNCHING = 0.85


@dataclass(frozen=True)
class Straggler:
    """A rank for which the others wait."""

    rank: int
    ratio: float
    """Its own time a step over the mean of the others': without waiting for other ranks."""
    phase: str
    """In which it loses most."""
    cost: float
    """Share of the step that the others wait."""


@dataclass(frozen=True)
class Verdict:
    bottleneck: str
    line: str
    straggler: Straggler | None


def verdict(summary: Mapping[str, Any]) -> Verdict:
    """Judge a summary of `RunBudget`: the largest of the costs that can be mended, else the nets themselves."""
    core_wait = summary["core_wait"]
    if max(core_wait) >= _STARVED:
        rank = max(range(len(core_wait)), key=lambda index: core_wait[index])
        whose = f"the process of rank {rank}" if len(core_wait) > 1 else "this process"
        line = (
            f"starved: {whose} was ready to run and had no core for {_percent(core_wait[rank])} of the time, for other "
            f"work has them ({summary['load']}); figures of a run on a busy machine say little: stop what else runs "
            "there, or start fewer processes"
        )
        return Verdict("starved", line, None)
    share = {name: phase["share"] for name, phase in summary["phases"].items()}
    straggler = find_straggler(summary)
    costs: dict[str, float] = {
        "data": share["data_wait"],
        "checkpoint": share["checkpoint"],
        "loss": share["loss"],
        # What the straggler costs the others is spent waiting in the collectives.
        "communication": 0.0 if straggler else share["gather"] + share["all_reduce"],
        "log": 0.0 if straggler else share["log"],
        "overhead": sum(share[name] for name in _PER_STEP),
        "straggler": straggler.cost if straggler else 0.0,
    }
    # Figures take the same time whatever a step does: beside idle nets their share says that the step is too small.
    small = ("overhead",) if _nets_compute(summary) else ("overhead", "log")
    notable = {name: cost for name, cost in costs.items() if cost >= _NOTABLE * (2.5 if name in small else 1)}
    # A GPU whose host does nothing but launch waits for the next kernel all the time.
    if summary["device"] == "cuda" and summary["launch_share"] > _ALWAYS_LAUNCHING and max(costs.values()) < 0.5:
        notable = {"launch": summary["launch_share"]}
    if not notable:
        notable = {"compute" if _nets_compute(summary) else "small_calls": 0.0}
    name = max(notable, key=lambda key: notable[key])
    bottleneck, reason, advice = _SENTENCES[name](summary, notable[name], straggler)
    return Verdict(bottleneck, f"{bottleneck}-bound: {reason}; {advice}", straggler)


def _nets_compute(summary: Mapping[str, Any]) -> bool:
    return summary["flops"]["peak_share"] > _IDLE_PEAK_SHARE


def find_straggler(summary: Mapping[str, Any]) -> Straggler | None:
    """The rank that needs notably longer than the others, if there is one and they notably wait for it."""
    phases, num_ranks = summary["phases"], summary["world_size"]
    if num_ranks == 1:
        return None
    own = [sum(p["by_rank"][rank] for name, p in phases.items() if name not in _WAITS) for rank in range(num_ranks)]
    rank = max(range(num_ranks), key=lambda index: own[index])
    others = (sum(own) - own[rank]) / (num_ranks - 1)
    cost = (own[rank] - others) / summary["seconds_per_step"]
    if own[rank] < _STRAGGLER_RATIO * others or cost < _NOTABLE:
        return None

    def lost(name: str) -> float:
        by_rank = phases[name]["by_rank"]
        return by_rank[rank] - (sum(by_rank) - by_rank[rank]) / (num_ranks - 1)

    phase = max((name for name in phases if name not in _WAITS), key=lost)
    return Straggler(rank, own[rank] / others, phase, cost)


# Each returns the bottleneck's name, what was seen, and what to do.
Sentences = tuple[str, str, str]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _data(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    background: dict[str, float] = dict(summary["background"])
    background["read"] = max(0.0, background["read"] - background["plan"])  # who waits for a read waits for its plan
    stage = max(background, key=lambda name: background[name])
    seen = (
        f"{_percent(cost)} of the step waits for data, and {stage} takes {1e3 * background[stage]:.0f} ms of "
        f"each {1e3 * summary['seconds_per_step']:.0f} ms step behind it"
    )
    raw = summary["data"]["source"] == "raw videos"
    advice = {
        "plan": "give each process more cores",
        "read": "put the data on a faster disk or nearer, or raise --loader.prefetch where reads are late but not slow",
        "decode": "train from a store (modist prepare) instead of raw videos"
        if raw
        else "raise --loader.num-threads (and OMP cores), or prepare with a smaller --short-side",
    }
    return stage, seen, advice[stage]


def _checkpoint(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    return "checkpoint", f"{_percent(cost)} of the time goes into saving checkpoints", "raise --checkpoint.every"


def _loss(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    advice = "the kernel tables (modist bench loss) say what it should take; --objective.bank-size decides"
    return "loss", f"{_percent(cost)} of the step is the loss over the banks", advice


def _communication(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    phases = summary["phases"]
    seen = (
        f"{_percent(cost)} of the step waits for other processes (gradients {_percent(phases['all_reduce']['share'])}"
        f", keys {_percent(phases['gather']['share'])}), and none of them is slower than the others"
    )
    return "communication", seen, "raise the samples of a process (--batch-size), or use a faster interconnect"


def _log(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    return "log", f"{_percent(cost)} of the step writes figures", "put --out on a faster disk"


def _overhead(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    share = {name: summary["phases"][name]["share"] for name in _PER_STEP}
    most = max(share, key=lambda name: share[name])
    seen = (
        f"{_percent(cost)} of the step is work that does not grow with the batch "
        f"(most of it: {most}, {_percent(share[most])})"
    )
    return "overhead", seen, "raise --batch-size and --group-size"


def _small_calls(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    flops = summary["flops"]
    seen = (
        f"the nets reach {_percent(flops['peak_share'])} of {flops['peak_source']}: calling an operation takes longer "
        "than its arithmetic"
    )
    return "overhead", seen, "raise --batch-size and --group-size"


def _launch(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    seen = (
        f"the host launches kernels during {_percent(cost)} of the step, the nets reach "
        f"{_percent(summary['flops']['peak_share'])} of {summary['flops']['peak_source']}"
    )
    return "launch", seen, "raise --group-size, or pass --compile"


def _straggler(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    assert straggler is not None
    seen = (
        f"rank {straggler.rank} takes {straggler.ratio:.1f} times as long as the others, most of it in "
        f"{straggler.phase}; they wait for {_percent(cost)} of the step"
    )
    return "straggler", seen, f"look at what else runs on the machine of rank {straggler.rank}, and at its disk"


def _compute(summary: Mapping[str, Any], cost: float, straggler: Straggler | None) -> Sentences:
    phases, flops = summary["phases"], summary["flops"]
    nets = sum(phases[name]["share"] for name in _NETS)
    seen = f"{_percent(nets)} of the step is the nets, at {_percent(flops['peak_share'])} of {flops['peak_source']}"
    return "compute", seen, "nothing waits: more devices make it faster, and the trace of --profile.trace shows more"


_SENTENCES: dict[str, Callable[[Mapping[str, Any], float, Straggler | None], Sentences]] = {
    "data": _data,
    "checkpoint": _checkpoint,
    "loss": _loss,
    "communication": _communication,
    "log": _log,
    "overhead": _overhead,
    "small_calls": _small_calls,
    "launch": _launch,
    "straggler": _straggler,
    "compute": _compute,
}
