"""Opening media files so that FFmpeg reads the file that is meant and no other."""

import os
import stat
from pathlib import Path

import av
from av.container import InputContainer

# FFmpeg's errors have no common base in Python but PyAV's own; torchcodec and DALI raise RuntimeErrors; sizes, times
# and titles that no video has break arithmetic, memory and text, in bindings that were not written for them. Elsewhere
# than around a decoder's calls these are faults of our own.
DECODER_ERRORS = (Exception,)
"""What a decoder may raise because of a file: anything."""

_PLAYLISTS = (b"ffconcat version", b"#EXTM3U")


def open_media(path: Path) -> InputContainer:
    """Open a file for reading.

    FFmpeg is handed an open file and never sees the name: it takes "12:30:05.mp4" for an address of the protocol
    "12", and "%d.png" for a row of pictures. Nor may it open anything else: a playlist under the name of a video could
    name any file of this machine, or the network.

    Raises:
        OSError, av.FFmpegError, ...: as `DECODER_ERRORS` says, anything.
    """
    # Without waiting: else a pipe that nobody writes into would hold us up here.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("a folder, a pipe or a device, not a file")
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
