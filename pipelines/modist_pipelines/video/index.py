"""Which packets of a file hold which frames, without decoding any."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modist_pipelines.video.frame_folders import PIPES
from modist_pipelines.video.media_file import DECODER_ERRORS
from modist_pipelines.video.reader import MAX_PAUSE, VideoReader, plausible_stay, resample

# Containers whose packets do not say when a frame is on show, or say it wrongly after a seek: such files are decoded
# from their first frame on.
_SEQUENTIAL = {"avi", "mpeg", "mpegvideo", "mjpeg", *PIPES.values()}
# Containers that are entered at the bytes of a packet: a seek to a time is off by some frames.
_BY_BYTES = {"mpegts"}


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a video in the order in which they are shown.

    Attributes:
        nominal: (num_nominal,) int64: which source frame is on show at each tick of the nominal clock.
        pts: (num_source,) int64 time stamps in units of the stream's time base, ascending.
        order: (num_source,) int64: at which place of the file, so in which turn of decoding, each frame is.
        keys: (k,) int64: the places of the key frames, ascending; decoding can begin at each.
        offsets: (num_source,) int64: the byte at which the packet of each place begins; None where the file is entered
            by time.
    """

    nominal: np.ndarray
    pts: np.ndarray
    order: np.ndarray
    keys: np.ndarray
    offsets: np.ndarray | None = None

    def runs(self, sources: list[int]) -> list[tuple[int, list[int]]]:
        """Which key frames to begin at for some frames.

        Args:
            sources: distinct source frames, ascending.

        Returns:
            (source frame that is the key frame, frames to be had from there) by rising key frame.
        """
        shown = np.argsort(self.order)
        grouped: dict[int, list[int]] = {}
        for source in sources:
            at = np.searchsorted(self.keys, self.order[source], side="right") - 1
            key = int(shown[self.keys[at]])
            if self.offsets is not None and key > source and at > 0:
                # Shown before the key frame and decoded after it: it refers to what was before.
                key = int(shown[self.keys[at - 1]])
            grouped.setdefault(key, []).append(source)
        return sorted(grouped.items())

    def num_decoded(self, sources: list[int]) -> int:
        """Frames that must be decoded for some frames: from each key frame to the last one wanted behind it."""
        return sum(int(self.order[wanted].max() - self.order[key]) + 1 for key, wanted in self.runs(sources))


def read_index(path: Path, fps: float) -> VideoIndex | None:
    """Read the packets of a file.

    Returns:
        None where frames can only be told apart by decoding from the first: no time stamps, those of AVI or MPEG
        program streams, gaps, frames that are there but not to be shown.

    Raises:
        VideoError: not a video.
    """
    with VideoReader(path) as reader:
        if set(reader.container.format.name.split(",")) & _SEQUENTIAL:
            return None
        codec = reader.stream.codec_context
        if codec.name == "h264" and "444" in (codec.pix_fmt or ""):
            # Old x264 coded 4:4:4 with an error that FFmpeg mends once it knows the encoder's version, which stands in
            # the first packet alone: entered anywhere else, such a file decodes to green blocks.
            return None
        is_by_bytes = bool(set(reader.container.format.name.split(",")) & _BY_BYTES)
        tick, step, tolerance = reader.stream.time_base, reader.frame_step, reader.tolerance
        try:
            packets = [packet for packet in reader.container.demux(reader.stream) if packet.size]
        except DECODER_ERRORS:  # whoever decodes from the first frame says where it breaks
            return None
    if not packets or not packets[0].is_keyframe or tick is None:
        return None
    if any(packet.pts is None or packet.is_corrupt or packet.is_discard for packet in packets):
        return None
    if is_by_bytes and any(packet.pos is None or packet.pos < 0 for packet in packets):
        return None
    pts = np.array([packet.pts for packet in packets])
    order = np.argsort(pts, kind="stable")
    pts = pts[order]
    gaps = np.diff(pts)
    if len(gaps) and (gaps.min() <= 0 or int(gaps.max()) * tick > MAX_PAUSE):
        return None
    last = packets[int(order[-1])]
    stay = plausible_stay(last.duration * tick if last.duration else None, step)
    timed = (((int(stamp) - int(pts[0])) * tick, stay, source) for source, stamp in enumerate(pts))
    nominal = [source for _, source in resample(timed, fps, tolerance)]
    return VideoIndex(
        nominal=np.array(nominal),
        pts=pts,
        order=order,
        keys=np.flatnonzero([packet.is_keyframe for packet in packets]),
        offsets=np.array([packet.pos for packet in packets]) if is_by_bytes else None,
    )
