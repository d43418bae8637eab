"""Decoding some frames of a file that lists its key frames: it is entered there, and no more of it is read than lies
between them and the frames wanted."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.index import IndexEntries
from av.video.frame import PictureType

from modist_pipelines.video.media_file import DECODER_ERRORS
from modist_pipelines.video.picture import PictureRules, upright_rgb
from modist_pipelines.video.reader import MAX_PAUSE, VideoReader

# Of an AVI with others, such as H.264, how many frames a decoder holds back depends on what it has seen.
_AVI_DECODERS = frozenset(("mpeg4", "mjpeg"))
_MOST_REORDERED = 32  # packets; H.264 and HEVC show a frame after 16 others at most


@dataclass
class DecodedFrames:
    """Frames of one video, and what it took to get them."""

    pixels: dict[int, Any]
    """Nominal frame to (H, W, 3) uint8 RGB, upright, at the size of the file: an array, or a tensor on the GPU."""
    num_decoded: int
    num_source_frames: int
    """Of the file, as far as it was looked at."""
    num_bytes: int | None = None
    """Of the packets that were read; None where the file was read through."""


def decode_by_seeking(path: Path, fps: float, wanted: Sequence[int], rules: PictureRules) -> DecodedFrames | None:
    """Decode the frames on show at some ticks of the nominal clock; beyond the end, the last one.

    Args:
        fps: ticks a second.
        wanted: ticks, ascending.
        rules: what is done where files and tools differ.

    Returns:
        None where the file does not list its key frames (only MP4, MOV, Matroska, WebM and AVI do), their times are
        not those of a clock, a frame cannot be had from the key frame before it, or something is damaged.

    Raises:
        VideoError: the video cannot be opened, or has pixels of a kind that FFmpeg cannot convert.
    """
    with VideoReader(path) as reader:
        kinds = set(reader.container.format.name.split(","))
        if not {"mp4", "matroska", "avi"} & kinds:
            return None
        is_avi = "avi" in kinds
        if is_avi and reader.stream.codec_context.name not in _AVI_DECODERS:
            return None
        tick = reader.stream.time_base
        first = _first_frame(reader) if is_avi else _first_packet(reader)
        keys = _listed_keys(reader) if first is not None else None
        if keys is None or first is None or not tick:
            return None
        origin, delay = first
        play_of = _PacketPlay if is_avi else _Play
        play = play_of(reader, keys, 0 if _is_matroska(reader) else delay)
        pixels: dict[int, np.ndarray] = {}
        last: tuple[av.VideoFrame, np.ndarray] | None = None
        for number in wanted:
            # As `reader.resample` has it: the last frame that appeared by then.
            target = origin + (number / Fraction(fps).limit_denominator(1001) + reader.tolerance) / tick
            frame = play.on_show(target)
            if frame is None:
                return None
            if last is None or last[0] is not frame:
                last = frame, upright_rgb(frame, reader.pixel_aspect, rules)
            pixels[number] = last[1]
        if reader.num_damaged:
            return None
        num_frames = reader.stream.frames or round((reader.duration or 0) / reader.frame_step)
        return DecodedFrames(pixels, reader.num_source_frames, num_frames, reader.num_packet_bytes)


class _Play:
    """A file played from key frames on, forwards."""

    def __init__(self, reader: VideoReader, keys: IndexEntries, delay: int) -> None:
        """
        Args:
            keys: what the file lists, key frames among it.
            delay: how much later than the list says a key frame is shown.
        """
        self._reader, self._keys, self._delay = reader, keys, delay
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._shown: tuple[Fraction | int, av.VideoFrame] | None = None
        self._next: tuple[Fraction | int, av.VideoFrame] | None = None
        self._read_to: Fraction | int | None = None  # the time at which what was read last is decoded
        self._whole_from: Fraction | int | None = None  # what is shown before has no frame to refer to

    def on_show(self, time: Fraction | int) -> av.VideoFrame | None:
        """The last frame that appears by a time, which is not before that of the call before."""
        key = self._key_before(math.floor(time) - self._delay)
        if key < 0:
            return None
        begin = self._keys[key].timestamp
        if (self._read_to is None or begin > self._read_to) and not self._enter(begin):
            return None
        return self._played_to(time)

    def _key_before(self, time: int) -> int:
        return self._keys.search_timestamp(time, backward=True, any_frame=False)

    def _enter(self, begin: int) -> bool:
        try:
            self._reader.container.seek(begin + self._delay, stream=self._reader.stream)
        except DECODER_ERRORS:
            return False
        self._frames = self._reader.decoded_frames()
        self._shown = self._next = None
        self._read_to = begin
        self._whole_from = begin + self._delay
        return True

    def _played_to(self, time: Fraction | int) -> av.VideoFrame | None:
        while self._next is None or self._next[0] <= time:
            if self._next is not None:
                self._shown = self._next
            frame = next(self._frames, None)
            if frame is None:  # the end of the file
                self._next = None
                break
            stamp = self._stamp(frame)
            if stamp is None or (self._shown is not None and stamp <= self._shown[0]):
                return None
            self._next = stamp, frame
            self._read_to = max(self._read_to or 0, frame.dts or 0)
        if self._shown is None or self._whole_from is None or self._shown[0] < self._whole_from:
            return None
        return self._shown[1]

    def _stamp(self, frame: av.VideoFrame) -> Fraction | int | None:
        return frame.pts


class _PacketPlay(_Play):
    """Of an AVI, whose frames are told apart by the packets that they come out at, as in `VideoReader`.

    From any key frame on each packet gives the frame that it gives when the file is decoded from its first, but for
    those before the key frame itself comes out: of B frames behind it, that refer to what was before.
    """

    def on_show(self, time: Fraction | int) -> av.VideoFrame | None:
        found = super().on_show(time)
        key = self._key_before(math.floor(time) - self._delay)
        while found is None and key > 0:  # the key frame comes out later: from the one before it
            begin = self._keys[key].timestamp
            key = self._key_before(begin - 1)
            if key < 0 or not self._enter(self._keys[key].timestamp):
                return None
            found = self._played_to(time)
        return found

    def _enter(self, begin: int) -> bool:
        delay, self._delay = self._delay, 0
        try:
            has_entered = super()._enter(begin)
        finally:
            self._delay = delay
        self._whole_from = None
        return has_entered

    def _stamp(self, frame: av.VideoFrame) -> Fraction | int | None:
        stamp: Fraction | int | None = frame.dts
        if stamp is None and self._next is not None:  # one that was held back to the end
            stamp = self._next[0] + self._reader.frame_step / (self._reader.stream.time_base or 1)
        if self._whole_from is None and frame.pict_type == PictureType.I:
            self._whole_from = stamp
        return stamp


def _is_matroska(reader: VideoReader) -> bool:
    return "matroska" in reader.container.format.name


def _listed_keys(reader: VideoReader) -> IndexEntries | None:
    """The frames that a file lists: those of MP4, MOV and AVI by the time at which they are decoded; of Matroska the
    key frames, by the time at which they are shown. None where some are missing, or there may be a long pause between
    them.
    """
    codec, tick = reader.stream.codec_context, reader.stream.time_base
    if codec.name == "h264" and "444" in (codec.pix_fmt or ""):
        # As in `index.read_index`: such files decode to green blocks where they are entered behind their first packet.
        return None
    if _is_matroska(reader):
        try:
            reader.container.seek(0, stream=reader.stream)  # reads the list, which stands at the end
        except DECODER_ERRORS:
            return None
    listed = reader.stream.index_entries
    times = np.fromiter((entry.timestamp for entry in listed), np.int64, len(listed))
    if not tick or not len(times):
        return None
    if not _is_matroska(reader) and len(times) != reader.stream.frames:  # in fragments: the head lists the first
        return None
    gaps = np.diff(times, append=max(int(times[-1]) + 1, int((reader.duration or 0) / tick)))
    return listed if gaps.min() > 0 and int(gaps.max()) * tick <= MAX_PAUSE else None


def _first_frame(reader: VideoReader) -> tuple[int, int] | None:
    """The packet at which the first frame comes out, and 0; None where none does."""
    first = next(reader.decoded_frames(), None)
    return None if first is None or first.dts is None else (first.dts, 0)


def _first_packet(reader: VideoReader) -> tuple[int, int] | None:
    """When the first frame is shown, and how much later that is than it is decoded; None where that is not sure."""
    first: tuple[int, int] | None = None
    try:
        for packet in itertools.islice(reader.container.demux(reader.stream), _MOST_REORDERED):
            if packet.pts is None or packet.is_discard or packet.is_corrupt:
                return None
            dts = packet.dts if packet.dts is not None else packet.pts
            if first is None:
                first = (packet.pts, packet.pts - dts) if packet.is_keyframe else None
            if first is None or packet.pts < first[0]:
                return None
            if dts > first[0] and packet.dts is not None:
                break
    except DECODER_ERRORS:
        return None
    return first
