"""The data plane against its peers: the same clips from the same videos, in turns.

    python profiling/bench_pipeline.py --videos DIR [--store STORE] [--json FILE] [--plot FILE]

A sample is two RGB clips (8 frames, stride 8) and two motion clips (16, stride 4) of random start, cropped to 224.
Rows: our store, our raw source, and torchcodec, PyAV, decord2 and OpenCV under a DataLoader with torchvision's v2
transforms, without workers and with. Each row is a process of its own that makes samples when it is its turn and is
stopped meanwhile; its CPU time is that of all its threads and children. A peer that is not installed is named.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from modist_fast.errors import ConfigError
from modist_pipelines.video.discovery import discover_videos
from modist_pipelines.video.index import read_index
from modist_pipelines.video.reader import VideoError
from modist_profiling.frame import environment
from modist_profiling.soak import family

WORKER = "modist_profiling.data.worker"
PACKAGES = {"torchcodec": "torchcodec", "pyav": "av", "decord2": "decord", "opencv": "cv2"}
ROWS = ("store", "raw", *PACKAGES)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Row:
    """One line of the table."""

    row: str
    workers: int
    augment: bool
    missing: str = ""
    samples: int = 0
    cpu_ms: list[float] = field(default_factory=list)
    """CPU milliseconds a sample, one value a round."""
    seconds: float = 0.0
    frames_used: int = 0
    frames_decoded: int = 0
    bytes_read: int = 0
    bytes_needed: int = 0
    peak_mb: float = 0.0

    @property
    def name(self) -> str:
        kind = {"store": "ours: store", "raw": "ours: raw videos"}.get(self.row, self.row)
        return kind + (f" + {self.workers} workers" if self.workers else "")

    @property
    def median_cpu_ms(self) -> float:
        return statistics.median(self.cpu_ms)

    @property
    def amplification(self) -> float:
        return self.frames_decoded / self.frames_used


class Worker:
    """The process of a row: stopped, but for its turns."""

    def __init__(self, row: Row, spec: dict[str, Any]) -> None:
        self.row = row
        spec = {**spec, "row": row.row, "workers": row.workers, "augment": row.augment}
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER, json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._answer()
        self._signal(signal.SIGSTOP)

    def turn(self, num_samples: int) -> None:
        """Have it make samples, and add up what they cost."""
        self._signal(signal.SIGCONT)
        before, started = self._cpu_seconds(), time.perf_counter()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num_samples}\n")
        self._process.stdin.flush()
        done = json.loads(self._answer())
        row = self.row
        row.seconds += time.perf_counter() - started
        row.cpu_ms.append(1e3 * (self._cpu_seconds() - before) / done["samples"])
        for name in ("samples", "frames_used", "frames_decoded", "bytes_read", "bytes_needed"):
            setattr(row, name, getattr(row, name) + done[name])
        row.peak_mb = sum(_status_mb(pid, "VmHWM") for pid in family(self._process.pid))
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"the process of row {self.row.name!r} ended; its error is above.")
        return line

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)

    def _cpu_seconds(self) -> float:
        total = 0
        for pid in family(self._process.pid):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICKS


def main() -> None:
    options = _parse()
    names = indexed_videos(options.videos)
    with tempfile.TemporaryDirectory() as folder:
        store = options.store or _prepare(options.videos, Path(folder))
        spec = {"videos": str(options.videos), "names": names, "store": str(store), "crop_size": 224}
        spec["batch_size"] = min(options.batch_size, len(names))
        rows = [
            Row(row, workers, augment, _missing(row))
            for augment in (False, True)
            for row in options.rows
            for workers in (sorted({0, options.workers}) if row in PACKAGES else [0])
        ]
        for augment in (False, True):  # as many processes at a time as one table has rows
            run_rows([row for row in rows if row.augment == augment and not row.missing], spec, options)
    print(f"\n{len(names)} videos of {options.videos}, {options.rounds} rounds of {options.samples} samples")
    print_rows(rows)
    ratios = figures(rows)
    print(*(f"{name} {value:.3g}" for name, value in ratios.items()), sep="\n")
    if options.json is not None:
        record = {"rows": [asdict(row) | {"name": row.name} for row in rows], "figures": ratios}
        record["environment"] = environment(torch.device("cpu"))
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(options.plot, rows)


def run_rows(rows: list[Row], spec: dict[str, Any], options: argparse.Namespace) -> None:
    workers: list[Worker] = []
    try:
        for row in rows:
            workers.append(Worker(row, spec))
        for number in range(options.rounds):
            for worker in workers if number % 2 == 0 else reversed(workers):
                worker.turn(options.samples)
    finally:
        for worker in workers:
            worker.close()


def figures(rows: list[Row]) -> dict[str, float]:
    """The ratios that the table is for; peers at their best number of workers."""

    def ours(augment: bool) -> Row:
        return next(row for row in rows if row.row == "store" and row.augment == augment)

    def best_peer(augment: bool) -> float:
        return min(row.median_cpu_ms for row in rows if row.row in PACKAGES and row.augment == augment and row.cpu_ms)

    found = {}
    if any(row.row == "store" and row.cpu_ms for row in rows):
        if any(row.row in PACKAGES and row.cpu_ms for row in rows):
            found["cpu_speedup_vs_best_peer_plain"] = best_peer(False) / ours(False).median_cpu_ms
            found["cpu_speedup_vs_best_peer_augmented"] = best_peer(True) / ours(True).median_cpu_ms
        found["store_amplification"] = ours(True).amplification
        found["store_bytes_read_vs_needed"] = ours(True).bytes_read / ours(True).bytes_needed
    if raw := [row for row in rows if row.row == "raw" and row.cpu_ms]:
        found["raw_amplification"] = raw[-1].amplification
    return found


def print_rows(rows: list[Row]) -> None:
    head = ("augmentation", "row", "samples/s", "CPU ms", "spread", "decoded/used", "MB read", "read/needed", "peak MB")
    print(("{:12} {:24}" + " {:>12}" * 7).format(*head))
    for row in rows:
        kind = "full" if row.augment else "crop only"
        if row.missing:
            print(f"{kind:12} {row.name:24} {row.missing}")
            continue
        low, high = min(row.cpu_ms), max(row.cpu_ms)
        cells = (
            f"{row.samples / row.seconds:.1f}",
            f"{row.median_cpu_ms:.1f}",
            f"{low:.0f} - {high:.0f}",
            f"{row.amplification:.2f}",
            f"{row.bytes_read / row.samples / 1e6:.2f}",
            f"{row.bytes_read / row.bytes_needed:.2f}",
            f"{row.peak_mb:.0f}",
        )
        print(f"{kind:12} {row.name:24}" + "".join(f" {cell:>12}" for cell in cells))


def plot(path: Path, rows: list[Row]) -> None:
    """Bars of CPU time a sample."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharex=True, layout="constrained")
    for axis, augment in zip(axes, (False, True), strict=True):
        shown = [row for row in rows if row.augment == augment and row.cpu_ms][::-1]
        values = [row.median_cpu_ms for row in shown]
        colors = ["tab:blue" if row.row in ("store", "raw") else "tab:gray" for row in shown]
        bars = axis.barh([row.name for row in shown], values, color=colors)
        axis.bar_label(bars, fmt="%.0f", padding=3)
        axis.set_title("full augmentation" if augment else "decode and crop")
        axis.set_xlabel("CPU ms a sample (2 RGB + 2 motion clips at 224²)")
        axis.margins(x=0.12)
    figure.savefig(path, dpi=120)


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


def _status_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True, help="a folder of MP4 or MKV files")
    parser.add_argument("--store", type=Path, help="made of the same videos; made for the purpose where absent")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=12, help="a round and row")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1, help="of the peers' DataLoader, beside none")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    return parser.parse_args()
