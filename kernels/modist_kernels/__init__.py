"""Fused kernels of MoDist training: the InfoNCE loss over memory banks, and flow edges.

Each has a plain torch definition (`*_reference`), a CPU path and a Triton kernel behind one public call, and is
of use without the rest of the project.
"""

from modist_kernels.dispatch import BACKENDS
from modist_kernels.flow_edges.definition import flow_edges_reference
from modist_kernels.flow_edges.op import flow_edges
from modist_kernels.queue_infonce.definition import QueueInfoNCE, queue_infonce_reference
from modist_kernels.queue_infonce.op import queue_infonce

__all__ = [
    "BACKENDS",
    "QueueInfoNCE",
    "flow_edges",
    "flow_edges_reference",
    "queue_infonce",
    "queue_infonce_reference",
]
