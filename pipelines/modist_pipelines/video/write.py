"""The one writer of videos: for made-up ones, for pictures of results, for tests."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

H264 = {"crf": "18", "preset": "veryfast"}


def write_video(
    path: Path,
    pictures: Sequence[np.ndarray] | np.ndarray,
    fps: float,
    *,
    codec: str = "libx264",
    container: str | None = None,
    times: Sequence[int] | None = None,
    options: Mapping[str, str] = H264,
) -> Path:
    """Encode pictures, to the same bytes on any number of cores.

    Args:
        path: its suffix chooses the container, where `container` names none. Its folder is made.
        pictures: (H, W, 3) uint8 RGB of one size, at least one; H and W even.
        fps: pictures a second, where `times` is not given.
        codec: FFmpeg's name of an encoder.
        container: FFmpeg's name.
        times: milliseconds at which the pictures appear, instead of a constant rate.
        options: of the encoder.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # An absolute path: FFmpeg would take a name with a colon for an address.
    with av.open(str(path.absolute()), "w", format=container) as file:
        stream = file.add_stream(codec, rate=Fraction(fps), options=dict(options))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:  # a constant rate is the encoder's own
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
