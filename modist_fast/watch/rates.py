"""What a device can do at most, what the nets ask of it, and how much memory a process has held."""

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Roofline:
    """Limits of a device."""

    name: str
    bandwidth: float
    """GB/s of main memory."""
    compute: float
    """TFLOP/s of the matrix unit in the type of the products."""
    source: str
    """Where the two come from."""

    def seconds(self, bytes_moved: float, flops: float) -> float:
        """Least time for that much traffic and that much arithmetic, fully overlapped."""
        return max(bytes_moved / (self.bandwidth * 1e9), flops / (self.compute * 1e12))


# Data sheets: dense fp16 products with fp32 sums. The first name found in the device's name counts.
_DATA_SHEETS = {
    "H200": (4800.0, 989.0),
    "H100 PCIe": (2000.0, 756.0),
    "H100": (3350.0, 989.0),
    "B200": (8000.0, 2250.0),
    "A100-SXM4-40GB": (1555.0, 312.0),
    "A100": (2039.0, 312.0),
    "L40S": (864.0, 362.0),
    "RTX 4090": (1008.0, 165.0),
    "RTX 5090": (1792.0, 210.0),
}


def roofline(device: torch.device) -> Roofline:
    """Limits of `device`: a data sheet's for known GPUs, measured for others and for the CPU (half a second)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    for key, (bandwidth, compute) in _DATA_SHEETS.items():
        if key in name:
            return Roofline(name, bandwidth, compute, "data sheet")
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return Roofline(name, _copy_bandwidth(device), matmul_rate(device, dtype), "measured copy and matrix product")


def _best_seconds(run, device: torch.device, repeats: int = 7) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def _copy_bandwidth(device: torch.device) -> float:
    source = torch.zeros(32 << 20, dtype=torch.float32, device=device)  # 128 MiB, beyond all but the largest caches
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device) / 1e9


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """TFLOP/s of a square matrix product, the best of a few: a tenth of a second."""
    size = 4096 if device.type == "cuda" else 768
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: a @ b, device) / 1e12


def count_flops(net: nn.Module, inputs: Sequence[Tensor | None], backward: bool) -> int:
    """Operations (a multiply-add is two) of one call of `net`, without computing it.

    Args:
        net: on torch's meta device; returns one tensor.
        inputs: on the meta device too.
        backward: count the backward pass to all parameters as well.
    """
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        result = net(*inputs)
        if backward:
            result.sum().backward()
    return counter.get_total_flops()


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """Operations a second that a large matrix product reaches on `device` now, and how that was found."""
    name = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]
    rate = matmul_rate(device, dtype)
    return rate * 1e12, f"the {rate:.2f} TFLOP/s that a {name} matrix product reaches here"


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most that this process held so far, in MB: host_mb, and device_mb as torch's allocator counts it."""
    allocated = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return {"host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "device_mb": allocated}
