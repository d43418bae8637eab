"""What a store says of motion that was not in a stream, and was filled in: in the notes of its videos."""

import re
from collections.abc import Iterable

from modist_pipelines.codec_motion.steps import Counts

_FILLED = re.compile(r"motion filled in: (\d+) of (\d+) frames had no vectors, nor (\d+) of (\d+) cells of the others")


def describe(counts: Counts) -> str:
    """For the note of a video; "" where there was no motion at all."""
    if not counts.frames:
        return ""
    return (
        f"motion filled in: {counts.frames_without} of {counts.frames} frames had no vectors, nor "
        f"{counts.cells_without} of {counts.cells} cells of the others"
    )


def without(note: str) -> str:
    """A note without that."""
    return _FILLED.sub("", note).strip(", ")


def total(notes: Iterable[str | None]) -> Counts:
    """Of all videos whose notes say something."""
    counts = Counts()
    for note in notes:
        if note and (found := _FILLED.search(note)):
            without_vectors, frames, cells_without, cells = map(int, found.groups())
            counts.frames_without += without_vectors
            counts.frames += frames
            counts.cells_without += cells_without
            counts.cells += cells
    return counts
