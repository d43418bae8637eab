"""Opening media files so that FFmpeg reads the file that is meant and no other."""

import os
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer

from modist_pipelines.video.opener import open_bytes, open_descriptor

# FFmpeg's errors have no common base in Python but PyAV's own; torchcodec and DALI raise RuntimeErrors; sizes, times
# and titles that no video has break arithmetic, memory and text, in bindings that were not written for them. Elsewhere
# than around a decoder's calls these are faults of our own.
DECODER_ERRORS = (Exception,)
"""What a decoder may raise because of a file: anything."""

_PLAYLISTS = (b"ffconcat version", b"#EXTM3U")


def open_media(path: Path, frames_fps: float = 30.0) -> InputContainer:
    """Open a video for reading.

    FFmpeg is handed an open file and never sees the name: it takes "12:30:05.mp4" for an address of the protocol
    "12", and "%d.png" for a row of pictures. Nor may it open anything else: a playlist under the name of a video could
    name any file of this machine, or the network.

    Args:
        path: as `opener` has them.
        frames_fps: frames a second of a folder of pictures.

    Raises:
        OSError, av.FFmpegError, ...: as `DECODER_ERRORS` says, anything.
    """
    descriptor = open_descriptor(path)
    if descriptor is None:
        file, pipe = open_bytes(path)
        rate = {"framerate": str(Fraction(frames_fps).limit_denominator(1001))} if pipe else {}
        # No protocol is "none", so nothing else can be opened.
        own = {"protocol_whitelist": "none"}
        return av.open(file, "r", format=pipe, options=rate, container_options=own, metadata_errors="replace")
    try:
        # Titles and comments may be in any encoding.
        return av.open(
            "fd:", container_options={"fd": str(descriptor), "protocol_whitelist": "fd"}, metadata_errors="replace"
        )
    except av.FFmpegError as error:
        if os.pread(descriptor, 32, 0).startswith(_PLAYLISTS):
            raise ValueError("a playlist: the files that it names are not opened") from error
        raise
    finally:
        os.close(descriptor)  # FFmpeg has its own copy


def explain(error: Exception) -> str:
    """What an error says, without its number and file."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
