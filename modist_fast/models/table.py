"""The nets there are: the one place that knows them by name (`host.choices.Arch` repeats the names without torch)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from modist_fast.errors import ConfigError, did_you_mean
from modist_fast.models.backbone import Backbone
from modist_fast.models.foreign import inflated_resnet, slow_r50
from modist_fast.models.r2plus1d import r2plus1d_18
from modist_fast.models.resnet import motion_resnet, visual_resnet
from modist_fast.models.vit import vit_s16

_R2D_18 = partial(motion_resnet, "r18")


@dataclass(frozen=True)
class Nets:
    """The two pathways of an arch; each is built from a width."""

    visual: Callable[[int], Backbone]
    """Takes (B, 3, T, H, W)."""
    motion: Callable[[int, int], Backbone] = _R2D_18
    """Takes (B, C, T, H, W), and is built from C too. It is thrown away after pre-training, so the paper's small one
    serves any visual net."""


BACKBONES: dict[str, Nets] = {
    "r50": Nets(partial(visual_resnet, "r50"), partial(motion_resnet, "r50")),
    "r18": Nets(partial(visual_resnet, "r18")),
    "vit-s16": Nets(vit_s16),
    "r2plus1d-18": Nets(r2plus1d_18),
    # For weights of other libraries: docs/weights.md.
    "slow-r50": Nets(slow_r50),
    "imagenet-r50": Nets(partial(inflated_resnet, "r50")),
    "imagenet-r18": Nets(partial(inflated_resnet, "r18")),
}


def find_backbone(arch: str) -> Nets:
    """The nets called `arch`.

    Raises:
        ConfigError: there are none; the message lists those there are.
    """
    if arch not in BACKBONES:
        raise ConfigError(f"arch {arch!r}: one of {', '.join(BACKBONES)}.{did_you_mean(arch, BACKBONES)}")
    return BACKBONES[arch]


def build_visual(arch: str, width: int = 64) -> Backbone:
    """The visual pathway: (B, 3, T, H, W) to (B, D).

    Raises:
        ConfigError: no such arch.
    """
    return find_backbone(arch).visual(width)


def build_motion(arch: str, width: int = 8, in_channels: int = 1) -> Backbone:
    """The motion pathway: (B, C, T, H, W) to (B, D).

    Raises:
        ConfigError: no such arch.
    """
    return find_backbone(arch).motion(width, in_channels)
