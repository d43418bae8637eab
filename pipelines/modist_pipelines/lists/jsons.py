"""Lists in JSON: Kinetics, ActivityNet, Something-Something v2, JSONL, and rows of paths and labels in general."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modist_pipelines.errors import DataError
from modist_pipelines.lists.entry import LABEL_NAMES, PATH_NAMES, SPLIT_NAMES, Entry, plain_name
from modist_pipelines.lists.tables import CLIP_SUFFIXES, kinetics_entry
from modist_pipelines.video.suffixes import is_media

_IDS = ("id", "uid", "video_id", "videoid", "vid", "youtube_id", "yt_id")
_WRAPPERS = ("database", "videos", "data", "clips", "items", "annotations", "samples")


def looks_like_json(text: str) -> bool:
    return text.lstrip()[:1] in ("[", "{")


def read_json(path: Path, text: str) -> tuple[list[Entry], str]:
    """
    Returns:
        The entries, and how they were read.

    Raises:
        DataError: not JSON, or rows without a path; names line and column, or the row.
    """
    rows, kind = _parsed(path, text)
    if isinstance(rows, dict):
        if any(plain_name(key) in PATH_NAMES and _text(value) is not None for key, value in rows.items()):
            rows = [rows]
        else:
            inner = (rows[key] for key in _WRAPPERS if isinstance(rows.get(key), (dict, list)) and rows[key])
            rows = next(inner, rows)
    keyed = rows.items() if isinstance(rows, dict) else [(None, row) for row in rows]
    used: dict[str, None] = {}
    entries = [_entry(path, number, key, row, used) for number, (key, row) in enumerate(keyed, start=1)]
    return entries, f"{kind}: {'; '.join(used) or 'no rows'}"


def _parsed(path: Path, text: str) -> tuple[Any, str]:
    try:
        found = json.loads(text)
        if isinstance(found, (dict, list)):
            return found, "JSON"
        raise DataError(
            f'{path} is JSON, but neither rows nor an object of them. Write [{{"path": …, "label": …}}, …].'
        )
    except RecursionError:
        raise DataError(f"{path} is JSON nested too deeply to be a list. Write rows, or an object of them.") from None
    except json.JSONDecodeError as error:
        rows = list(_json_lines(path, text)) if "\n" in text.strip() and text.lstrip().startswith("{") else None
        if rows is not None and len(rows) > 1:
            return rows, "JSON lines"
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}). Mend the line."
        ) from error
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"{path} is not JSON ({error}). Mend it, or name another --list-format.") from error


def _json_lines(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}, line {number}, column {error.colno}: not JSON ({error.msg}). Mend the line."
            ) from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON ({error}). Mend the line.") from error


def _entry(path: Path, number: int, key: str | None, row: Any, used: dict[str, None]) -> Entry:
    """
    Args:
        key: of the row, where they are an object's.
        used: takes down what is read from where.
    """
    if isinstance(row, str) and key is None:
        used["each row is a path"] = None
        return Entry(_names(row), None, {}, number)
    if isinstance(row, list) and key is None and row and isinstance(row[0], str):
        used["path and label by their places"] = None
        return Entry(_names(row[0]), _text(row[1]) if len(row) > 1 else None, {}, number)
    if key is not None and not isinstance(row, dict):
        used["path: the key; label: its value"] = None
        return Entry(_names(key), _text(row), {}, number)
    if not isinstance(row, dict):
        raise _refused(path, number, row)
    plain = {plain_name(name): name for name in row}
    found = next((plain[name] for name in PATH_NAMES if _text(row.get(plain.get(name, ""))) is not None), None)
    if key is not None:
        used["path: the key"] = None
        name = key
    elif found is not None:
        used[f"path: {found!r}"] = None
        name = str(row[found])
    else:
        raise _refused(path, number, row)
    label = _label(row, plain, found if key is None else None, used)
    split = next((_text(row[plain[name]]) for name in SPLIT_NAMES if name in plain), None)
    columns = {column: str(value) for column, value in row.items() if isinstance(value, (str, int, float))}
    columns |= {"split": split} if split else {}
    segment = _segment(row)
    if key is not None and (segment is not None or "url" in row):
        times = dict(zip(("time_start", "time_end"), segment or ("", ""), strict=True))
        own = {"label": label or "", "youtube_id": key, "split": split or "", **times}
        entry = kinetics_entry(path, number, own)
        extra = tuple(f"v_{key}{suffix}" for suffix in CLIP_SUFFIXES)  # ActivityNet's names
        return Entry((*entry.candidates, *extra), label, columns, number)
    names = _names(name) if key is not None or found is None or plain_name(found) not in _IDS else _id_names(name)
    return Entry(names, label, columns, number)


def _label(row: Mapping[str, Any], plain: Mapping[str, str], path: str | None, used: dict[str, None]) -> str | None:
    annotations = row.get("annotations")
    if annotations:
        several = annotations if isinstance(annotations, list) else [annotations]
        labels = {_text(one.get("label")) for one in several if isinstance(one, dict)} - {None}
        used["label: 'annotations', where they agree"] = None
        return labels.pop() if len(labels) == 1 else None
    # Something-Something v2 names the class in "template", what was seen in "label".
    order = ("template", *LABEL_NAMES) if "template" in plain else LABEL_NAMES
    column = next((plain[name] for name in order if name in plain and plain[name] != path), None)
    if column is None:
        return None
    used[f"label: {column!r}"] = None
    label = _text(row[column])
    return re.sub(r"[\[\]]", "", label) if label and column == plain.get("template") else label


def _segment(row: Mapping[str, Any]) -> tuple[str, str] | None:
    annotations = row.get("annotations")
    segment = annotations.get("segment") if isinstance(annotations, dict) else None
    if isinstance(segment, list) and len(segment) == 2:
        return str(segment[0]), str(segment[1])
    return None


def _text(value: Any) -> str | None:
    """A label or a path; several values are none."""
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:  # not a number
        return None
    return str(value).strip() or None


def _names(name: str) -> tuple[str, ...]:
    return (name,) if is_media(name) else (name, *(f"{name}{suffix}" for suffix in CLIP_SUFFIXES))


def _id_names(name: str) -> tuple[str, ...]:
    """ID.webm first, as Something-Something v2 has them."""
    return (name,) if is_media(name) else (f"{name}.webm", f"{name}.mp4", f"{name}.mkv", f"{name}.avi", name)


def _refused(path: Path, number: int, row: Any) -> DataError:
    shown = json.dumps(row)[:80]
    return DataError(
        f"{path}, row {number} of the JSON: no path or id of a video in {shown}. It has to be called one of "
        f"{', '.join(PATH_NAMES[:6])}, ... or id, as in Something-Something v2: "
        '[{"id": "78687", "template": "Holding [something]"}].'
    )
