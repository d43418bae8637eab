"""Looking after a store: every checksum of it, and the room that removed videos left in its shards."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from modist_pipelines.disk.durable import publish, write_file
from modist_pipelines.errors import DataError
from modist_pipelines.store.columns_writer import map_if_large
from modist_pipelines.store.index import read_table
from modist_pipelines.store.reader import INDEX_NAME, META_NAME, PARTIAL_NAME, Store, shard_path
from modist_pipelines.store.writer import write_parquet

_BLOCK = 16 << 20


def damage(store: Store) -> list[str]:
    """What is wrong with a store, a line for each video; reads every byte of it."""
    found = []
    for video in range(store.num_videos):
        try:
            for kind in store.kinds:
                store.read_frames(video, kind, range(int(store.num_frames[video])))
        except DataError as error:
            found.append(f"{store.videos[video]}: {error}")
    return found


@dataclass(frozen=True)
class Holes:
    """Bytes of a store's shards that no video of the index has."""

    num_bytes: int
    shards: tuple[int, ...]
    """That hold such bytes beside videos."""
    unused: tuple[Path, ...]
    """Files of shards without any video."""

    @staticmethod
    def of(store: Store) -> "Holes":
        used = _used_bytes(store)
        paths = {shard_path(store.path, shard): shard for shard in used}
        sizes = {path: path.stat().st_size for path in sorted((store.path / "shards").glob("*.bin"))}
        holed = [paths[path] for path, size in sizes.items() if path in paths and size > used[paths[path]]]
        return Holes(sum(sizes.values()) - sum(used.values()), tuple(holed), tuple(p for p in sizes if p not in paths))


def compact(store: Store) -> int:
    """Write the shards that have holes anew, without them, and remove the old ones.

    The videos keep their order and the store its fingerprint, so that runs go on. Stopped anywhere, the store is whole:
    new shards have new numbers, and the old ones go when the index no longer names them.

    Args:
        store: is closed; open it again.

    Returns:
        Bytes freed.

    Raises:
        DataError: a run is making the store, or a shard cannot be read.
    """
    if (store.path / PARTIAL_NAME).is_dir():
        raise DataError(
            f"{store.path} is being made, or was left half made: run the command that makes it once more, then compact."
        )
    holes = Holes.of(store)
    before = _num_bytes(store)
    index = read_table(store.path / INDEX_NAME)
    first = 1 + max((int(path.stem) for path in (store.path / "shards").glob("?????.bin")), default=-1)
    moved = {shard: _move(store, shard, number) for number, shard in enumerate(holes.shards, first)}
    if moved:
        store.meta = replace(store.meta, fingerprint=store.fingerprint())
        write_file(store.path / META_NAME, store.meta.to_json().encode())
        write_parquet(store.path / INDEX_NAME, _with_new_places(index, store, moved))
    store.close()
    map_if_large(store.path, store.num_videos)
    for path in (*(shard_path(store.path, shard) for shard in holes.shards), *holes.unused):
        path.unlink()
    return before - _num_bytes(store)


def _used_bytes(store: Store) -> dict[int, int]:
    used: dict[int, int] = {}
    for video in range(store.num_videos):
        begin, end = store.place(video)
        shard = store.shard(video)
        used[shard] = used.get(shard, 0) + end - begin
    return used


def _num_bytes(store: Store) -> int:
    return sum(path.stat().st_size for path in (store.path / "shards").glob("*.bin"))


def _move(store: Store, shard: int, number: int) -> tuple[int, dict[int, int]]:
    """Copy the videos of a shard to a new one; its number, and by how many bytes each video moved."""
    shifts: dict[int, int] = {}
    path = shard_path(store.path, number)
    temporary = path.with_suffix(".tmp")
    videos = sorted((v for v in range(store.num_videos) if store.shard(v) == shard), key=lambda v: store.place(v))
    with shard_path(store.path, shard).open("rb") as source, temporary.open("wb") as file:
        for video in videos:
            begin, end = store.place(video)
            shifts[video] = file.tell() - begin
            source.seek(begin)
            for start in range(begin, end, _BLOCK):
                file.write(source.read(min(_BLOCK, end - start)))
    publish(temporary, path)
    return number, shifts


def _with_new_places(index: pa.Table, store: Store, moved: dict[int, tuple[int, dict[int, int]]]) -> pa.Table:
    shards = index["shard"].to_numpy().copy()
    shifts = np.zeros(index.num_rows, np.int64)
    for number, by_video in moved.values():
        for video, shift in by_video.items():
            shards[video], shifts[video] = number, shift
    columns = {"shard": pa.array(shards)}
    for kind in store.kinds:
        name = f"{kind}_offsets"
        column = index[name].combine_chunks()
        values = column.flatten().to_numpy() + np.repeat(shifts, column.value_lengths().to_numpy())
        starts = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())]).astype(np.int32)
        columns[name] = pa.ListArray.from_arrays(pa.array(starts), pa.array(values))
    for name, values in columns.items():
        place = index.column_names.index(name)
        index = index.set_column(place, index.schema.field(name), values.cast(index.schema.field(name).type))
    return index
