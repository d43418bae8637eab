"""Every shipped configuration, compiled ahead of time, against its budget.

A machine without a GPU can hold these: spills, registers, shared memory, the class of the matrix instruction,
vectorized loads. They catch what a new Triton compiles worse without a word.
"""

import pytest
from modist_kernels.ahead_of_time import SHARED_MEMORY_LIMIT, Resources, compile_kernel
from modist_kernels.configurations import ARCHITECTURES, PARTIAL, PartialConfiguration, edges_warps
from modist_kernels.flow_edges_triton import edges_kernel
from modist_kernels.queue_infonce_kernels import backward_kernel, combine_kernel, partial_kernel

# (architecture, C, block rows): most registers, kilobytes of shared memory, class of the matrix instruction.
# As compiled with Triton 3.8 for fp32 queries, and rounded up to a multiple of 8 registers.
BUDGETS = {
    (80, 64, 16): (128, 80, "HMMA"),
}
COMPILED = (80, 90, 100)  # sm_89 and sm_120 ship too; they are checked by profiling/tune_kernels.py --ahead-of-time


def compile_partial(arch: int, dim: int, entry: PartialConfiguration, queries: str, both: bool) -> Resources:
    return compile_kernel(
        partial_kernel,
        pointers={
            "queries": queries,
            "bank": "fp16",
            "bank_ids": "i32",
            "ids": "i32",
            "maxima": "fp32",
            "sums": "fp32",
            "weighted": "fp32",
        },
        scalars={"batch": "i32", "num_negatives": "i32", "tiles_per_split": "i32", "log2_scale": "fp32"},
        constants={
            "BOTH": both,
            "SPLIT_QUERY": queries == "fp32",
            "C": dim,
            "BLOCK_R": entry.block_rows,
            "BLOCK_N": entry.block_negatives,
            "STAGES": entry.num_stages,
        },
        architecture=arch,
        num_warps=entry.num_warps,
    )
