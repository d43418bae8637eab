"""What a backbone must offer: the trainer, the exporter, the evaluations and Grad-CAM ask for this and no more."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

from torch import Tensor, nn

from modist_fast.errors import ConfigError


class Backbone(nn.Module, ABC):
    """Clips (B, C, T, H, W) in, features (B, D) out; the features are the mean of a map over its places.

    Grad-CAM and pooling at several places take the map, so that mean is part of the protocol. The rest is a module of
    torch: momentum nets are deep copies of it, and exports its state dict.
    """

    num_features: int
    """D."""
    output_stride: int
    """Pixels from one place of the map to the next."""
    clip_unit: ClassVar[tuple[int, int]] = (1, 1)
    """The frames and the pixels that a clip's length and side must be whole multiples of."""

    @abstractmethod
    def feature_map(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, t, h, w): the last grid of features."""

    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[nn.Module]]:
        """What `--frozen` can name, in the order of computation; together they hold every parameter."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D): features averaged over time and space."""
        return self.feature_map(x).mean(dim=(2, 3, 4))

    def scale_residuals(self, scale: float) -> None:
        """Where residual branches begin as nothing: make them whole (1), as in a random net, or nothing again (0).

        Nothing to do for a net whose branches begin whole.
        """

    def with_output_stride(self, stride: int) -> Self:
        """A copy with an output every `stride` pixels and the same weights.

        Raises:
            ConfigError: a stride that this net cannot have.
        """
        if stride != self.output_stride:
            raise ConfigError(
                f"--output-stride {stride}: this net has an output every {self.output_stride} pixels, "
                "and cannot be made finer. Leave the option out."
            )
        return copy.deepcopy(self)

    def for_detection(self) -> Self:
        """A copy with the same weights whose map is fine enough for boxes: a place every 16 pixels.

        Raises:
            ConfigError: a net that detection was not built for.
        """
        raise ConfigError(
            "evaluate ava dilates the last stage of a residual net, which this backbone has not. Use r50 or r18."
        )

    def check_clip(
        self, num_frames: int, side: int, frames_option: str = "the frames", side_option: str = "the side"
    ) -> None:
        """Refuse clips that the net cannot take.

        Args:
            num_frames: of a clip.
            side: of a clip, in pixels.
            frames_option: what the user calls the first.
            side_option: what the user calls the second.

        Raises:
            ConfigError: with the nearest sizes that it can.
        """
        for value, unit, option, of in (
            (num_frames, self.clip_unit[0], frames_option, "frames"),
            (side, self.clip_unit[1], side_option, "pixels"),
        ):
            if value < unit or value % unit:
                below = value // unit * unit
                near = " or ".join(str(size) for size in (below, below + unit) if size)
                raise ConfigError(
                    f"{option} {value}: this net takes whole multiples of {unit} {of}. Use one of the nearest: {near}."
                )
