"""The data plane against its peers: the same clips from the same videos, in turns.

    modist bench pipeline --videos DIR [--store STORE] [--json FILE] [--plot FILE]

A sample is two RGB clips (8 frames, stride 8) and two motion clips (16, stride 4) of random start, cropped to 224.
Rows: our store, our raw source, and torchcodec, PyAV, decord2 and OpenCV under a DataLoader with torchvision's v2
transforms, without workers and with. Each row is a process of its own that makes samples when it is its turn and is
stopped meanwhile; its CPU time is that of all its threads and children. A peer that is not installed is named.
"""

import importlib.util
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import psutil
import torch

from modist_fast.commands.cli import parse_options
from modist_fast.errors import ConfigError
from modist_pipelines.ranges import COUNT, FROM_ZERO, ranged
from modist_pipelines.video.discovery import discover_videos
from modist_pipelines.video.index import read_index
from modist_pipelines.video.reader import VideoError
from modist_profiling.frame.report import Report, conditions, plot_bars, print_rows
from modist_profiling.frame.rows import Row, Worker, run_rows
from modist_profiling.soak import family

WORKER = "modist_profiling.data.worker"
PACKAGES = {"torchcodec": "torchcodec", "pyav": "av", "decord2": "decord", "opencv": "cv2"}
Kind = Literal["store", "raw", "torchcodec", "pyav", "decord2", "opencv"]
OURS = {"store": "ours: store", "raw": "ours: raw videos"}
COUNTERS = ("samples", "frames_used", "frames_decoded", "bytes_read", "bytes_needed")


@dataclass(frozen=True)
class Options(Report):
    """The data plane against its peers."""

    videos: Path
    """A folder of MP4 or MKV files."""
    store: Path | None = None
    """Made of the same videos; made for the purpose where absent."""
    rows: tuple[Kind, ...] = get_args(Kind)
    """Only these; by default all."""
    rounds: int = ranged(5, COUNT)
    """Turns of each row."""
    samples: int = ranged(12, COUNT)
    """A round and row."""
    batch_size: int = ranged(4, COUNT)
    """Samples of a step."""
    workers: int = ranged(1, FROM_ZERO)
    """Of the peers' DataLoader, beside none."""


@dataclass(kw_only=True)
class ClipRow(Row):
    """A way to samples; times are milliseconds a sample."""

    kind: str
    workers: int
    augment: bool
    samples: int = 0
    frames_used: int = 0
    frames_decoded: int = 0
    bytes_read: int = 0
    bytes_needed: int = 0
    peak_mb: float = 0.0

    derived: ClassVar = (*Row.derived, "cpu_median")

    def add(self, answer: Mapping[str, Any]) -> None:
        super().add({name: answer[name] / answer["samples"] for name in ("time", "cpu_time")})
        for name in COUNTERS:
            setattr(self, name, getattr(self, name) + answer[name])
        self.peak_mb = answer["peak_mb"]

    @property
    def amplification(self) -> float:
        return self.frames_decoded / self.frames_used

    def cells(self) -> dict[str, str]:
        return {
            "samples/s": f"{1e3 * len(self.times) / sum(self.times):.1f}",
            "CPU ms": f"{self.cpu_median:.1f}",
            "spread": f"{min(self.cpu_times):.0f} - {max(self.cpu_times):.0f}",
            "decoded/used": f"{self.amplification:.2f}",
            "MB read": f"{self.bytes_read / self.samples / 1e6:.2f}",
            "read/needed": f"{self.bytes_read / self.bytes_needed:.2f}",
            "peak MB": f"{self.peak_mb:.0f}",
        }


def clip_row(kind: str, workers: int, augment: bool) -> ClipRow:
    name = OURS.get(kind, kind) + (f" + {workers} workers" if workers else "")
    title = f"{'full augmentation' if augment else 'decode and crop'}, a sample: 2 RGB + 2 motion clips at 224²"
    return ClipRow(title, name, missing=_missing(kind), kind=kind, workers=workers, augment=augment)


