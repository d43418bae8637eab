"""Which implementation of an op runs: chosen by device, forced by argument or environment, said once in the log."""

import importlib.util
import logging
import os

import torch

logger = logging.getLogger("modist")

BACKENDS = ("triton", "cpu", "reference")
ENVIRONMENT_VARIABLE = "MODIST_KERNELS_BACKEND"
_said: set[str] = set()


def choose_backend(op: str, device: torch.device, requested: str | None) -> str:
    """Name the implementation of `op` for tensors on `device`.

    Triton on CUDA, the CPU path on the CPU. `requested`, else the environment variable MODIST_KERNELS_BACKEND,
    forces one of `BACKENDS`.

    Raises:
        ValueError: unknown backend, one that does not work on `device`, or a device that has none but the reference.
    """
    forced = requested or os.environ.get(ENVIRONMENT_VARIABLE) or None
    if forced is None:
        backend = _default_backend(op, device)
    else:
        _check_forced(op, device, forced, f"backend={forced!r}" if requested else f"{ENVIRONMENT_VARIABLE}={forced}")
        backend = forced
    if not torch.compiler.is_compiling():
        _say_once(op, device, backend, "forced" if forced else "default")
    return backend


def _default_backend(op: str, device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    if device.type != "cuda":
        raise ValueError(
            f"{op} has kernels for CUDA and CPU tensors, and got {device}. "
            f"Pass backend='reference' (or set {ENVIRONMENT_VARIABLE}=reference) to run its plain torch definition."
        )
    if importlib.util.find_spec("triton") is None:
        raise ValueError(
            f"{op} on {device} needs Triton, which is not installed: `pip install triton`, or pass "
            f"backend='reference' (or set {ENVIRONMENT_VARIABLE}=reference) for the slow plain torch definition."
        )
    return "triton"


def _check_forced(op: str, device: torch.device, forced: str, source: str) -> None:
    if forced not in BACKENDS:
        raise ValueError(f"{op}: {source} is none of {', '.join(BACKENDS)}. Leave it out to choose by device.")
    if forced == "cpu" and device.type != "cpu":
        raise ValueError(
            f"{op}: {source} runs on CPU tensors only, and got {device}. Leave it out to choose by device."
        )
    if forced == "triton" and device.type == "cpu" and not interpreting():
        raise ValueError(
            f"{op}: {source} needs CUDA tensors, and got CPU tensors. Leave it out to choose by device; "
            "TRITON_INTERPRET=1, set before Python starts, interprets the kernel on the CPU (very slow, for tests)."
        )


def multiplies_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 numbers in hardware; what has not emulates it, many times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def interpreting() -> bool:
    """Whether Triton kernels run in its interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _say_once(op: str, device: torch.device, backend: str, why: str) -> None:
    line = f"{op}: {backend} backend on {device.type} ({why})"
    if line not in _said:
        _said.add(line)
        logger.info(line)
