"""Lines of text to rows of cells: separators, and quoting as each of them has it."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from modist_pipelines.errors import DataError
from modist_pipelines.lists.entry import MEDIA_NAME, PATH_NAMES, is_number, plain_name
from modist_pipelines.video.suffixes import is_media

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "spaces", "": "one column"}
_MEDIA = MEDIA_NAME.pattern.removesuffix("$")
_QUOTED = re.compile(r"""(["'])(.+?)\1(?:\s+(.*))?""")


class Row(NamedTuple):
    """A line that is not empty."""

    line: int
    """From 1."""
    cells: list[str]


def numbered(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank. Only line ends separate them: a name may hold any other sign."""
    lines = re.split(r"\r\n|\n|\r", text)
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def split_plainly(path: Path, text: str, separator: str) -> list[Row]:
    """Rows by a separator: with quotes as in RFC 4180, but none beside tabs and spaces.

    Raises:
        DataError: quotes that do not end; names the line.
    """
    if separator == "\t":
        return [Row(number, line.split("\t")) for number, line in numbered(text)]
    if separator == " ":
        return _split_at_spaces(numbered(text))
    if separator == "":
        return [Row(number, [line.strip()]) for number, line in numbered(text)]
    try:
        return _csv_rows(text, separator, strict=True)
    except csv.Error as error:
        line, problem = getattr(error, "line", 0), error
    loose = _csv_rows(text, separator, quoting=csv.QUOTE_NONE)
    are_open = any(cell.startswith('"') and cell.count('"') == 1 for row in loose for cell in row.cells)
    if len({len(row.cells) for row in loose}) == 1 and not are_open:  # quotes are part of the names
        return loose
    raise DataError(
        f"{path}, line {line}: the quotes do not fit ({problem}). Put a cell that holds the separator or a line end "
        'into double quotes, and write a quote in it twice: "".'
    )


def split_behind_path(text: str, separator: str, num_cells: int | None = None) -> list[Row]:
    """Rows whose first cell is a path that may hold the separator: it ends at the last suffix of a media file.

    Args:
        num_cells: of a row; the last one then takes the rest of its line.
    """
    if separator == " ":
        return _split_at_spaces(numbered(text))
    sign = re.escape(separator)
    pattern = re.compile(rf"(.*{_MEDIA})(?:\s*{sign}(.*))?", re.IGNORECASE)
    rows = []
    for number, line in numbered(text):
        match = pattern.fullmatch(line.strip())
        if match is None:
            rows.append(Row(number, line.split(separator)))
            continue
        most = -1 if num_cells is None else max(num_cells - 2, 0)
        rows.append(Row(number, [match[1], *(match[2].split(separator, most) if match[2] is not None else [])]))
    return rows


def find_header(text: str) -> tuple[str, list[str]] | None:
    """The separator and the cells of a first line that names a column of paths; None where none does."""
    lines = numbered(text)
    if not lines:
        return None
    first = lines[0][1].lstrip("#").strip()
    best: tuple[str, list[str]] | None = None
    for separator in SEPARATORS:
        cells = [first] if separator == "" else first.split(None if separator == " " else separator)
        cells = [cell.strip().strip('"').strip() for cell in cells]
        is_header = any(plain_name(cell) in PATH_NAMES for cell in cells)
        if not is_header or any(is_media(cell) or is_number(cell) for cell in cells):
            continue
        if best is None or len(cells) > len(best[1]):
            best = separator, cells
    return best


def separators_in(lines: Sequence[str]) -> list[str]:
    """Those that stand in every line, the one that fits best first, and none at all."""
    fitting = [sign for sign in SEPARATORS if sign and all(sign in line.strip() for line in lines)]

    def misfit(sign: str) -> int:
        cells = [line.split(sign) for line in lines]
        return sum(not any(is_media(cell.strip(" \"'")) for cell in row) for row in cells)

    ordered = sorted(fitting, key=misfit)  # stable: of equals the first
    alone = sum(is_media(line.strip()) for line in lines) == len(lines)
    if alone and (not ordered or ordered[0] == " "):  # "./sp ace.mp4": a path and nothing else
        return ["", *ordered]
    return [*ordered, ""]


def _split_at_spaces(lines: Sequence[tuple[int, str]]) -> list[Row]:
    """From the right: a path may hold spaces. It ends at a media suffix, or where the shortest line lets it end."""
    pattern = re.compile(rf"(.*{_MEDIA})(?:\s+(.*))?", re.IGNORECASE)
    bare = [len(line.split()) for _, line in lines if not pattern.fullmatch(line.strip())]
    num_bare = min(bare, default=1)
    rows = []
    for number, line in lines:
        line = line.strip()
        if match := pattern.fullmatch(line):
            rows.append(Row(number, [_unquoted(match[1]), *_values(match[2] or "")]))
        elif match := _QUOTED.fullmatch(line):
            rows.append(Row(number, [match[2], *_values(match[3] or "")]))
        else:
            rows.append(Row(number, line.rsplit(None, num_bare - 1)))
    return rows


def _values(text: str) -> list[str]:
    """Numbers, and behind them a text that may hold spaces."""
    words = text.split()
    texts = [place for place, word in enumerate(words) if not is_number(word)]
    if not texts:
        return words
    return [*words[: texts[0]], " ".join(words[texts[0] :])]


def _unquoted(cell: str) -> str:
    return cell[1:-1] if len(cell) > 2 and cell[0] == cell[-1] and cell[0] in "\"'" else cell


def _csv_rows(text: str, separator: str, strict: bool = False, quoting: int = csv.QUOTE_MINIMAL) -> list[Row]:
    limit = csv.field_size_limit(len(text) + 1)  # captions may be long
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict, quoting=quoting)  # type: ignore[arg-type]
    try:
        return [Row(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        error.line = reader.line_num  # type: ignore[attr-defined]
        raise
    finally:
        csv.field_size_limit(limit)
