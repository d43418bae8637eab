"""Every shipped configuration, compiled ahead of time, against its budget.

A machine without a GPU can hold these: spills, registers, shared memory, the class of the matrix instruction,
vectorized loads. They catch what a new Triton compiles worse without a word.
"""

import pytest

from modist_kernels.configurations import ARCHITECTURES, PARTIAL, PartialConfiguration, edges_warps
from modist_kernels.flow_edges.kernels import edges_kernel
from modist_kernels.queue_infonce.kernels import backward_kernel, combine_kernel
from modist_kernels.queue_infonce.launches import COMBINE_TILE, SUPPORTED_DIMS
from modist_profiling.kernels.ahead_of_time import SHARED_MEMORY_LIMIT, compile_kernel, compile_partial

pytestmark = pytest.mark.slow

# (architecture, C, block rows): most registers, kilobytes of shared memory, class of the matrix instruction.
# As compiled with Triton 3.8 for fp32 queries, and rounded up to a multiple of 8 registers.
BUDGETS = {
    (80, 64, 16): (128, 79, "HMMA"),
    (80, 64, 32): (224, 91, "HMMA"),
    (80, 64, 64): (200, 66, "HMMA"),
    (80, 64, 128): (248, 65, "HMMA"),
    (80, 128, 16): (96, 78, "HMMA"),
    (80, 128, 32): (184, 90, "HMMA"),
    (80, 128, 64): (255, 114, "HMMA"),
    (80, 128, 128): (255, 113, "HMMA"),
    (80, 256, 16): (104, 83, "HMMA"),
    (80, 256, 32): (184, 101, "HMMA"),
    (80, 256, 64): (255, 137, "HMMA"),
    (90, 64, 16): (240, 79, "HMMA"),
    (90, 64, 32): (255, 91, "HMMA"),
    (90, 64, 64): (255, 115, "HGMMA"),
    (90, 64, 128): (255, 65, "HGMMA"),
    (90, 128, 16): (168, 78, "HMMA"),
    (90, 128, 32): (168, 90, "HMMA"),
    (90, 128, 64): (255, 130, "HGMMA"),
    (90, 128, 128): (255, 129, "HGMMA"),
    (90, 256, 16): (176, 83, "HMMA"),
    (90, 256, 32): (255, 101, "HMMA"),
    (90, 256, 64): (248, 129, "HGMMA"),
    (100, 64, 16): (224, 79, "HMMA"),
    (100, 64, 32): (168, 91, "HMMA"),
    (100, 64, 64): (200, 98, "UTCHMMA"),
    (100, 64, 128): (255, 81, "UTCHMMA"),
    (100, 128, 16): (168, 78, "HMMA"),
    (100, 128, 32): (168, 90, "HMMA"),
    (100, 128, 64): (232, 194, "UTCHMMA"),
    (100, 128, 128): (248, 162, "UTCHMMA"),
    (100, 256, 16): (240, 83, "HMMA"),
    (100, 256, 32): (136, 102, "HMMA"),
    (100, 256, 64): (184, 226, "UTCHMMA"),
}
# sm_89 and sm_120 ship too: `python profiling/tune_kernels.py --ahead-of-time` prints the same for all five.
COMPILED = (80, 90, 100)
ENTRIES = [
    pytest.param(arch, dim, entry, id=f"sm{arch}-C{dim}-rows{entry.block_rows}")
    for (arch, dim), entries in PARTIAL.items()
    for entry in entries
    if arch in COMPILED
]


@pytest.mark.parametrize(("arch", "dim", "entry"), ENTRIES)
def test_pass_over_the_bank(arch: int, dim: int, entry: PartialConfiguration) -> None:
    """fp32 queries are the hardest: their rounding is kept in registers, for a second product."""
    used = compile_partial(entry, arch, dim)
    registers, shared, mma = BUDGETS[arch, dim, entry.block_rows]
    assert used.spills == 0
    assert used.registers <= registers
    assert used.shared <= shared * 1024
    assert used.shared <= SHARED_MEMORY_LIMIT[arch]
    assert used.mma == mma
    assert used.wide_loads >= 16
    assert used.narrow_loads == 0


