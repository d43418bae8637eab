"""Keeping a process on the CPU cores that are near its GPU."""

import os

import torch

from modist_fast.host.device_monitor import gpu_handle


def bind_near_gpu(device: torch.device) -> str:
    """Restrict this process to the cores of its GPU's NUMA node, as NVML names them.

    Threads inherit it, so it must come before any starts. Cores that the process was not allowed before stay
    forbidden.

    Returns:
        What was done, or why nothing was, in one line.
    """
    if device.type != "cuda":
        return "all allowed cores (no GPU to be near to)"
    try:
        near = _cores_near(device)
    except Exception as error:  # NVML is absent, too old, or not allowed: training works without
        return f"all allowed cores: NVML names none near {device} ({error})"
    allowed = os.sched_getaffinity(0)
    if not near & allowed:
        return f"all allowed cores: none of them is near {device}"
    os.sched_setaffinity(0, near & allowed)
    return f"{len(near & allowed)} cores near {device} (of {len(allowed)} allowed)"


def _cores_near(device: torch.device) -> set[int]:
    import pynvml

    pynvml.nvmlInit()
    try:
        handle = gpu_handle(pynvml, device)
        num_words = -(-(os.cpu_count() or 1) // 64)
        words = pynvml.nvmlDeviceGetCpuAffinity(handle, num_words)
    finally:
        pynvml.nvmlShutdown()
    return {64 * index + bit for index, word in enumerate(words) for bit in range(64) if word >> bit & 1}
