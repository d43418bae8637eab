"""How much memory a process has held."""

import resource

import torch


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most that this process held so far, in MB: host_mb, and device_mb as torch's allocator counts it."""
    allocated = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return {"host_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "device_mb": allocated}
