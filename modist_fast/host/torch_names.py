"""Names that changed between torch 2.11, the oldest supported, and now."""

import inspect
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def all_gather_single(gathered: Tensor, mine: Tensor, async_op: bool = False) -> dist.Work | None:
    """The `mine` of all ranks, one after another along the first axis, into `gathered`: if async, once waited for."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # the name before torch 2.14
    return gather(gathered, mine, async_op=async_op)


def buffers_stay() -> dict[str, Any]:
    """The arguments by which `DistributedDataParallel` never sends buffers: each rank's batch norm is its own."""
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    return {"forward_sync_buffers": False} if "forward_sync_buffers" in known else {"broadcast_buffers": False}
