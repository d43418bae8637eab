"""Visual backbones under the parameter names of PySlowFast and PyTorchVideo, and theirs under ours.

Both libraries call this network "Slow" R50. They agree with ours in every tensor but one: their conv1 is 1×7² (and
takes every frame) where the paper's (Table 1) is 5×7² (and takes every other). PySlowFast built with the paper's conv1,
as in the authors' code, fits whole. For r18 the names are those of its basic blocks; as released, it makes their
stages four times as wide, which a conversion reports tensor by tensor.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.models.resnet import ResNet

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


def to_pyslowfast(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a visual backbone, r50 or r18, under PySlowFast's names (its `s1` to `s5`, no head)."""
    return {_pyslowfast_name(name): tensor for name, tensor in state.items()}


def from_pyslowfast(state: Mapping[str, Tensor], net: ResNet) -> Conversion:
    """What of a PySlowFast state dict (a checkpoint's "model_state") fits `net`; `net` is left as it is."""
    return _convert(state, net, _pyslowfast_name)


def to_pytorchvideo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a visual r50 backbone under PyTorchVideo's names (`blocks.0` to `blocks.4`, no head).

    Raises:
        ConfigError: a backbone of basic blocks, which PyTorchVideo does not have.
    """
    _require_bottlenecks(state)
    return {_pytorchvideo_name(name): tensor for name, tensor in state.items()}


def from_pytorchvideo(state: Mapping[str, Tensor], net: ResNet) -> Conversion:
    """What of a PyTorchVideo state dict (`slow_r50`) fits `net`; `net` is left as it is.

    Raises:
        ConfigError: `net` is of basic blocks, which PyTorchVideo does not have.
    """
    _require_bottlenecks(net.state_dict())
    return _convert(state, net, _pytorchvideo_name)


def _convert(state: Mapping[str, Tensor], net: ResNet, peer_name: Callable[[str], str]) -> Conversion:
    ours = net.state_dict()
    peers = {name: peer_name(name) for name in ours}
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


def _require_bottlenecks(state: Mapping[str, Tensor]) -> None:
    if not any(name.endswith("residual.conv_c.weight") for name in state):
        raise ConfigError(
            "PyTorchVideo has no residual network of basic blocks, so an r18 backbone has no names there. Convert an "
            "r50, or use PySlowFast's names."
        )
