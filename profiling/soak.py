"""Train for some epochs and watch from outside: memory and file descriptors must stay as they are.

    python profiling/soak.py --store STORE --out RUN [--epochs 3] [--processes 2] [--json FILE] [-- pretrain options]

The first epoch is the warm-up: allocators and file caches fill. Then the second epoch is compared with the rest.
Exit code 1 where memory grew by more than --tolerance or file descriptors were left open.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from modist_fast.commands.cli import run_cli
from modist_fast.errors import ConfigError
from modist_fast.host.distributed import default_processes
from modist_fast.run.files import traces
from modist_fast.watch.metrics import read_metrics
from modist_profiling.soak import Flatness, flatness, lasting, watch

PRETRAIN = Path(__file__).resolve().parents[1] / "launch" / "pretrain.py"
# Small nets on small clips: the host's work per step is what leaks, and this way there are many steps.
SMALL = ["--preset", "demo", "--model.visual-width", "8", "--clips.crop-size", "32", "--batch-size", "16"]
SMALL += ["--group-size", "4"]


def main() -> int:
    options = _parse()
    if traces(options.out):
        raise ConfigError(f"--out {options.out} already holds a run. Choose another.")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*launcher, str(options.processes), str(PRETRAIN), *SMALL, "--epochs", str(options.epochs)]
    command += ["--store", str(options.store), "--out", str(options.out), *options.pretrain]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    print(" ".join(command), flush=True)
    started = time.time()
    code, watched = watch(
        command,
        lambda line: str(PRETRAIN) in line and "torch.distributed.run" not in line,
        interval=options.interval,
        env=os.environ | threads,
    )
    if code:
        print(f"the run ended with exit code {code}", file=sys.stderr)
        return 1
    ends = epoch_ends(options.out, started)
    ranks = lasting(watched, ends[0])
    found = [flatness(process, ends[0], ends[1], ends[-1]) for process in ranks]
    print(f"{len(ends)} epochs; epoch 2 against the {len(ends) - 2} after it")
    for process in found:
        print(
            f"process {process.pid}: {process.warm_mb:.1f} → {process.last_mb:.1f} MB ({100 * process.growth:+.2f} %), "
            f"{process.warm_files:g} → {process.last_files:g} file descriptors"
        )
    if options.json is not None:
        record = {"command": command, "epoch_ends": ends, "processes": [asdict(process) for process in ranks]}
        options.json.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return 0 if all(is_flat(process, options.tolerance) for process in found) else 1


def is_flat(process: Flatness, tolerance: float) -> bool:
    return process.growth <= tolerance and process.last_files <= process.warm_files


def epoch_ends(run: Path, started: float) -> list[float]:
    """Seconds from `started` (a time.time()) to the end of each epoch of a run that is over."""
    metrics = run / "metrics.jsonl"
    rows = read_metrics(metrics)
    moment = metrics.stat().st_mtime - started
    ends = {}
    for row in reversed(rows):
        ends.setdefault(row["epoch"], moment)
        moment -= row["seconds"]
    return [ends[epoch] for epoch in sorted(ends)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--processes", type=int, default=default_processes(), help="2, or 1 on a single GPU")
    parser.add_argument("--tolerance", type=float, default=0.02, help="growth of resident memory that passes")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between two looks")
    parser.add_argument("--json", type=Path, help="write all samples there")
    parser.add_argument("pretrain", nargs="*", help="options for launch/pretrain.py, after --")
    options = parser.parse_args()
    if options.epochs < 3:
        raise ConfigError(f"--epochs {options.epochs}: one to warm up and two to compare are needed, 3 at least.")
    return options


if __name__ == "__main__":
    sys.exit(run_cli(main))
