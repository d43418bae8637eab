"""For `torch.hub.load("OWNER/modist-fast", "backbone", FILE)`, or with `source="local"` from a checkout.

Each entry gives a module in eval mode: (B, 3, T, H, W) float32 to (B, D). Nothing is downloaded.
"""

import sys
from pathlib import Path

from torch import nn

dependencies = ["torch", "numpy", "safetensors", "av", "pyarrow", "cv2", "tyro"]

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE / folder) for folder in ("kernels", "pipelines", "")]


def backbone(path: str) -> nn.Module:
    """A run, an exported backbone, a checkpoint, or weights of other people; see `modist_fast.load_backbone`."""
    from modist_fast import load_backbone

    return load_backbone(path)


def untrained(arch: str = "r50", width: int = 64) -> nn.Module:
    """A visual backbone with its first weights.

    Args:
        arch: a name in `modist_fast.models.BACKBONES`.
        width: channels of the first convolution.
    """
    from modist_fast.models import build_visual

    return build_visual(arch, width).eval()
