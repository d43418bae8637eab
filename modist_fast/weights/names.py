"""Visual backbones under the parameter names of PySlowFast, PyTorchVideo and torchvision, and theirs under ours.

The first two call this network "Slow" R50. They agree with ours in every tensor but one: their conv1 is 1×7² (and
takes every frame: our `slow-r50`) where the paper's (Table 1) is 5×7² (and takes every other). PySlowFast built with
the paper's conv1, as in the authors' code, is our `r50`. For r18 the names are those of its basic blocks; as released,
it makes their stages four times as wide, which a conversion reports tensor by tensor. torchvision's names, which timm
and MoCo use too, are those of nets of pictures: see `inflate`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from modist_fast.errors import ConfigError

_BLOCK = re.compile(r"stages\.res(?P<stage>\d)\.(?P<block>\d+)\.(?P<branch>residual|shortcut)\.(?P<rest>.+)")


@dataclass(frozen=True)
class Conversion:
    """A peer's tensors under our names, and every name that found no place."""

    state: dict[str, Tensor]
    """For `net.load_state_dict(conversion.state, strict=False)`."""
    missing: list[str]
    """Our names that the peer does not hold."""
    unexpected: list[str]
    """The peer's names that we do not hold: its classifier, for one."""
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Our names held by both in different shapes: the peer's shape, ours."""

    @property
    def complete(self) -> bool:
        """Whether every tensor of our network was found."""
        return not self.missing and not self.mismatched


@dataclass(frozen=True)
class Naming:
    """What a library calls the tensors of a visual residual network.

    Attributes:
        rename: our name of a tensor to theirs.
        stem, first: conv1, and the first convolution of the first block: by both a file is recognized.
        last: the last convolution of that block where it is a bottleneck.
        of_pictures: convolutions are 2D.
    """

    name: str
    rename: Callable[[str], str]
    of_pictures: bool = False

    @property
    def stem(self) -> str:
        return self.rename("stem.weight")

    @property
    def first(self) -> str:
        return self.rename("stages.res2.0.residual.conv_a.weight")

    @property
    def last(self) -> str:
        return self.rename("stages.res2.0.residual.conv_c.weight")

    def theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of a visual backbone, without heads, under their names."""
        return {self.rename(name): tensor for name, tensor in state.items()}

    def ours(self, state: Mapping[str, Tensor], net: nn.Module) -> Conversion:
        """What of their state dict fits `net`, which is left as it is."""
        ours = net.state_dict()
        peers = {name: self.rename(name) for name in ours}
        found = {name: state[peer] for name, peer in peers.items() if peer in state}
        fits = {name: tensor.shape == ours[name].shape for name, tensor in found.items()}
        known = set(peers.values())
        return Conversion(
            state={name: tensor for name, tensor in found.items() if fits[name]},
            missing=[name for name in ours if name not in found],
            unexpected=[peer for peer in state if peer not in known],
            mismatched={
                name: (tuple(tensor.shape), tuple(ours[name].shape)) for name, tensor in found.items() if not fits[name]
            },
        )


def _pyslowfast_name(name: str) -> str:
    if (parts := _BLOCK.fullmatch(name)) is None:
        return _stem_name(name, {"stem": "s1.pathway0_stem.conv", "stem_norm": "s1.pathway0_stem.bn"})
    kind, _, rest = parts["rest"].partition(".")
    prefix = f"s{parts['stage']}.pathway0_res{parts['block']}"
    if parts["branch"] == "shortcut":
        return f"{prefix}.{'branch1' if kind == 'conv' else 'branch1_bn'}.{rest}"
    layer, letter = kind.split("_")
    return f"{prefix}.branch2.{letter if layer == 'conv' else f'{letter}_bn'}.{rest}"


def _pytorchvideo_name(name: str) -> str:
    if (parts := _BLOCK.fullmatch(name)) is None:
        return _stem_name(name, {"stem": "blocks.0.conv", "stem_norm": "blocks.0.norm"})
    prefix = f"blocks.{int(parts['stage']) - 1}.res_blocks.{parts['block']}"
    return f"{prefix}.{'branch1_' if parts['branch'] == 'shortcut' else 'branch2.'}{parts['rest']}"


def _stem_name(name: str, peers: dict[str, str]) -> str:
    module, _, rest = name.partition(".")
    if module not in peers:
        raise ConfigError(
            f"cannot convert the parameter {name!r}: it is not one of a visual backbone. Pass the state dict of "
            "build_visual or load_backbone, without heads or prefixes."
        )
    return f"{peers[module]}.{rest}"


def _torchvision_name(name: str) -> str:
    if (parts := _BLOCK.fullmatch(name)) is None:
        return _stem_name(name, {"stem": "conv1", "stem_norm": "bn1"})
    kind, _, rest = parts["rest"].partition(".")
    prefix = f"layer{int(parts['stage']) - 1}.{parts['block']}"
    if parts["branch"] == "shortcut":
        return f"{prefix}.downsample.{0 if kind == 'conv' else 1}.{rest}"
    layer, letter = kind.split("_")
    return f"{prefix}.{'conv' if layer == 'conv' else 'bn'}{'abc'.index(letter) + 1}.{rest}"


MODIST = Naming("modist", str)
PYSLOWFAST = Naming("pyslowfast", _pyslowfast_name)
PYTORCHVIDEO = Naming("pytorchvideo", _pytorchvideo_name)
TORCHVISION = Naming("torchvision", _torchvision_name, of_pictures=True)
NAMINGS = (MODIST, PYSLOWFAST, PYTORCHVIDEO, TORCHVISION)
