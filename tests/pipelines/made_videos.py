"""Small videos for the tests of this room, whose frames say which they are."""

from collections.abc import Sequence
from pathlib import Path

import av
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


def looped(path: Path, source: Path, seconds: float, **container_options: str) -> Path:
    """The packets of a video again and again, for so long: a long file that costs little to make."""
    with av.open(str(source)) as once, av.open(str(path), "w", container_options=container_options) as long:
        stream = once.streams.video[0]
        out = long.add_stream_from_template(stream)
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in once.demux(stream) if p.size]
        base = stream.time_base
        assert base is not None
        period = stream.duration or round((once.duration or 0) / av.time_base / base)
        for turn in range(max(1, round(seconds / float(period * base)))):
            for data, pts, dts, is_keyframe in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = out, base, is_keyframe
                assert pts is not None
                assert dts is not None
                packet.pts, packet.dts = pts + turn * period, dts + turn * period
                long.mux(packet)
    return path


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
