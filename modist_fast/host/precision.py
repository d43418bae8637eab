"""Which number format the nets compute in, and why."""

import torch

from modist_fast.host.choices import PrecisionOption
from modist_kernels.dispatch import multiplies_bf16

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(option: PrecisionOption, device: torch.device) -> tuple[torch.dtype, str]:
    """The autocast format for `option` on `device`, and the reason in words for the log."""
    if option != "auto":
        return _DTYPES[option], f"{option}: as asked"
    native = multiplies_bf16(device)
    if device.type == "cuda":
        if native:
            return torch.bfloat16, "bf16: native on this GPU, needs no loss scaling"
        return torch.float16, "fp16 with loss scaling: this GPU has no native bf16"
    if native:
        return torch.bfloat16, "bf16: this CPU multiplies it natively"
    return torch.float32, "fp32: this CPU has no native bf16 and would emulate it slowly"
