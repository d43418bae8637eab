"""Whether a file is a video: by its suffix where that is known, else by its first bytes."""

import os
import re
from pathlib import Path

# Sound and picture files too: what has no video in it shall be counted, not passed over.
MEDIA_SUFFIXES = frozenset(
    (
        *(".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".apng", ".asf", ".av1", ".avc", ".avi", ".dav", ".divx"),
        *(".dv", ".evo", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".insv", ".ismv", ".ivf", ".lrv", ".m1v"),
        *(".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mk3d", ".mkv", ".mod", ".mov", ".mp2v"),
        *(".mp4", ".mp4v", ".mpe", ".mpeg", ".mpegts", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".nuv", ".obu"),
        *(".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".tp", ".trp", ".ts", ".vc1", ".vob", ".vro", ".webm"),
        *(".wmv", ".wtv", ".xvid", ".y4m"),
        *(".aac", ".flac", ".m4a", ".mp3", ".ogg", ".wav"),
    )
)

# Not opened. Files that a download has not finished are videos by their first bytes, and no use.
OTHER_SUFFIXES = frozenset(
    (
        *(".aria2", ".crdownload", ".download", ".part", ".temp", ".tmp", ".ytdl"),
        *(".ass", ".bin", ".bmp", ".c", ".cfg", ".csv", ".doc", ".docx", ".exe", ".gz", ".h5", ".hdf5", ".html"),
        *(".ini", ".ipynb", ".jpeg", ".jpg", ".json", ".jsonl", ".log", ".mat", ".md", ".npy", ".npz", ".parquet"),
        *(".pdf", ".pickle", ".pkl", ".png", ".ppt", ".pptx", ".pt", ".pth", ".py", ".rar", ".sh", ".srt", ".tar"),
        *(".tgz", ".tif", ".tiff", ".tsv", ".txt", ".vtt", ".webp", ".xls", ".xlsx", ".xml", ".yaml", ".yml"),
        *(".zip", ".7z"),
    )
)


def is_media(name: str) -> bool:
    """Whether a name ends as media files do."""
    return os.path.splitext(name)[1].lower() in MEDIA_SUFFIXES


_HEAD = 64 << 10
_BEGINNINGS = re.compile(
    rb"....(?:ftyp|moov|mdat|wide|skip|pnot)"  # MP4, QuickTime
    rb"|RIFF....(?:AVI |AVIX|WAVE)"
    rb"|\x1aE\xdf\xa3"  # Matroska, WebM
    rb"|\x00\x00\x01(?:\xba|\xb3|\xb0)"  # MPEG: programme stream, MPEG-1 and 2, MPEG-4 part 2
    rb"|\x00{2,3}\x01(?:\x09|\x67|\x27|\x47|\x40\x01|\x42\x01|\x46\x01)"  # H.264, HEVC
    rb"|FLV\x01|OggS|0&\xb2u\x8ef\xcf\x11|GIF8[79]a|YUV4MPEG2 |DKIF|nut/multimedia|\.RMF|\x06\x0e\x2b\x34"
    rb"|\xb7\xd8\x00\x20",  # WTV
    re.DOTALL,
)


def is_video_by_content(path: Path) -> bool:
    """Whether a file begins as a video does, as far as a few bytes tell; False where it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        head = os.read(descriptor, _HEAD)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    if head.startswith(b"\x89PNG"):
        return b"acTL" in head[:4096]
    is_transport = any(
        len(head) > first + 4 * size and all(head[first + i * size] == 0x47 for i in range(5))
        for first, size in ((0, 188), (4, 192), (0, 204))
    )
    return is_transport or _BEGINNINGS.match(head) is not None
