"""Memory that is not enough: one paragraph with what was asked for and what to lower, instead of a traceback."""

import re

import torch

from modist_fast.errors import ConfigError

_CPU = re.compile(r"DefaultCPUAllocator: (.*)")


class OutOfMemoryError(ConfigError):
    """A device or the host had less memory than was asked for."""


def shortage(error: BaseException) -> str | None:
    """What was asked for and was not there, in the words of whoever gives memory; None where the error is another."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        # Sizes and what is in use; then come hints at torch's allocator.
        return text.split(" If reserved but unallocated")[0].split(" See documentation")[0].strip()
    if isinstance(error, MemoryError):  # Python's and numpy's
        return text or "Python could not allocate memory"
    if isinstance(error, RuntimeError) and (found := _CPU.search(text)):
        return found[1]
    return None


def during_steps(error: Exception, lacking: str, rank: int, step: int, begun: int, lower: str) -> OutOfMemoryError:
    """The error of a run.

    Args:
        error: of which `shortage` says what was lacking; a note of it names the phase.
        step: that was under way, counted from 1.
        begun: after which step this attempt began.
        lower: the options that lower what a step needs, with their values.
    """
    phase = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    way_out = f"Lower {lower}."
    if taken := step - 1 - begun:
        way_out = (
            f"{taken} steps of this attempt had enough: look whether another program takes memory of the same device "
            "(nvidia-smi, top), or whether this one grows (device_mb and host_mb in metrics.jsonl; modist soak). "
            f"Otherwise lower {lower}."
        )
    return OutOfMemoryError(f"rank {rank} ran out of memory at step {step}{phase}: {lacking.rstrip('.')}. {way_out}")
