"""Writing the arrays of `columns`, of stores that are large enough to need them."""

import json
import os
import shutil
from pathlib import Path

import numpy as np

from modist_pipelines.disk.durable import publish, write_file
from modist_pipelines.store.columns import ABOUT_NAME, COLUMNS_NAME, NUMBERS, VERSION, array_lengths, index_digest
from modist_pipelines.store.reader import INDEX_NAME, Store

LARGE = 100_000  # videos from which a store has them; with fewer, Parquet is read in a moment


def map_if_large(path: Path, num_videos: int) -> None:
    """Write the arrays of a finished store that is large, and remove those that it had."""
    shutil.rmtree(path / COLUMNS_NAME, ignore_errors=True)
    if num_videos >= LARGE:
        store = Store.open(path)
        write_columns(store)
        store.close()


def write_columns(store: Store) -> None:
    """Write the arrays of an open store, in place of those that it has."""
    folder = store.path / COLUMNS_NAME
    half = store.path / f"{COLUMNS_NAME}.tmp"
    for path in (half, folder):
        shutil.rmtree(path, ignore_errors=True)
    half.mkdir()
    texts, labels = [text.encode() for text in store.videos], list(store.labels)
    names = sorted({label for label in labels if label is not None})
    codes: dict[str | None, int] = {label: code for code, label in enumerate(names)} | {None: -1}
    arrays = {name: np.ascontiguousarray(store.column(name), kind) for name, kind in NUMBERS.items()}
    arrays |= {name: column.values for name, column in store.list_columns().items()}
    arrays |= {
        "frame_starts": np.concatenate([[0], np.cumsum(store.num_frames, dtype=np.int64)]),
        "video_text": np.frombuffer(b"".join(texts), np.uint8),
        "video_ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
        "label": np.array([codes[label] for label in labels], np.int32),
    }
    for name, array in arrays.items():
        temporary = half / f"{name}.tmp"
        with temporary.open("wb") as file:
            np.save(file, array)
        publish(temporary, half / f"{name}.npy")
    about = {
        "version": VERSION,
        "index": index_digest(store.path / INDEX_NAME),
        "arrays": array_lengths(half),
        "num_videos": store.num_videos,
        "labels": names,
        "fingerprint": store.fingerprint(),
        "content": store.content(),
        "frame_bytes": store.frame_bytes(),
        "shard_sizes": {str(shard): size for shard, size in store.shard_sizes().items()},
    }
    write_file(half / ABOUT_NAME, json.dumps(about).encode())
    os.replace(half, folder)
