"""What the processes of a training step send, by purpose, against the least that they must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modist_fast.config import TrainConfig
from modist_fast.pathways import Pathways
from modist_profiling.frame.report import table

PURPOSES = {
    ("backward", "allreduce_", "float32"): "gradients",
    ("backward", "alltoall_base_", "uint8"): "gradients",  # --comm-dtype bfloat16: parts to their owners,
    ("backward", "_allgather_base_", "uint8"): "gradients",  # and their sums to all
    ("gather", "_allgather_base_", "float32"): "keys",
    ("gather", "allreduce_", "int32"): "video ids",
}
"""What must travel: phase, collective, type. All else is "other": figures for the log, windows of the budget, and
what DDP sends in its first step (the order of its buckets, which parameters are in use)."""


def minimum_bytes(config: TrainConfig, num_processes: int) -> dict[str, int]:
    """What a process has to give a step: float32 gradients, float32 keys of its share, int32 video ids of the batch.

    Any process may find any sample damaged, so each speaks of all ids. From shapes alone; nothing is run.
    """
    with torch.device("meta"):
        nets = Pathways(config.model, config.motion_channels)
    num_modalities = 2 if config.objective.motion else 1
    local = config.batch_size // num_processes
    return {
        "gradients": 4 * sum(weight.numel() for weight in nets.parameters() if weight.requires_grad),
        "keys": 4 * num_modalities * local * config.model.embedding_dim,
        "video ids": 4 * config.batch_size,
    }


def by_purpose(messages: Sequence[Mapping[str, Any]], steps: int) -> dict[str, float]:
    """Bytes a step of each purpose, from the kinds of messages that `CollectiveCounter` met."""
    found = dict.fromkeys((*PURPOSES.values(), "other"), 0.0)
    for kind in messages:
        found[PURPOSES.get((kind["phase"], kind["operation"], kind["dtype"]), "other")] += kind["bytes"] / steps
    return found


@dataclass(frozen=True)
class Sent:
    """What a process of a preset gives a step."""

    preset: str
    counted: dict[str, float]
    """Bytes by purpose."""
    minimum: dict[str, int]
    sockets: float
    """Bytes that left through its sockets, by the kernel's count."""

    @property
    def ratio(self) -> float:
        """Counted bytes over the minimum."""
        return sum(self.counted.values()) / sum(self.minimum.values())

    @property
    def sockets_ratio(self) -> float:
        """Of two processes, whose ring sends what is reduced once: bytes on the sockets over the minimum."""
        return self.sockets / sum(self.minimum.values())


def sent_of(preset: str, config: TrainConfig, num_processes: int, answer: Mapping[str, Any]) -> Sent:
    """From what scaling_worker.py's `count` answers."""
    steps = answer["steps"]
    counted, minimum = by_purpose(answer["messages"], steps), minimum_bytes(config, num_processes)
    return Sent(preset, counted, minimum, answer["sockets"] / steps)


def print_sent(sent: Sequence[Sent]) -> None:
    """A line for each preset."""
    heads = ("bytes of a process and step", *PURPOSES.values(), "other", "minimum", "ratio", "on its sockets")
    lines = [
        (
            found.preset,
            *(f"{found.counted[name]:,.0f}" for name in heads[1:-3]),
            *(f"{sum(found.minimum.values()):,}", f"{found.ratio:.5f}", f"{found.sockets:,.0f}"),
        )
        for found in sent
    ]
    print(f"\n{table(heads, lines)}")
