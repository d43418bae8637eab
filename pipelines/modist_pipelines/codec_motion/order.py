"""How far the references of a frame are, which FFmpeg does not say: it gives the side, past or future, alone.

Encoders refer to the nearest frame that may be referred to, unless a block looks better in a further one. So the
reference of the past is taken to be the last frame shown before that is a reference and was decoded before; that of
the future the next one.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import av
from av.video.frame import PictureType

from modist_pipelines.codec_motion.vectors import Distances

_MOST_APART = 32  # frames
_NAL_TYPES = (1, 5)  # slices of H.264
_LOOKED_AT = 4096  # bytes of a packet in which its first slice begins
_MOST_WAITING = 128  # packets that no frame has come of


class Shown(NamedTuple):
    """What is known of a frame that is shown."""

    is_reference: bool
    decoded: int | None
    """Its number in the order of decoding; None where the file does not tell."""

    def can_serve(self, frame: "Shown") -> bool:
        early = self.decoded is None or frame.decoded is None or self.decoded < frame.decoded
        return self.is_reference and early


class PacketOrder:
    """Follows packets and frames of a stream: which were decoded when, and which others refer to."""

    def __init__(self, context: av.VideoCodecContext) -> None:
        self._context = context
        self._waiting: dict[int, tuple[int, bool | None]] = {}
        self._num_packets = 0
        self._before: deque[Shown] = deque(maxlen=_MOST_APART)

    def note(self, packet: av.Packet) -> None:
        """A packet that is about to be decoded."""
        if packet.pts is not None and packet.size:
            self._waiting[packet.pts] = (self._num_packets, self._is_reference(packet))
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
        self._num_packets += 1

    def shown(self, frame: av.VideoFrame) -> Shown:
        """A frame that is about to be shown."""
        decoded, is_reference = self._waiting.pop(frame.pts, (None, None)) if frame.pts is not None else (None, None)
        if is_reference is None:
            is_reference = frame.pict_type != PictureType.B
        return Shown(is_reference, decoded)

    def distances(self, group: Sequence[Shown]) -> list[Distances]:
        """Of frames that follow those of the calls before, up to one that refers to none of the future."""
        frames = [*self._before, *group]
        found = [_distances(frames, place) for place in range(len(self._before), len(frames))]
        self._before.extend(group)
        return found

    def _is_reference(self, packet: av.Packet) -> bool | None:
        """By nal_ref_idc of H.264; None where it is not H.264, or no slice was found."""
        if self._context.name != "h264":
            return None
        head = bytes(memoryview(packet)[:_LOOKED_AT])  # type: ignore[arg-type]
        extra = self._context.extradata or b""
        length = (extra[4] & 3) + 1 if extra[:1] == b"\x01" and len(extra) > 4 else None
        place = 0
        while True:
            if length is None:  # units begin with a mark, else with their length
                place = head.find(b"\0\0\1", place) + 3
                start = place if place >= 3 else len(head)
            else:
                start = place + length
            if start >= len(head):
                return None
            if head[start] & 31 in _NAL_TYPES:
                return bool(head[start] & 0x60)
            if length is not None:
                place = start + int.from_bytes(head[place:start], "big")


def _distances(frames: Sequence[Shown], place: int) -> Distances:
    frame = frames[place]
    earlier = reversed(range(max(0, place - _MOST_APART), place))
    later = range(place + 1, min(len(frames), place + _MOST_APART))
    past = next((place - other for other in earlier if frames[other].can_serve(frame)), 1)
    future = next((other - place for other in later if frames[other].can_serve(frame)), 1)
    return Distances(past, future)
