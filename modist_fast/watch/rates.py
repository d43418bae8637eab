"""What a device can do at most, to say which share of it was reached."""

import time
from dataclasses import dataclass

import torch


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
