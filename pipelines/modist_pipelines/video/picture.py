"""From a decoded frame to the picture that a viewer sees: upright, in its shape, in its colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from modist_pipelines.video.reader import MAX_ASPECT, VideoError, blamed_on_file

# Standard definition ends at 1024x576; players take what is larger for HD where the file does not say.
_SD_WIDTH, _SD_HEIGHT = 1024, 576
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_CHROMA_709 = 1  # SWS_CS_ITU709
# Of the longer side, in stored pixels: a stream that changes its resolution and not its shape may round otherwise.
_SHAPE_TOLERANCE = 0.02

Aspect = Literal["display", "storage"]
UntaggedHd = Literal["bt709", "bt601"]
SizeChange = Literal["refuse", "scale"]


@dataclass(frozen=True)
class PictureRules:
    """What is done where files and tools differ; docs/data.md has a table of it."""

    aspect: Aspect = "display"
    """"display" makes pixels square, as players show them; "storage" keeps them as they are stored."""
    untagged_hd: UntaggedHd = "bt709"
    """Colour matrix of frames beyond 1024x576 that name none."""
    size_change: SizeChange = "refuse"
    """Of a video whose frames change their shape: "refuse" it, or "scale" each frame to the shape of the first."""


RULES = PictureRules()


class Orientation(NamedTuple):
    """How a frame is turned: rows and columns swapped first, then mirrored. The eight of a display matrix."""

    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    @staticmethod
    def of(frame: av.VideoFrame) -> "Orientation":
        """The orientation that a frame's display matrix asks for, or the nearest to it."""
        side_data: Mapping[Any, Any] = frame.side_data
        data = side_data.get("DISPLAYMATRIX")
        if data is None:
            return Orientation()
        # ISO 14496-12: pixel (x, y) is shown at (a x + c y, b x + d y), up to a shift.
        a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])
        if abs(b) + abs(c) > abs(a) + abs(d):
            return Orientation(True, c < 0, b < 0)
        return Orientation(False, a < 0, d < 0)

    def is_rotation(self) -> bool:
        """Whether it is made of quarter turns alone, with no mirror."""
        return (self.swaps + self.mirrors_x + self.mirrors_y) % 2 == 0

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, C) turned, contiguous."""
        if self.swaps:
            pixels = pixels.swapaxes(0, 1)
        step_y, step_x = (-1 if mirrors else 1 for mirrors in (self.mirrors_y, self.mirrors_x))
        return np.ascontiguousarray(pixels[::step_y, ::step_x])

    def turned_back(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W) or (H, W, C), turned upright, as the file has them."""
        step_y, step_x = (-1 if mirrors else 1 for mirrors in (self.mirrors_y, self.mirrors_x))
        pixels = pixels[::step_y, ::step_x]
        return np.ascontiguousarray(pixels.swapaxes(0, 1) if self.swaps else pixels)

    def upright_field(self, vectors: np.ndarray) -> np.ndarray:
        """(H, W, 2) of x and y: turned as pixels are, and each vector with them."""
        if self.swaps:
            vectors = vectors[..., ::-1]
        signs = [-1 if mirrors else 1 for mirrors in (self.mirrors_x, self.mirrors_y)]
        return self.upright(vectors) * np.array(signs, vectors.dtype)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) once turned; also the way back."""
        return (height, width) if self.swaps else (width, height)


UPRIGHT = Orientation()


def shown_size(frame: av.VideoFrame, pixel_aspect: Fraction) -> tuple[int, int]:
    """(width, height) of a frame with square pixels, before it is turned: what FFmpeg's `scale=iw*sar:ih` gives."""
    return max(1, int(frame.width * pixel_aspect)), frame.height


def chroma_matrix(frame: av.VideoFrame, rules: PictureRules) -> int | None:
    """swscale's number of the colour matrix to read a frame with; None for the one that it names, else BT.601."""
    is_hd = frame.width > _SD_WIDTH or frame.height > _SD_HEIGHT
    unnamed = frame.colorspace == _UNSPECIFIED and not frame.format.is_rgb
    return _CHROMA_709 if is_hd and unnamed and rules.untagged_hd == "bt709" else None


class FrameScaler:
    """Brings decoded frames upright and to size. All frames of a video get the size of the first."""

    def __init__(self, short_side: int, pixel_aspect: Fraction | int = 1, rules: PictureRules = RULES) -> None:
        """
        Args:
            short_side: pixels of the shorter side.
            pixel_aspect: width of a stored pixel by its height.
            rules: what is done where files and tools differ.
        """
        self._short_side = short_side
        self._pixel_aspect = Fraction(pixel_aspect) if rules.aspect == "display" else Fraction(1)
        self._rules = rules
        self._reformatter = VideoReformatter()
        self._source: tuple[int, int] | None = None
        self.size: tuple[int, int] | None = None
        """(width, height) of the frames, known after the first."""
        self.orientation = UPRIGHT
        """Of the latest frame in its file."""

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """(H, W, 3) uint8, in OpenCV's channel order B, G, R.

        Raises:
            VideoError: extreme_shape, changes_shape, or pixels of a kind that FFmpeg cannot convert.
        """
        with blamed_on_file("decode_error", "display matrix: "):
            orientation = self.orientation = Orientation.of(frame)
        source = orientation.size(*shown_size(frame, self._pixel_aspect))
        if source != self._source:
            self._look_at_size(source)
        assert self.size is not None
        width, height = orientation.size(*self.size)
        # Area averages where pixels get fewer; it would only repeat them where they get more.
        interpolation = "AREA" if width < frame.width else "BILINEAR"
        with blamed_on_file("decode_error", f"pixels of kind {frame.format.name}: "):
            scaled = self._reformatter.reformat(
                frame,
                width,
                height,
                "bgr24",
                interpolation=interpolation,
                src_colorspace=chroma_matrix(frame, self._rules),
                threads=1,  # the parallelism is over videos
            )
            pixels = scaled.to_ndarray()
        return orientation.upright(pixels)

    def _look_at_size(self, source: tuple[int, int]) -> None:
        size = scaled_size(*source, self._short_side)
        if self.size is None:
            self.size = size
        elif self._rules.size_change == "refuse":
            tolerance = max(1.0, _SHAPE_TOLERANCE * max(self.size))
            if max(abs(now - then) for now, then in zip(size, self.size, strict=True)) > tolerance:
                was, now = ("x".join(map(str, pair)) for pair in (self._source or (), source))
                raise VideoError("changes_shape", f"from {was} to {now} pixels; --size-change scale keeps it")
        self._source = source


def upright_rgb(frame: av.VideoFrame, pixel_aspect: Fraction | int = 1, rules: PictureRules = RULES) -> np.ndarray:
    """(H, W, 3) uint8, turned as the file says, with square pixels, at the height of the file.

    Raises:
        VideoError: pixels of a kind that FFmpeg cannot convert.
    """
    width, height = shown_size(frame, Fraction(pixel_aspect) if rules.aspect == "display" else Fraction(1))
    with blamed_on_file("decode_error", f"pixels of kind {frame.format.name}: "):
        pixels = frame.to_ndarray(
            format="rgb24", width=width, height=height, src_colorspace=chroma_matrix(frame, rules)
        )
        orientation = Orientation.of(frame)
    return orientation.upright(pixels)


def scaled_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the shorter side brought to `short_side` and the shape kept.

    Raises:
        VideoError: extreme_shape.
    """
    short = min(width, height)
    if max(width, height) > MAX_ASPECT * short:
        raise VideoError("extreme_shape", f"{width}x{height} pixels")
    return round(width * short_side / short), round(height * short_side / short)
