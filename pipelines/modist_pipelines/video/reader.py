"""Reading a video once, from its first frame to its last, on the nominal clock.

Sequential decoding is the one way that is frame accurate in every container: a seek to a time is off by some frames in
MPEG-4 AVI with B-frames, MPEG-TS and files of variable frame rate. `seeking` and `frames` say how they are entered.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer
from av.stream import Disposition

from modist_pipelines.errors import DataError
from modist_pipelines.remote.access import RemoteError
from modist_pipelines.remote.cache import CacheError
from modist_pipelines.video.frame_folders import PIPES
from modist_pipelines.video.media_file import DECODER_ERRORS, explain, open_media
from modist_pipelines.video.opener import num_pictures

MIN_FRAMES = 16  # a shorter video is of no use: one clip of the motion pathway has 16 frames
MAX_ASPECT = 10  # beyond this the long side explodes when the short side is brought to size
# A longer pause between two frames is a broken time stamp, not a still picture.
MAX_PAUSE = Fraction(60)
_MAX_DURATION = 7 * 24 * 3600  # seconds; a head that promises more is broken
_USUAL_STEP = Fraction(1, 25)
# Containers that count in milliseconds or so round their time stamps; coarser ticks are the frame clock.
_ROUNDING_TICK = Fraction(1, 500)

# A picture that comes with the video, and not the video.
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# What FFmpeg's tool counts for a stream that is marked as the default, beside its pixels.
_DEFAULT_STREAM_PIXELS = 5_000_000

# Matroska keeps whole pixels of the shape to show: of a small video they are off by so much of its pixel aspect.
_SQUARE = Fraction(1, 100)

Frame = TypeVar("Frame")

REASONS = {
    "unreadable": "not a video that FFmpeg can open",
    "no_video_stream": "sound or subtitles only",
    "no_frames": "a video stream from which no frame came",
    "too_short": f"fewer than {MIN_FRAMES} frames",
    "motionless": "the same picture throughout",
    "decode_error": "too much of it is damaged",
    "extreme_shape": f"one side more than {MAX_ASPECT} times the other",
    "changes_shape": "frames of several shapes",
    "no_motion_vectors": "its stream gives none to --flow codec; --flow dis takes it",
    "crashed": "ended the process that read it, twice",
    "hung": "no frame was decoded for longer than --video-timeout",
    "unreachable": "by URL, and its server denied it or did not answer; the next run tries it again",
    "missing": "named by the list, and not there",
    "unlisted": "folders and archives that cannot be listed",
}


class VideoError(DataError):
    """A video that cannot be used; `reason` is a key of `REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        assert reason in REASONS
        self.reason = reason
        self.detail = detail

    def __reduce__(self):
        return VideoError, (self.reason, self.detail)


@contextmanager
def blamed_on_file(reason: str, what: str = "") -> Iterator[None]:
    """Raise what a decoder raises as a `VideoError`. Put nothing but a decoder's calls inside.

    Args:
        reason: key of `REASONS`.
        what: put before the decoder's own words.
    """
    try:
        yield
    except (VideoError, CacheError):
        raise
    except RemoteError as error:
        raise VideoError("missing" if error.reason == "gone" else "unreachable", str(error)) from None
    except DECODER_ERRORS as error:
        raise VideoError(reason, what + explain(error)) from error


class VideoReader:
    """One pass over the best video stream of a file, as FFmpeg chooses it among those that can be decoded.

    A damaged packet is counted and skipped, as FFmpeg itself does: the frame before it stays on show, since
    frames are placed by their time stamps.

    Attributes (final once `nominal_frames` is exhausted):
        source_fps: the container's average frame rate, or its guess.
        num_source_frames: frames decoded.
        num_nominal_frames: frames given out.
        num_damaged: packets that gave an error, and frames that the decoder patched up.
        num_interlaced: frames of two fields, which are taken as they come.
        num_packet_bytes: of the packets read.
    """

    def __init__(self, path: Path, frames_fps: float = 30.0) -> None:
        """
        Args:
            path: a file, a folder of pictures, or either in an archive.
            frames_fps: frames a second of a folder of pictures.

        Raises:
            VideoError: unreadable, or no video stream.
        """
        self.num_source_frames = 0
        self.num_nominal_frames = 0
        self.num_damaged = 0
        self.num_interlaced = 0
        self.num_packet_bytes = 0
        self._first_damage = ""
        with blamed_on_file("unreadable"):
            self._container = open_media(path, frames_fps)
        self._path, self._frames_fps = path, frames_fps
        try:
            with blamed_on_file("unreadable"):
                self._look()
        except BaseException:
            self._container.close()
            raise

    def _look(self) -> None:
        self._stream = _best_video_stream(self._container)
        # AVI has no presentation times. FFmpeg makes some up in the order of the packets, which is not that of
        # the frames where there are B-frames; the times of the packets that frames came out at are in order.
        self._counts_packets = self._container.format.name == "avi"
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.source_fps = float(rate or 0)
        self._step = plausible_stay(1 / Fraction(rate) if rate else None, _USUAL_STEP)
        # One thread: the parallelism is over videos.
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *error) -> None:
        self._container.close()

    @property
    def container(self) -> InputContainer:
        return self._container

    @property
    def stream(self) -> av.VideoStream:
        return self._stream

    @property
    def _is_pictures(self) -> bool:
        return self._container.format.name in PIPES.values()

    @property
    def frame_step(self) -> Fraction:
        """Seconds from one frame to the next, where time stamps do not say."""
        return self._step

    @property
    def pixel_aspect(self) -> Fraction:
        """Width of a stored pixel by its height; 1 where the file does not say, or is off by a container's rounding."""
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        return aspect if abs(aspect - 1) > _SQUARE else Fraction(1)

    def notes(self) -> str | None:
        """What was not as it should be in the frames so far; None where nothing was."""
        found = [
            f"{self.num_damaged} damaged packets or frames" if self.num_damaged else "",
            f"{self.num_interlaced} interlaced frames" if self.num_interlaced else "",
        ]
        return ", ".join(filter(None, found)) or None

    @property
    def tolerance(self) -> Fraction:
        """Seconds by which a time stamp may be late through rounding."""
        tick = self._stream.time_base or Fraction(0)
        return tick / 2 if tick <= _ROUNDING_TICK else Fraction(0)

    @property
    def duration(self) -> float | None:
        """Seconds, by the container; None where it does not say, or says what cannot be."""
        if self._is_pictures:
            return num_pictures(self._path) / self._frames_fps or None
        if self._stream.duration and self._stream.time_base:
            seconds = float(self._stream.duration * self._stream.time_base)
        else:
            seconds = (self._container.duration or 0) / av.time_base
        return seconds if 0 < seconds <= _MAX_DURATION else None

    def nominal_frames(self, fps: float) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames on show at 0, 1 / fps, 2 / fps ... seconds after the first frame, with their numbers.

        A frame that is on show for longer comes several times, as the same object.

        Raises:
            VideoError: at the end, when there were no frames, too few, or too many damaged ones.
        """
        for number, frame in resample(self._timed_frames(), fps, self.tolerance):
            self.num_nominal_frames = number + 1
            yield number, frame
        self._check()

    def _check(self) -> None:
        if self._is_pictures:  # of a row of pictures FFmpeg passes over those that are none, and does not say so
            self.num_damaged = max(self.num_damaged, num_pictures(self._path) - self.num_source_frames)
        self.check_damage()
        if self.num_source_frames == 0:
            raise VideoError("no_frames", "the video stream is empty")
        if min(self.num_source_frames, self.num_nominal_frames) < MIN_FRAMES:
            reason = "decode_error" if self.num_damaged else "too_short"
            detail = f"{self.num_source_frames} frames, {self.num_nominal_frames} on the nominal clock"
            raise VideoError(reason, f"{detail}; {self._damage()}" if self.num_damaged else detail)

    def check_damage(self) -> None:
        """
        Raises:
            VideoError: too much of what was decoded so far is damaged.
        """
        if self.num_damaged > self.num_source_frames / 2:
            raise VideoError("decode_error", self._damage())

    def _damage(self) -> str:
        first = f" (first: {self._first_damage})" if self._first_damage else ""
        return f"{self.num_damaged} damaged packets or frames beside {self.num_source_frames} frames{first}"

    def _timed_frames(self) -> Iterator[tuple[Fraction, Fraction, av.VideoFrame]]:
        """Frames with the second at which they appear and the seconds that the last of them would stay."""
        origin: Fraction | None = None
        last = -self._step
        for frame in self.decoded_frames():
            base = frame.time_base or Fraction(0)
            ticks = frame.dts if self._counts_packets else frame.pts
            stamp = ticks * base if ticks is not None else None
            if origin is None and stamp is not None:
                origin = stamp - (last + self._step)
            time = stamp - origin if stamp is not None and origin is not None else last + self._step
            if not last < time <= last + MAX_PAUSE:
                # Time stamps that jump, repeat or are absent: go on by one frame and count from here.
                time = last + self._step
                origin = stamp - time if stamp is not None else origin
            last = time
            yield time, plausible_stay(frame.duration * base if frame.duration else None, self._step), frame

    def decoded_frames(self) -> Iterator[av.VideoFrame]:
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except DECODER_ERRORS as error:
                self._note_damage(error)
                return
            if packet is None:
                return
            self._saw(packet)
            try:
                frames = packet.decode()
            except DECODER_ERRORS as error:
                self._note_damage(error)
                continue
            for frame in frames:
                assert isinstance(frame, av.VideoFrame)
                self.num_source_frames += 1
                self.num_damaged += bool(frame.is_corrupt)
                self.num_interlaced += bool(frame.interlaced_frame)
                yield frame

    def _saw(self, packet: av.Packet) -> None:
        """A packet that is about to be decoded."""
        self.num_packet_bytes += packet.size

    def _note_damage(self, error: Exception) -> None:
        self.num_damaged += 1
        self._first_damage = self._first_damage or explain(error)


def plausible_stay(seconds: Fraction | None, otherwise: Fraction) -> Fraction:
    """The time for which a frame stays, or `otherwise` where it is unknown or no real frame's."""
    return seconds if seconds and 0 < seconds <= MAX_PAUSE else otherwise


def resample(
    timed_frames: Iterable[tuple[Fraction, Fraction, Frame]], fps: float, tolerance: Fraction
) -> Iterator[tuple[int, Frame]]:
    """Put frames on a regular clock: number i is the last frame that appeared by i / fps.

    Args:
        timed_frames: (second at which it appears, seconds it would stay, frame), by rising time from 0.
        fps: frames a second of the clock.
        tolerance: seconds by which a time stamp may be late through rounding.
    """
    period = 1 / Fraction(fps).limit_denominator(1001)
    number, end = 0, Fraction(0)
    shown: Frame | None = None
    for time, stay, frame in timed_frames:
        while shown is not None and number * period + tolerance < time:
            yield number, shown
            number += 1
        shown, end = frame, time + stay
    while shown is not None and number * period + tolerance < end:
        yield number, shown
        number += 1


def _best_video_stream(container: InputContainer) -> av.VideoStream:
    """The one that FFmpeg's own tool takes: large, and larger where it is marked as the default."""
    # A cover picture in a sound file is a video stream to FFmpeg, though not to a viewer.
    streams = [s for s in container.streams.video if not s.disposition & _PICTURES]
    if not streams:
        raise VideoError("no_video_stream", f"{len(container.streams)} streams, none of them video")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise VideoError("unreadable", "FFmpeg has no decoder for any of its video streams")
    moving = [stream for stream in decodable if stream.frames != 1]  # 0: the container does not say
    return max(moving or decodable, key=_preference)  # of equals the first


def _preference(stream: av.VideoStream) -> int:
    is_default = bool(stream.disposition & Disposition.default)
    return stream.codec_context.width * stream.codec_context.height + _DEFAULT_STREAM_PIXELS * is_default
