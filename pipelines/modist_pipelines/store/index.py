"""The index of a store: its columns, and whether what it says can be, before it is taken for sizes and places."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import MapScale

_MAX_SHARDS = 100_000  # names of five digits
_MAX_SIDE = 65_535  # a JPEG's
_AGAIN = "Copy it again from where the store came, or remove the store and prepare it again with modist prepare."


def index_schema(motion_inputs: Sequence[str]) -> pa.Schema:
    """Columns of index.parquet. Offsets are bytes into the shard, of every JPEG: a map of several channels has one for
    each. Scores are in tenths of the full scale."""
    fields = [
        pa.field("video", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("source_fps", pa.float32(), nullable=False),
        pa.field("num_source_frames", pa.int32(), nullable=False),
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("note", pa.string()),  # what was not as it should be, though the video is of use
    ]
    for kind in ("rgb", *motion_inputs):
        fields.append(pa.field(f"{kind}_offsets", pa.list_(pa.int64()), nullable=False))
        fields.append(pa.field(f"{kind}_crc32", pa.list_(pa.uint32()), nullable=False))
    fields += [pa.field(f"{name}_scores", pa.list_(pa.float32()), nullable=False) for name in motion_inputs]
    return pa.schema(fields)


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of a store.

    Raises:
        DataError: it is damaged, or lacks a column.
    """
    try:
        table = pq.read_table(path, columns=None if columns is None else list(columns), page_checksum_verification=True)
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). {_AGAIN}") from error
    if absent := sorted(set(columns or ()) - set(table.column_names)):
        raise DataError(f"{path} cannot be read (it has no column {absent[0]}). {_AGAIN}")
    return table


def read_index(path: Path, motion_inputs: Mapping[str, MapScale]) -> pa.Table:
    """Read index.parquet, and check that its numbers fit each other: then none of them leads a read astray.

    Names of videos are text and never paths: nothing opens them.

    Raises:
        DataError: it is damaged, or says what cannot be.
    """
    wanted = [field for field in index_schema(list(motion_inputs)) if field.name != "note"]
    table = read_table(path, [field.name for field in wanted])
    try:
        table = table.cast(pa.schema(wanted))
        table.validate(full=True)
    except (ValueError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({error}). {_AGAIN}") from error
    if wrong := _wrong(table, motion_inputs):
        raise DataError(f"{path} is damaged: {wrong}. {_AGAIN}")
    return table


def _wrong(table: pa.Table, motion_inputs: Mapping[str, MapScale]) -> str | None:
    """What cannot be, in words."""
    for name in table.column_names:
        column = table[name]
        inner = pc.list_flatten(column) if pa.types.is_list(column.type) else column  # pyright: ignore[reportAttributeAccessIssue]
        if name != "label" and column.null_count + inner.null_count:
            return f"{name} has no value for some video"
    limits = {"shard": (0, _MAX_SHARDS - 1), "width": (1, _MAX_SIDE), "height": (1, _MAX_SIDE), "num_frames": (1, None)}
    for name, (low, high) in limits.items():
        values = table[name].to_numpy()
        if len(values) and (values.min() < low or (high is not None and values.max() > high)):
            return f"{name} of a video is {values.min() if values.min() < low else values.max()}"
    num_frames = table["num_frames"].to_numpy().astype(np.int64)
    for kind in ("rgb", *motion_inputs):
        num = num_frames * (1 if kind == "rgb" else motion_inputs[kind].channels)
        lists = {f"{kind}_offsets": num + 1, f"{kind}_crc32": num}
        if kind != "rgb":
            lists[f"{kind}_scores"] = num_frames
        for name, lengths in lists.items():
            if not np.array_equal(pc.list_value_length(table[name]).to_numpy(), lengths):  # pyright: ignore[reportAttributeAccessIssue]
                return f"{name} of a video has not as many values as its frames ask for"
        offsets = pc.list_flatten(table[f"{kind}_offsets"]).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        inside = np.ones(max(0, len(offsets) - 1), bool)
        inside[np.cumsum(num + 1)[:-1] - 1] = False  # from the end of one video to the beginning of the next
        if len(offsets) and (offsets.min() < 0 or (np.diff(offsets)[inside] < 0).any()):
            return f"{kind}_offsets of a video do not ascend"
        if kind != "rgb":
            scores = pc.list_flatten(table[f"{kind}_scores"]).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
            if not np.isfinite(scores).all():
                return f"{kind}_scores of a video are not finite"
    return None