class StoppedWorker(Worker):
    """The process of a row: stopped, but for its turns. Their CPU time is that of all its threads and children."""

    def __init__(self, row: ClipRow, spec: Mapping[str, Any]) -> None:
        spec = {**spec, "row": row.kind, "workers": row.workers, "augment": row.augment}
        super().__init__(row.name, WORKER, spec, OMP_NUM_THREADS="1")
        self._signal(signal.SIGSTOP)

    def ask(self, **command: Any) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        before, started = self._cpu_seconds(), time.perf_counter()
        answer = super().ask(**command)
        answer["time"] = 1e3 * (time.perf_counter() - started)
        answer["cpu_time"] = 1e3 * (self._cpu_seconds() - before)
        answer["peak_mb"] = sum(_peak_mb(process.pid) for process in family(self.process.pid))
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        for process in family(self.process.pid):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _cpu_seconds(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in family(self.process.pid))


def main() -> None:
    options = parse_options(Options, description=__doc__)
    names = indexed_videos(options.videos)
    rows: list[ClipRow] = []
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or _prepare(options.videos, Path(folder))
        spec = {"videos": str(options.videos), "names": names, "store": str(store), "crop_size": 224}
        spec["batch_size"] = min(options.batch_size, len(names))
        for augment in (False, True):  # as many processes at a time as one table has rows
            table = [
                clip_row(kind, workers, augment)
                for kind in options.rows
                for workers in (sorted({0, options.workers}) if kind in PACKAGES else [0])
            ]
            run_rows(table, lambda row: StoppedWorker(row, spec), options.rounds, samples=options.samples)
            rows += table
    print(f"{len(names)} videos of {options.videos}, {options.rounds} rounds of {options.samples} samples")
    print_rows(rows)
    chart = partial(plot_bars, times="cpu_times")
    options.give(rows, ratios_of(rows), conditions(torch.device("cpu")), chart)


def ratios_of(rows: list[ClipRow]) -> dict[str, float]:
    """The ratios that the tables are for; peers at their best number of workers."""
    measured = [row for row in rows if row.times]
    ours = {row.augment: row for row in measured if row.kind == "store"}
    raw = [row for row in measured if row.kind == "raw"]
    found = {}
    if ours:
        for augment, name in enumerate(("plain", "augmented")):
            peers = [row.cpu_median for row in measured if row.kind in PACKAGES and row.augment == augment]
            if peers:
                found[f"cpu_speedup_vs_best_peer_{name}"] = min(peers) / ours[bool(augment)].cpu_median
        found["store_amplification"] = ours[True].amplification
        found["store_bytes_read_vs_needed"] = ours[True].bytes_read / ours[True].bytes_needed
    if raw:
        found["raw_amplification"] = raw[-1].amplification
    return found


def indexed_videos(folder: Path) -> list[str]:
    """Names of the videos whose frames all libraries can find by number.

    Raises:
        ConfigError: there are none.
    """
    names = [name for name in discover_videos(folder)[0] if _has_index(folder / name)]
    if not names:
        raise ConfigError(
            f"--videos {folder}: none of its files has time stamps by which every library finds frames. Use MP4 or MKV."
        )
    return names


def _has_index(path: Path) -> bool:
    try:
        return read_index(path, 30.0) is not None
    except VideoError:
        return False


def _missing(row: str) -> str:
    package = PACKAGES.get(row)
    if package is None or importlib.util.find_spec(package) is not None:
        if row == "torchcodec":
            from modist_pipelines.video.frames import torchcodec_loads

            return "" if torchcodec_loads() else "does not load: FFmpeg's shared libraries are missing"
        return ""
    return f"not installed: pip install {row}"


def _prepare(videos: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "modist_fast.commands.prepare", str(videos), "--out", str(folder / "store")]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return folder / "store"


def _peak_mb(pid: int) -> float:
    """Of resident memory; psutil has the present one alone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
