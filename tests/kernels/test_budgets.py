"""Every shipped configuration, compiled ahead of time, against its budget.

A machine without a GPU can hold these: spills, registers, shared memory, the class of the matrix instruction,
vectorized loads. They catch what a new Triton compiles worse without a word.
"""

import pytest
import triton

from modist_kernels.configurations import ARCHITECTURES, PARTIAL, PartialConfiguration, edges_warps, triton_version
from modist_kernels.flow_edges.kernels import edges_kernel
from modist_kernels.queue_infonce.kernels import backward_kernel, combine_kernel
from modist_kernels.queue_infonce.launches import COMBINE_TILE, SUPPORTED_DIMS
from modist_profiling.kernels.ahead_of_time import SHARED_MEMORY_LIMIT, compile_kernel, compile_partial

pytestmark = pytest.mark.slow

# (architecture, C): most registers and kilobytes of shared memory of each entry by rising block rows, from a version of
# Triton on. As compiled with that version for fp32 queries, and rounded up to a multiple of 8 registers.
BUDGETS_BY_TRITON = {
    (3, 6): {
        (80, 64): [(248, 79), (255, 91), (255, 66), (255, 65)],
        (80, 128): [(200, 78), (255, 90), (255, 148), (255, 89)],
        (80, 256): [(128, 83), (255, 101), (224, 139)],
        (90, 64): [(216, 79), (255, 91), (248, 65), (248, 98)],
        (90, 128): [(200, 78), (152, 123), (248, 162), (232, 129)],
        (90, 256): [(192, 83), (255, 101), (248, 129)],
        (100, 64): [(216, 79), (168, 91), (192, 98), (255, 81)],
        (100, 128): [(200, 78), (152, 123), (192, 194), (255, 162)],
        (100, 256): [(168, 83), (152, 134), (168, 226)],
    },
    (3, 8): {
        (80, 64): [(128, 79), (224, 91), (200, 66), (248, 65)],
        (80, 128): [(96, 78), (184, 90), (255, 114), (255, 113)],
        (80, 256): [(104, 83), (184, 101), (255, 137)],
        (90, 64): [(240, 79), (255, 91), (255, 115), (255, 65)],
        (90, 128): [(168, 78), (168, 90), (255, 130), (255, 129)],
        (90, 256): [(176, 83), (255, 101), (248, 129)],
        (100, 64): [(224, 79), (168, 91), (200, 98), (255, 81)],
        (100, 128): [(168, 78), (168, 90), (232, 194), (248, 162)],
        (100, 256): [(240, 83), (136, 102), (184, 226)],
    },
}
RUNNING = triton_version(triton.__version__)
BUDGETS = BUDGETS_BY_TRITON[max(since for since in BUDGETS_BY_TRITON if since <= RUNNING)]
# sm_89 and sm_120 ship too: `python profiling/tune_kernels.py --ahead-of-time` prints the same for all five.
COMPILED = (80, 90, 100)
ENTRIES = [
    pytest.param(arch, dim, entry, *budget, id=f"sm{arch}-C{dim}-rows{entry.block_rows}")
    for (arch, dim), entries in PARTIAL.items()
    if arch in COMPILED
    for entry, budget in zip(entries, BUDGETS[arch, dim], strict=True)
]


def matrix_instruction(arch: int, block_rows: int) -> str:
    """Its class: tensor cores that take 64 rows at a time have one of their own."""
    return {90: "HGMMA", 100: "UTCHMMA"}.get(arch, "HMMA") if block_rows >= 64 else "HMMA"


@pytest.mark.parametrize(("arch", "dim", "entry", "registers", "kilobytes"), ENTRIES)
def test_pass_over_the_bank(arch: int, dim: int, entry: PartialConfiguration, registers: int, kilobytes: int) -> None:
    """fp32 queries are the hardest: their rounding is kept in registers, for a second product."""
    used = compile_partial(entry, arch, dim)
    assert used.spills == 0
    assert used.registers <= registers
    assert used.shared <= kilobytes * 1024
    assert used.shared <= SHARED_MEMORY_LIMIT[arch]
    assert used.mma == matrix_instruction(arch, entry.block_rows)
    assert used.wide_loads >= 16
    assert used.narrow_loads == 0


@pytest.mark.parametrize("arch", COMPILED)
@pytest.mark.parametrize(("queries", "both"), [("fp16", False), ("bf16", True)])
def test_other_queries_and_negatives(arch: int, queries: str, both: bool) -> None:
    for entry in PARTIAL[arch, 128][1:3]:
        used = compile_partial(entry, arch, 128, queries, both)
        assert (used.spills, used.narrow_loads) == (0, 0)
        assert used.mma == matrix_instruction(arch, entry.block_rows)
        assert used.shared <= SHARED_MEMORY_LIMIT[arch]


def test_every_architecture_has_a_table_for_every_dimension() -> None:
    assert {(arch, dim) for arch in ARCHITECTURES for dim in SUPPORTED_DIMS} == set(PARTIAL)
    for entries in PARTIAL.values():
        assert [entry.block_rows for entry in entries] == sorted({entry.block_rows for entry in entries})
    assert set(BUDGETS) == {(arch, dim) for arch, dim in PARTIAL if arch in COMPILED}


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
