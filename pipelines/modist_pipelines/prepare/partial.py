"""A store in the making: which shards are done, and with which options they were made.

    STORE/.partial/plan.json                 options and videos; another run must have the same
    STORE/.partial/NNNNN.parquet             index rows of a shard; its presence says that the shard is done
    STORE/.partial/NNNNN.quarantine.parquet  what was left out of the shard
    STORE/.partial/NNNNN.sources.parquet     which files were read for the shard
    STORE/.partial/NNNNN.HOST-PID.bin        a shard that is being written

A shard is done in this order, each step durable before the next: the .bin file, its rows of files and quarantine,
its index rows. Killed anywhere, the next run does again what has no index rows.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modist_pipelines.disk.durable import write_file
from modist_pipelines.disk.lock import HeldError, held
from modist_pipelines.errors import DataError
from modist_pipelines.prepare.settings import PLAN_NAME, with_picture_rules
from modist_pipelines.store.index import read_table
from modist_pipelines.store.reader import PARTIAL_NAME, shard_path
from modist_pipelines.store.writer import SOURCES_SCHEMA, write_parquet

_NUM_BYTES = b"shard_num_bytes"


class PartialStore:
    """The notes beside a half-made store."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store / PARTIAL_NAME

    @contextmanager
    def locked(self, part: str = "") -> Iterator[None]:
        """Keep a second run of the same part away; the lock goes with the process, however it ends.

        Args:
            part: name of one machine's part of the work; "" for all of it.

        Raises:
            DataError: another run is at work, or the folder cannot be made.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path / f"lock{part}"))
            except HeldError as error:
                raise DataError(
                    f"--out {self.store}: another modist prepare is making this store ({error}). Wait for it, or "
                    "choose another folder."
                ) from None
            except OSError as error:
                raise DataError(
                    f"--out {self.store} cannot be written: {error.strerror}. Choose a folder that can."
                ) from error
            yield

    def agree(self, plan: Mapping[str, Any]) -> None:
        """Note the plan of this store, or check that it is the one noted before.

        Args:
            plan: JSON values; keys are option names without dashes.

        Raises:
            DataError: a half-made store of other options; names the first that differs.
        """
        plan = json.loads(json.dumps(plan))
        noted = self.noted()
        if noted is None:
            self.note(plan)
            return
        check_same_plan(plan, noted, f"{self.store} is half made")

    def check_seen(self) -> None:
        """In a worker, which may be on another machine.

        Raises:
            DataError: the folder of the run's notes is not there.
        """
        if not self.path.is_dir():
            raise DataError(
                f"--out {self.store}: {socket.gethostname()} does not see the folder that this run has begun there. "
                "All machines must have it at the same path, such as on a shared disk."
            )

    def noted(self) -> dict[str, Any] | None:
        """The plan that a run has noted; None where none has."""
        path = self.path / PLAN_NAME
        if not path.is_file():
            return None
        try:
            return with_picture_rules(dict(json.loads(path.read_text(encoding="utf-8"))))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged ({error!r}). Remove {self.path} to begin the store anew.") from error

    def note(self, plan: Mapping[str, Any]) -> None:
        """Note a plan in place of the one that is there."""
        write_file(self.path / PLAN_NAME, json.dumps(plan, indent=2).encode())

    def temporary(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.{socket.gethostname()}-{os.getpid()}.bin"

    def remove_leftovers(self, shards: Sequence[int]) -> None:
        """Remove what runs that were killed left unfinished of these shards; others may be at work on the rest."""
        for shard in shards:
            for pattern in (f"{shard:05d}.*.bin", f"{shard:05d}.*.tmp"):
                for path in self.path.glob(pattern):
                    path.unlink(missing_ok=True)

    def is_finished(self, shard: int) -> bool:
        """Whether the shard is complete: its index rows are there, and its bytes."""
        path = self._index_path(shard)
        if not path.is_file():
            return False
        num_bytes = int((pq.read_schema(path).metadata or {})[_NUM_BYTES])
        return num_bytes == _size(shard_path(self.store, shard))

    def finish(self, shard: int, index: pa.Table, quarantine: pa.Table, sources: pa.Table) -> None:
        """Note that a shard, whose file has its name already, is complete."""
        num_bytes = _size(shard_path(self.store, shard))
        write_parquet(self._sources_path(shard), sources)
        write_parquet(self._quarantine_path(shard), quarantine)
        marked = index.replace_schema_metadata({_NUM_BYTES: str(num_bytes)})
        write_parquet(self._index_path(shard), marked)

    def finished(self) -> list[int]:
        """Numbers of the shards that are complete, ascending."""
        numbers = sorted(int(path.stem) for path in self.path.glob("?????.parquet"))
        return [number for number in numbers if self.is_finished(number)]

    def next_shard(self) -> int:
        """A number above those of all shards that are there, complete or not."""
        names = [path.stem for folder in (self.store / "shards", self.path) for path in folder.glob("?????.*")]
        return max((int(name.partition(".")[0]) + 1 for name in names if name[:5].isdigit()), default=0)

    def shard_tables(self, shard: int) -> tuple[pa.Table, pa.Table, pa.Table]:
        """Index, quarantine and files of a shard; the last is empty where it was made before they were noted."""
        sources = self._sources_path(shard)
        return (
            read_table(self._index_path(shard)).replace_schema_metadata(None),
            read_table(self._quarantine_path(shard)),
            read_table(sources) if sources.is_file() else SOURCES_SCHEMA.empty_table(),
        )

    def remove(self) -> None:
        """Forget the notes: the store is finished."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _index_path(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.parquet"

    def _sources_path(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.sources.parquet"

    def _quarantine_path(self, shard: int) -> Path:
        return self.path / f"{shard:05d}.quarantine.parquet"


def check_same_plan(plan: Mapping[str, Any], noted: Mapping[str, Any], what: str) -> None:
    """
    Raises:
        DataError: names the first key whose values differ; `what` says what was found.
    """
    for key in plan:
        if plan[key] == noted.get(key):
            continue
        option = "VIDEOS" if key == "videos" else f"--{key.replace('_', '-')}"
        was, now = (value if key != "videos" else "other files" for value in (noted.get(key), plan[key]))
        detail = "it was made from other files" if key == "videos" else f"it has {was}, this command {now}"
        raise DataError(
            f"{what} with another {option}: {detail}. Run the command that it was begun with, or remove the "
            "folder, or choose another --out."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
