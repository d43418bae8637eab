"""Which column of a table is what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from modist_pipelines.lists.entry import (
    LABEL_NAMES,
    PATH_NAMES,
    SPLIT_NAMES,
    SPLITS,
    is_number,
    is_whole_number,
    plain_name,
)
from modist_pipelines.lists.table import Row
from modist_pipelines.video.suffixes import is_media

_LOOKED_AT = 1000  # rows that a guess rests on
_FRAMES = 16  # a video has at least so many frames, or it is of no use


@dataclass(frozen=True)
class Columns:
    """Places of the columns, from 0."""

    path: int
    label: int | None
    split: int | None
    width: int
    names: tuple[str, ...] = ()
    """By the header, in small letters; none where there is none."""
    note: str = ""
    """Why the label is what it is, where that is not plain."""

    def __str__(self) -> str:
        said = [f"path from {self._named(self.path)}"]
        said.append("no label" if self.label is None else f"label from {self._named(self.label)}")
        if self.split is not None:
            said.append(f"split from {self._named(self.split)}")
        rest = [self._named(place) for place in range(self.width) if place not in (self.path, self.label, self.split)]
        said += [f"not used: {', '.join(rest)}"] if rest else []
        return "; ".join(said) + (f" ({self.note})" if self.note else "")

    def _named(self, place: int) -> str:
        return f"column {place + 1}" + (f" {self.names[place]!r}" if self.names else "")


def by_header(header: Sequence[str], rows: Sequence[Row]) -> Columns | None:
    """Columns by their names; None where none is known as one of paths."""
    plain = [plain_name(cell) for cell in header]
    paths = [plain.index(name) for name in PATH_NAMES if name in plain]
    if not paths:
        return None
    looked = [row.cells for row in rows[:_LOOKED_AT]]
    path = max(paths, key=lambda place: _share(looked, place, is_media) > 0.5)  # of equals the first
    return _named(header, path)


def _named(header: Sequence[str], path: int, otherwise: int | None = None) -> Columns:
    plain = [plain_name(cell) for cell in header]
    label = next((plain.index(name) for name in LABEL_NAMES if name in plain and plain.index(name) != path), otherwise)
    split = next((plain.index(name) for name in SPLIT_NAMES if name in plain), None)
    return Columns(path, label, split, len(header), tuple(cell.strip().lower() for cell in header))


def by_content(rows: Sequence[Row], separator: str) -> tuple[Columns, bool]:
    """Columns of a list without a known header, and whether its first row is one all the same.

    The column of paths is the one with suffixes of media files. Of the others a text is the label, or the last of
    several whole numbers: "path frames label", "path start end label", "path 0 -1" of VideoMAE, where it is none.
    """
    looked = [row.cells for row in rows[:_LOOKED_AT]]
    width = Counter(map(len, looked)).most_common(1)[0][0]
    shares = [_share(looked[1:] or looked, place, is_media) for place in range(width)]
    path = shares.index(max(shares))
    names_columns = len(looked[0]) == width and not any(is_media(cell.strip()) for cell in looked[0])
    if len(rows) > 1 and shares[path] > 0.9 and names_columns:
        others = [place for place in range(width) if place != path]
        return _named(looked[0], path, others[0] if len(others) == 1 else None), True
    label, split, note = _label([row for row in looked if len(row) == width], width, path, separator)
    return Columns(path, label, split, width, note=note), False


def _label(rows: list[list[str]], width: int, path: int, separator: str) -> tuple[int | None, int | None, str]:
    cells = {place: [row[place].strip() for row in rows] for place in range(width) if place != path}
    cells = {place: values for place, values in cells.items() if any(values)}
    split = next((place for place, values in cells.items() if {v.lower() for v in values} <= SPLITS), None)
    others = {place: list(filter(None, values)) for place, values in cells.items() if place != split}
    texts = [place for place, values in others.items() if not all(map(is_number, values))]
    if texts:
        return texts[0], split, "" if len(texts) == 1 else "the first column of text"
    if len(others) == 1 and all(cell.endswith(".0") for values in others.values() for cell in values):
        return next(iter(others)), split, ""  # whole numbers, as pandas writes a column with gaps
    whole = [place for place, values in others.items() if all(map(is_whole_number, values))]
    if not whole:
        return None, split, ""
    values = {place: [int(value) for value in others[place]] for place in whole}
    last = whole[-1]
    are_lengths = min(values[last]) >= _FRAMES and len(set(values[last])) > len(values[last]) / 2
    if len(cells) == 1 and separator == "," and are_lengths:
        note = (
            f"column {last + 1} is taken for numbers of frames, as in CoCLR's lists, since none is below {_FRAMES}. If "
            "it is the label, say so in a first line: path,label"
        )
        return None, split, note
    if set(values[last]) == {-1}:
        return None, split, "-1 stands for none"
    if len(whole) == 2 and min(values[last]) >= _FRAMES and max(values[whole[0]]) < min(values[last]):
        return whole[0], split, f"column {last + 1} is taken for numbers of frames"
    return last, split, "the last number" if len(cells) > 1 else ""


def _share(rows: Sequence[Sequence[str]], place: int, is_so) -> float:
    return sum(len(row) > place and is_so(row[place].strip()) for row in rows) / max(1, len(rows))
