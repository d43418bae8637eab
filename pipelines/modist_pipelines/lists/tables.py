"""Tables of text: CSV and its kin, and the forms that data sets give them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from modist_pipelines.errors import DataError
from modist_pipelines.lists.columns import Columns, by_content, by_header
from modist_pipelines.lists.entry import Entry, is_number, is_whole_number
from modist_pipelines.lists.table import (
    SEPARATORS,
    Row,
    find_header,
    numbered,
    separators_in,
    split_behind_path,
    split_plainly,
)

KINETICS = {"youtube_id", "time_start", "time_end"}
WEBVID = {"videoid", "name"}
CLIP_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")
_SAMPLE = 200  # lines that tell one reading from another

Finds = Callable[[Entry], bool]


def read_table(path: Path, text: str, finds: Finds) -> tuple[list[Entry], str]:
    """
    Args:
        finds: whether the video of an entry is there: where a list can be read in several ways, the one that finds the
            most videos is meant.

    Returns:
        The entries, and how they were read.

    Raises:
        DataError: a row that cannot be read; names line and column.
    """
    lines = numbered(text)
    if not lines:
        return [], "an empty table"
    header = find_header(text)
    if header is not None:
        separator, cells = header
        rows = split_plainly(path, text, separator)[1:]
        columns = by_header(cells, rows)
        assert columns is not None
        return _entries(path, text, separator, rows, columns), _said(separator, columns)
    sample = "\n".join(line for _, line in lines[:_SAMPLE])
    readings: list[tuple[int, str, bool]] = []
    problem: DataError | None = None
    for separator in separators_in([line for _, line in lines[:_SAMPLE]]):
        for anchored in (False, True) if separator not in ("", " ") else (False,):
            try:
                entries, _ = _read(path, sample, separator, anchored)
            except DataError as error:
                problem = problem or error
                continue
            found = sum(map(finds, entries))
            readings.append((found, separator, anchored))
            if found == len(entries):
                return _read(path, text, separator, anchored)
    if not readings:
        assert problem is not None
        raise problem
    _, separator, anchored = max(readings, key=lambda reading: reading[0])  # of equals the first
    return _read(path, text, separator, anchored)


def _read(path: Path, text: str, separator: str, anchored: bool) -> tuple[list[Entry], str]:
    rows = split_behind_path(text, separator) if anchored else split_plainly(path, text, separator)
    if not rows:
        return [], SEPARATORS[separator]
    columns, has_header = by_content(rows, separator)
    rows = rows[1:] if has_header else rows
    return _entries(path, text, separator, rows, columns), _said(separator, columns)


def _said(separator: str, columns: Columns) -> str:
    kind = SEPARATORS[separator] if separator == "" else f"a table with {SEPARATORS[separator]}"
    dialect = f"Kinetics, {kind}" if set(columns.names) >= KINETICS else kind
    dialect = f"WebVid, {kind}" if set(columns.names) >= WEBVID else dialect
    return f"{dialect}, {'with' if columns.names else 'without'} header: {columns}"


def _entries(path: Path, text: str, separator: str, rows: Sequence[Row], columns: Columns) -> list[Entry]:
    is_kinetics = set(columns.names) >= KINETICS
    is_webvid = set(columns.names) >= WEBVID
    label, split = columns.label, columns.split
    is_class = label is not None and all(is_whole_number(row.cells[label]) for row in rows if len(row.cells) > label)
    entries = []
    for line, cells in rows:
        if len(cells) > columns.width:
            cells = _narrowed(path, line, cells, separator, columns)
        cells = [cell.strip() for cell in cells]
        if len(cells) <= columns.path or not cells[columns.path]:
            raise DataError(
                f"{path}, line {line}, column {columns.path + 1}: no path of a video there (the line has {len(cells)} "
                f"columns; read as {_said(separator, columns)}). Mend the line or take it out."
            )
        value = cells[label] if label is not None and len(cells) > label else ""
        if is_class and value == "-1":
            value = ""
        row = dict(zip(columns.names, cells, strict=False))
        if is_kinetics:
            entry = kinetics_entry(path, line, row)
        elif is_webvid:
            entry = webvid_entry(line, row)
        else:
            extra = {"split": cells[split]} if split is not None and len(cells) > split else {}
            entry = Entry((cells[columns.path],), value or None, row or extra, line)
        entries.append(entry)
    return entries


def _narrowed(path: Path, line: int, cells: list[str], separator: str, columns: Columns) -> list[str]:
    """A row of too many cells: those of a path, or of a text at the end, that holds the separator without quotes."""
    if not any(cells[columns.width :]):
        return cells[: columns.width]
    if columns.path == 0:
        (row,) = split_behind_path(separator.join(cells), separator, columns.width)
        if len(row.cells) == columns.width:
            return row.cells
    if columns.label == columns.width - 1 and columns.path != columns.label:
        return [*cells[: columns.width - 1], separator.join(cells[columns.width - 1 :])]
    raise DataError(
        f"{path}, line {line}, column {columns.width + 1}: {len(cells)} columns where the list has {columns.width} "
        f"(read as {_said(separator, columns)}). Put a cell that holds the separator into double quotes."
    )


def kinetics_entry(path: Path, line: int, row: Mapping[str, str]) -> Entry:
    """label, youtube_id, time_start, time_end, split: clips are called ID_START_END.mp4, or ID.mp4 without times."""
    name, label, split = row["youtube_id"], row.get("label") or None, row.get("split")
    times = []
    for column in ("time_start", "time_end"):
        cell = row.get(column, "")
        if cell and not (is_number(cell) and abs(float(cell)) < 1e6):
            place = list(row).index(column) + 1
            raise DataError(
                f"{path}, line {line}, column {place} ({column}): {cell!r} is no number of seconds. Mend the line."
            )
        times.append(cell)
    stems = [name]
    if all(times):
        begin, end = (int(float(cell)) for cell in times)
        stems = [f"{name}_{begin:06d}_{end:06d}", f"{name}_{begin}_{end}", name]
    folders = [""] if label is None else [f"{label}/", f"{label.replace(' ', '_')}/", ""]
    folders += [f"{split}/{folder}" for folder in folders] if split else []
    candidates = tuple(f"{folder}{stem}{suffix}" for stem in stems for folder in folders for suffix in CLIP_SUFFIXES)
    return Entry(candidates, label, {"split": split} if split else {}, line)


def webvid_entry(line: int, row: Mapping[str, str]) -> Entry:
    """videoid, contentUrl, duration, page_dir, name: videos are called page_dir/videoid.mp4, the name is a caption."""
    stem, folder = row["videoid"], row.get("page_dir", "")
    folders = [f"{folder}/", ""] if folder else [""]
    return Entry(tuple(f"{where}{stem}.mp4" for where in folders), row.get("name") or None, row, line)