@pytest.mark.parametrize("arch", COMPILED)
@pytest.mark.parametrize(("queries", "both"), [("fp16", False), ("bf16", True)])
def test_other_queries_and_negatives(arch: int, queries: str, both: bool) -> None:
    for entry in PARTIAL[arch, 128][1:3]:
        used = compile_partial(entry, arch, 128, queries, both)
        assert (used.spills, used.narrow_loads) == (0, 0)
        assert used.mma == BUDGETS[arch, 128, entry.block_rows][2]
        assert used.shared <= SHARED_MEMORY_LIMIT[arch]


def test_every_architecture_has_a_table_for_every_dimension() -> None:
    assert {(arch, dim) for arch in ARCHITECTURES for dim in SUPPORTED_DIMS} == set(PARTIAL)
    for entries in PARTIAL.values():
        assert [entry.block_rows for entry in entries] == sorted({entry.block_rows for entry in entries})
    assert set(BUDGETS) == {(a, d, e.block_rows) for (a, d), es in PARTIAL.items() for e in es if a in COMPILED}


@pytest.mark.parametrize("arch", COMPILED)
def test_combination_and_backward(arch: int) -> None:
    for both in (False, True):
        constants = {"PAIRED": True, "BOTH": both, "C": 128}
        fp32 = ("maxima", "sums", "weighted", "losses", "top1", "positives", "lses", "mean_negative")
        combined = compile_kernel(
            combine_kernel,
            pointers=dict.fromkeys(("queries", "keys", *fp32), "fp32"),
            scalars={"batch": "i32", "num_splits": "i32", "inverse_temperature": "fp32"},
            constants=constants | {"BLOCK_S": 64, "TILE_S": COMBINE_TILE},
            architecture=arch,
            num_warps=4,
        )
        names = ("grad_losses", "lses", "positives", "keys", "mean_negative", "grad_queries")
        backward = compile_kernel(
            backward_kernel,
            pointers=dict.fromkeys(names, "fp32"),
            scalars={"batch": "i32", "inverse_temperature": "fp32"},
            constants=constants,
            architecture=arch,
            num_warps=1,
        )
        for used, registers in ((combined, 96), (backward, 64)):
            assert used.spills == 0
            assert used.registers <= registers
            assert used.wide_loads >= 2


@pytest.mark.parametrize("arch", COMPILED)
@pytest.mark.parametrize(
    ("flow", "interleaved", "width", "registers"),
    [("fp16", False, 224, 96), ("fp16", True, 224, 104), ("fp32", False, 224, 96), ("i16", True, 448, 112)],
)
def test_edges(arch: int, flow: str, interleaved: bool, width: int, registers: int) -> None:
    used = compile_kernel(
        edges_kernel,
        pointers={"flow": flow, "edges": "u8", "strip_sums": "fp32"},
        scalars={
            "height": "i32",
            "width": "i32",
            "rows_per_strip": "i32",
            "factor": "fp32",
            "clamp": "fp32",
            "levels": "fp32",
        },
        constants={
            "INTERLEAVED": interleaved,
            "REPLICATE": True,
            "QUANTIZE": True,
            "BLOCK_W": 256 * edges_warps(width),
        },
        architecture=arch,
        num_warps=edges_warps(width),
        multiples_of_16=("width",),
    )
    assert used.spills == 0
    assert used.registers <= registers
    assert used.wide_loads >= 6  # three places that load a row, two components or two halves
    assert used.narrow_loads == 0
    # Two neighbours for each of three rows, five for the sum of a warp; interleaved components are put in order
    # first. A plain gather of neighbours takes 128 a row.
    assert used.shuffles <= (80 if interleaved else 24)


def test_a_spill_would_be_seen() -> None:
    """A tile far too large, which is not in any table."""
    used = compile_partial(PartialConfiguration(128, 64, 4, 2, 1), 90, 256)
    assert used.spills > 0
