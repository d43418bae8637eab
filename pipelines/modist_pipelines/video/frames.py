"""Decoding some frames of a video, on the nominal clock, in one pass over the file."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import av
import numpy as np

from modist_pipelines.video.index import VideoIndex, read_index
from modist_pipelines.video.media_file import DECODER_ERRORS
from modist_pipelines.video.picture import RULES, UPRIGHT, Orientation, PictureRules, upright_rgb
from modist_pipelines.video.reader import VideoError, VideoReader
from modist_pipelines.video.seeking import DecodedFrames, decode_by_seeking

if TYPE_CHECKING:
    from torch import Tensor  # heavy, and a CPU does without

log = logging.getLogger("modist")


class FrameEngine(Protocol):
    """Decodes frames of files on one device; called from several threads."""

    @property
    def seeks(self) -> bool:
        """Whether it enters a file at the key frames before the frames wanted; else at its first frame."""
        ...

    def __call__(self, path: Path, frames: Sequence[int], orientation: Orientation = UPRIGHT) -> "Tensor":
        """
        Args:
            path: a file.
            frames: source frames in the order in which they are shown, ascending.
            orientation: how they are turned.

        Returns:
            (F, H, W, 3) uint8 on the device, whose contents are there.

        Raises:
            VideoError: the engine does not decode it, or the file cannot be read.
        """
        ...


def decode_nominal(
    path: Path,
    fps: float,
    wanted: Sequence[int],
    engine: FrameEngine | None = None,
    *,
    orientation: Orientation = UPRIGHT,
    rules: PictureRules = RULES,
    is_plain: bool = True,
    frames_fps: float = 30.0,
) -> DecodedFrames:
    """Decode the frames on show at some ticks of the nominal clock; beyond the end, the last one.

    Files that list their key frames are entered at those before the wanted ones. Others are read through once, and
    entered there where their packets tell frames apart, by torchcodec where it can be loaded, else by PyAV. What is
    left is decoded from its first frame on.

    Args:
        fps: ticks a second.
        wanted: ticks, ascending.
        engine: decodes source frames of a file in place of torchcodec and PyAV.
        orientation: how the engine is to turn them.
        rules: what is done where files and tools differ.
        is_plain: whether every decoder gives the same picture of it; else PyAV alone decodes it, on the CPU.
        frames_fps: frames a second of folders of pictures, which are decoded from their first frame on.

    Raises:
        VideoError: the video, or one of these frames, cannot be decoded.
    """
    by_engine = engine if is_plain else None
    if by_engine is None and (found := decode_by_seeking(path, fps, wanted, rules)) is not None:
        return found
    index = read_index(path, fps)
    if index is None:
        # What an engine cannot find its way in may still list its key frames, as AVI does.
        found = decode_by_seeking(path, fps, wanted, rules) if by_engine is not None else None
        return found or _decode_sequentially(path, fps, wanted, rules, frames_fps)
    clamped = np.minimum(wanted, len(index.nominal) - 1)
    sources = index.nominal[clamped].tolist()
    distinct = sorted(set(sources))
    if by_engine is not None and index.offsets is None:
        frames = dict(zip(distinct, by_engine(path, distinct, orientation), strict=True))
        pixels = {tick: frames[source] for tick, source in zip(wanted, sources, strict=True)}
        num_decoded = index.num_decoded(distinct) if by_engine.seeks else distinct[-1] + 1
        return DecodedFrames(pixels, num_decoded, len(index.pts))
    by_time = is_plain and index.offsets is None
    frames = _decode_with_torchcodec(path, index, distinct) if by_time and torchcodec_loads() else None
    if frames is not None:
        num_decoded = index.num_decoded(distinct)
    else:
        found = _decode_with_pyav(path, index, distinct, rules)
        if found is None:
            return _decode_sequentially(path, fps, wanted, rules)
        frames, num_decoded = found
    pixels = {tick: frames[source] for tick, source in zip(wanted, sources, strict=True)}
    return DecodedFrames(pixels, num_decoded, len(index.pts))


def _decode_sequentially(
    path: Path, fps: float, wanted: Sequence[int], rules: PictureRules, frames_fps: float = 30.0
) -> DecodedFrames:
    pixels: dict[int, np.ndarray] = {}
    left = list(wanted)
    with VideoReader(path, frames_fps) as reader:
        last: tuple[av.VideoFrame, np.ndarray] | None = None
        shown = None
        for number, frame in reader.nominal_frames(fps):
            shown = frame
            if left and number == left[0]:
                if last is None or last[0] is not frame:
                    last = frame, upright_rgb(frame, reader.pixel_aspect, rules)
                pixels[left.pop(0)] = last[1]
            if not left:
                break
        reader.check_damage()
        if shown is None:
            raise VideoError("no_frames", "the video stream is empty")
        pixels |= dict.fromkeys(left, upright_rgb(shown, reader.pixel_aspect, rules)) if left else {}
        return DecodedFrames(pixels, reader.num_source_frames, reader.num_source_frames)


def _decode_with_pyav(
    path: Path, index: VideoIndex, sources: list[int], rules: PictureRules
) -> tuple[dict[int, np.ndarray], int] | None:
    """Source frames to pixels, and the number of frames that came out of the decoder.

    None where a frame cannot be had from the key frame before it, as in an open group of pictures, or the key frame
    cannot be sought.
    """
    frames: dict[int, np.ndarray] = {}
    with VideoReader(path) as reader:
        for key, wanted in index.runs(sources):
            try:
                if index.offsets is not None:
                    reader.container.seek(int(index.offsets[index.order[key]]), unsupported_byte_offset=True)
                else:
                    reader.container.seek(int(index.pts[key]), stream=reader.stream)
            except DECODER_ERRORS:
                return None
            left = list(wanted)
            shown: av.VideoFrame | None = None
            for frame in reader.decoded_frames():
                if frame.pts is None:
                    continue
                while left and frame.pts > index.pts[left[0]]:
                    # The frame itself is damaged: the one before it stays on show, as when a store is prepared.
                    if shown is None:
                        return None
                    frames[left.pop(0)] = upright_rgb(shown, reader.pixel_aspect, rules)
                if left and frame.pts == index.pts[left[0]]:
                    frames[left.pop(0)] = upright_rgb(frame, reader.pixel_aspect, rules)
                if not left:
                    break
                shown = frame
            if left and shown is None:
                return None
            if left and shown is not None:
                frames |= dict.fromkeys(left, upright_rgb(shown, reader.pixel_aspect, rules))
        reader.check_damage()
        return frames, reader.num_source_frames


def _decode_with_torchcodec(path: Path, index: VideoIndex, sources: list[int]) -> dict[int, np.ndarray] | None:
    """Source frames to pixels; None where torchcodec gives other frames than the index names, or none."""
    from torchcodec.decoders import VideoDecoder

    with VideoReader(path) as reader:
        tick = float(reader.stream.time_base or 0)
        stream = reader.stream.index  # torchcodec would choose by itself
    try:
        # An absolute path: FFmpeg would take a name with a colon for an address.
        decoder = VideoDecoder(
            str(path.absolute()), stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        batch = decoder.get_frames_at(sources)
    except DECODER_ERRORS:  # it refuses some files that FFmpeg's own tools play
        return None
    meant = index.pts[sources] * tick
    if np.abs(batch.pts_seconds.numpy() - meant).max() > tick / 2 + 1e-6:
        return None
    return dict(zip(sources, batch.data.numpy(), strict=True))


def torchcodec_problem() -> str | None:
    """Why torchcodec cannot be used, in a line: it is not installed, or FFmpeg's libraries are not."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        reason = str(error).strip().split("\n")[0].partition(" Likely causes")[0]  # a list of them follows
        if isinstance(error, ImportError | OSError) or "Could not load" in reason:
            return reason
    return None


@cache
def torchcodec_loads() -> bool:
    """Whether torchcodec can be used; says once which decoder runs."""
    problem = torchcodec_problem()
    if problem is None:
        log.info("raw videos are decoded by torchcodec, files that it misreads by PyAV")
    else:
        log.warning("raw videos are decoded by PyAV, since torchcodec does not load: %s", problem)
    return problem is None
