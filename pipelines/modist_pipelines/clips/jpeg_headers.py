"""Which JPEGs may be given to DALI: a header that its parser refuses can end the process, beside others in a run."""

import numpy as np

_START, _SCAN = b"\xff\xd8", b"\xff\xda"
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; DALI decodes no others
_USUAL_BYTES = 1024  # the headers of a store's frames are shorter
_MOST_KNOWN = 4096


class JpegHeaders:
    """Looks at headers, at each that it has not seen segment by segment: those of a store differ by the size alone."""

    def __init__(self) -> None:
        self._whole: set[bytes] = set()

    def is_whole(self, jpeg: np.ndarray) -> bool:
        """Whether (num_bytes,) uint8 begin with a JPEG header, from its first marker to the scan."""
        start = jpeg[:_USUAL_BYTES].tobytes()
        if start[: start.find(_SCAN)] in self._whole:
            return True
        data = jpeg.tobytes()
        scan = _find_scan(data)
        if scan is None:
            return False
        if len(self._whole) < _MOST_KNOWN:
            self._whole.add(data[:scan])
        return True


def _find_scan(data: bytes) -> int | None:
    """Where the scan's marker is, None where a segment before it is damaged or the frame's is missing."""
    if not data.startswith(_START):
        return None
    at, has_frame = len(_START), False
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if data[at : at + 2] == _SCAN:
            return at if has_frame else None
        if not (0xC0 <= marker <= 0xCF or 0xDB <= marker <= 0xFE) or size < 2:
            return None
        if marker in _FRAMES:
            has_frame = at + 9 <= len(data) and data[at + 4] == 8 and all(_sides(data, at + 5))
        at += 2 + size
    return None


def _sides(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
