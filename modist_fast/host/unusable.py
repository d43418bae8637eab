"""A GPU that is there and that torch cannot use: `--device auto` must not fall back to the CPU in silence."""

import importlib
import os
from typing import Any

import torch


def unusable_gpus() -> str:
    """Why torch uses none of the GPUs that NVML sees; "" where there are none or no NVML, or they are hidden."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.cuda.is_available() or (visible is not None and visible.strip() in ("", "-1")):
        return ""
    try:
        pynvml: Any = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver: then nobody knows of a GPU
        return ""
    try:
        num, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
        major, minor = divmod(pynvml.nvmlSystemGetCudaDriverVersion(), 1000)
    finally:
        pynvml.nvmlShutdown()
    if not num:
        return ""
    offered = f"the driver ({driver}) offers CUDA {major}.{minor // 10}"
    built = (
        f"torch {torch.__version__} is built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPUs only'}"
    )
    hidden = f"; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""
    return f"NVML sees {num} GPU{'s' * (num > 1)}, and torch can use none: {built}, {offered}{hidden}"
