"""Compile a kernel for a chip that is not here, and read what it would use of it."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from modist_kernels.configurations import PartialConfiguration
from modist_kernels.queue_infonce.kernels import partial_kernel

# Most shared memory of one program, bytes.
SHARED_MEMORY_LIMIT = {80: 166_912, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32", "i16": "*i16", "i32": "*i32", "u8": "*u8"}


@dataclass(frozen=True)
class Resources:
    """What one program of a compiled kernel uses."""

    registers: int
    """Of each thread."""
    spills: int
    """Bytes that a thread keeps in local memory for want of registers."""
    shared: int
    """Bytes of shared memory."""
    mma: str
    """Class of the matrix instruction: HMMA, HGMMA (sm_90), UTCHMMA (sm_100), or "none"."""
    wide_loads: int
    """Loads of 128 bits a thread from global memory, copies to shared memory included."""
    narrow_loads: int
    """Loads of 16 bits or fewer a thread."""
    shuffles: int
    """Exchanges between the lanes of a warp."""


def compile_kernel(
    kernel: triton.JITFunction,
    pointers: Mapping[str, str],
    scalars: Mapping[str, str],
    constants: Mapping[str, object],
    architecture: int,
    num_warps: int,
    num_stages: int = 3,
    multiples_of_16: tuple[str, ...] = (),
) -> Resources:
    """Compile `kernel` for sm_`architecture`.

    Args:
        kernel: a `triton.jit` function.
        pointers: argument to element type; all are taken to be aligned to 16 bytes, as torch's allocations are.
        scalars: argument to type.
        constants: the tl.constexpr arguments.
        architecture: 80, 89, 90, 100 or 120.
        num_warps, num_stages: launch options.
        multiples_of_16: integer arguments known to be such, as the JIT sees at a call.
    """
    signature = {name: _POINTERS[kind] for name, kind in pointers.items()} | dict(scalars)
    signature |= dict.fromkeys(constants, "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(kernel.arg_names)
        if name in pointers or name in multiples_of_16
    }
    source = ASTSource(kernel, ordered, dict(constants), attributes)
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": num_warps, "num_stages": num_stages},
    )
    return _read(compiled.asm["cubin"], compiled.metadata.shared)


def compile_partial(
    configuration: PartialConfiguration, architecture: int, dim: int, queries: str = "fp32", both: bool = False
) -> Resources:
    """Compile queue_infonce's pass over the bank.

    Args:
        configuration: its tiles.
        architecture: see `compile_kernel`.
        dim: C.
        queries: their type.
        both: whether the queries of both modalities meet each bank.
    """
    fp32 = dict.fromkeys(("maxima", "sums", "weighted"), "fp32")
    return compile_kernel(
        partial_kernel,
        pointers={"queries": queries, "bank": "fp16", "bank_ids": "i32", "ids": "i32"} | fp32,
        scalars={"batch": "i32", "num_negatives": "i32", "tiles_per_split": "i32", "log2_scale": "fp32"},
        constants={
            "BOTH": both,
            "SPLIT_QUERY": queries == "fp32",
            "C": dim,
            "BLOCK_R": configuration.block_rows,
            "BLOCK_N": configuration.block_negatives,
            "STAGES": configuration.num_stages,
        },
        architecture=architecture,
        num_warps=configuration.num_warps,
    )


def _read(cubin: bytes, shared: int) -> Resources:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        code = _tool("nvdisasm", "-c", file.name)
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    loads = re.findall(r"\b(LDG\S*|LDGSTS\S*)", code)
    mma = [name for name in ("UTCHMMA", "HGMMA", "HMMA") if re.search(rf"\b{name}", code)]
    return Resources(
        registers=numbers["REG"],
        spills=numbers["STACK"] + numbers["LOCAL"],
        shared=shared,
        mma=mma[0] if mma else "none",
        wide_loads=sum(".128" in load for load in loads),
        narrow_loads=sum(bool(re.search(r"\.[US](8|16)", load)) for load in loads),
        shuffles=len(re.findall(r"\bSHFL", code)),
    )


def _tool(name: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / name, *arguments], check=True, capture_output=True, text=True).stdout
