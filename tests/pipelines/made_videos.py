"""Small videos for the tests of this room, whose frames say which they are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modist_pipelines.video import write

NUM_BITS = 8


def numbered_picture(number: int, width: int = 128, height: int = 64) -> np.ndarray:
    """(H, W, 3) uint8: eight bars, white for each set bit of the number, the lowest bit at the left."""
    bits = (number >> np.arange(NUM_BITS)) & 1
    row = np.repeat(bits * 200 + 25, width // NUM_BITS).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(picture: np.ndarray) -> int:
    """The number of a picture of any size."""
    height, width = picture.shape[:2]
    centres = ((np.arange(NUM_BITS) + 0.5) * width / NUM_BITS).astype(int)
    values = picture[height // 3 : 2 * height // 3, centres].reshape(-1, NUM_BITS, 3).mean(axis=(0, 2))
    return int(((values > 125) << np.arange(NUM_BITS)).sum())


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray],
    *,
    fps: int = 30,
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    b_frames: int = 0,
) -> Path:
    """Encode pictures.

    Args:
        path: its suffix chooses the container.
        pictures: (H, W, 3) uint8 RGB.
        fps: pictures a second, where `times` is not given.
        times: milliseconds at which the pictures appear, instead of a constant rate.
        codec, b_frames: of the encoder.
    """
    options = {"bf": str(b_frames), "g": "12", "b": "2000000"}
    return write.write_video(path, pictures, fps, codec=codec, times=times, options=options)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width) float32 in [0, 255]: smooth random blobs, which flow can follow; it wraps around."""
    noise = np.random.default_rng(seed).standard_normal((height, width))
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-((frequencies / 0.08) ** 2))).real
    return (127 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.float32)


def moving_pictures(num: int, speed: int, height: int = 64, width: int = 96, seed: int = 0) -> list[np.ndarray]:
    """A texture that goes right by `speed` pixels a picture."""
    base = texture(height, width, seed).astype(np.uint8)
    return [np.repeat(np.roll(base, speed * i, axis=1)[..., None], 3, axis=2) for i in range(num)]
