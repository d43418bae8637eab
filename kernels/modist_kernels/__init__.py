"""Fused kernels of MoDist training: the InfoNCE loss over memory banks, flow edges, and batch norm over groups.

Each has a plain torch definition (`*_reference`), a CPU path and a Triton kernel behind one public call, and is
of use without the rest of the project.
"""

from modist_kernels.batch_norm.definition import batch_norm_reference
from modist_kernels.batch_norm.op import batch_norm
from modist_kernels.dispatch import BACKENDS
from modist_kernels.flow_edges.definition import flow_edges_reference
from modist_kernels.flow_edges.op import flow_edges
from modist_kernels.queue_infonce.definition import QueueInfoNCE, queue_infonce_reference
from modist_kernels.queue_infonce.op import queue_infonce

__all__ = [
    "BACKENDS",
    "QueueInfoNCE",
    "batch_norm",
    "batch_norm_reference",
    "flow_edges",
    "flow_edges_reference",
    "queue_infonce",
    "queue_infonce_reference",
]
