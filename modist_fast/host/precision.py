"""Which number format the nets compute in, and why."""

import torch

from modist_fast.host.choices import PrecisionOption

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(option: PrecisionOption, device: torch.device) -> tuple[torch.dtype, str]:
    """The autocast format for `option` on `device`, and the reason in words for the log."""
    if option != "auto":
        return _DTYPES[option], f"{option}: as asked"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16, "bf16: native on this GPU, needs no loss scaling"
        return torch.float16, "fp16 with loss scaling: this GPU has no native bf16"
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16, "bf16: this CPU multiplies it natively"
    return torch.float32, "fp32: this CPU has no native bf16 and would emulate it slowly"
