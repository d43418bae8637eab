"""Runs under profilers: the trace of a real run, and the Nsight scripts with stand-ins for nsys and ncu."""

import gzip
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from modist_fast.watch.run_log import read_metrics
from tests.commands.launching import HANG, REPOSITORY, run_script

pytestmark = pytest.mark.slow

SMALL = ["--preset", "demo", "--model.visual-width", 8, "--clips.crop-size", 32, "--batch-size", 16]
SMALL += ["--group-size", 8, "--objective.bank-size", 64]
STORED = REPOSITORY / "tests" / "profiling" / "nsys"

# Notes how it was called. `profile` and ncu run the command behind their options; `stats` writes stored tables.
STAND_IN = """#!{python}
import os, pathlib, shutil, subprocess, sys
words = sys.argv[1:]
with open(os.environ["CALLS"], "a") as calls:
    print(*words, file=calls)
if words[0] == "stats":
    base = pathlib.Path(words[words.index("--output") + 1])
    for table in pathlib.Path({stored!r}).glob(base.name + "_*.csv"):
        shutil.copy(table, base.parent)
else:
    [output] = [word for word in words if word.startswith("--output=")] or ["=" + words[words.index("--export") + 1]]
    path = output.partition("=")[2].replace("%q{{RANK}}", os.environ.get("RANK", "0"))
    pathlib.Path(path + (".nsys-rep" if words[0] == "profile" else ".ncu-rep")).touch()
    sys.exit(subprocess.call(words[words.index(sys.executable) :]))
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins on the PATH; returns the file that they note their calls in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("nsys", "ncu"):
        (folder / name).write_text(STAND_IN.format(python=sys.executable, stored=str(STORED)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path / "calls"


def run_shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / "profiling" / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=False)


def test_trace_holds_the_spans_of_the_steps_asked_for(demo_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--store", demo_store, "--out", run, "--max-steps", 12, "--loader.prefetch", 1]
    options += ["--profile.trace", "--profile.memory", "--profile.start", 5, "--profile.steps", 3]
    done = run_script("pretrain.py", *SMALL, *options)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("need a CUDA device, and this run is on cpu") == 1
    with gzip.open(run / "profile" / "trace-rank0.json.gz") as file:
        events = json.load(file)["traceEvents"]
    spans = defaultdict(list)
    for event in events:
        if event.get("cat") == "user_annotation":
            spans[event["name"]].append((event["ts"], event["ts"] + event["dur"], event["tid"]))
    assert len(spans["step"]) == 3
    # Two groups a step, each with its queries, loss and backward; all of them within the step, on its thread.
    for name, count in {"momentum": 3, "keys": 3, "queries": 6, "loss": 6, "backward": 6, "enqueue": 3}.items():
        assert len(spans[name]) == count, name
        for start, stop, thread in spans[name]:
            assert any(a <= start and stop <= b and thread == t for a, b, t in spans["step"]), name
    # What the loader does meanwhile, on threads of its own.
    main = spans["step"][0][2]
    assert spans["read"]
    assert spans["decode"]
    assert main not in {thread for name in ("read", "decode") for _, _, thread in spans[name]}
    # A convolution of the queries, as Perfetto shows it: below its span.
    assert any(
        event.get("name") == "aten::convolution" and start <= event["ts"] <= stop
        for event in events
        for start, stop, _ in spans["queries"]
    )
    # Steps that recording made slower are not in the budget: 5, 6, 7, and 8, in which the trace was written.
    assert sum(line["num_steps"] for line in read_metrics(run / "budget.jsonl")) == 12 - 4


def test_nsys_script_records_each_process_and_prints_the_budget(demo_store: Path, tmp_path: Path, tools: Path) -> None:
    run = tmp_path / "run"
    done = run_shell("nsys_pretrain.sh", 2, *SMALL, "--store", demo_store, "--out", run, "--max-steps", 3)
    assert done.returncode == 0, done.stderr
    calls = tools.read_text().splitlines()
    profiles = [call for call in calls if call.startswith("profile ")]
    assert len(profiles) == 2
    assert all("--capture-range=cudaProfilerApi --capture-range-end=stop" in call for call in profiles)
    assert all(call.endswith("--profile.cuda-window") for call in profiles)
    assert sum(call.startswith("stats ") for call in calls) == 2
    assert len(read_metrics(run / "metrics.jsonl")) == 3
    assert "step budget by nsys: 4 steps of 2 processes" in done.stdout
    assert json.loads((run / "profile" / "nsys-budget.json").read_text())["world_size"] == 2


def test_ncu_script_asks_for_one_phase(demo_store: Path, tmp_path: Path, tools: Path) -> None:
    run = tmp_path / "run"
    done = run_shell("ncu_kernels.sh", "loss", *SMALL, "--store", demo_store, "--out", run, "--max-steps", 1)
    assert done.returncode == 0, done.stderr
    [call] = tools.read_text().splitlines()
    assert "--nvtx --nvtx-include modist@loss/ " in call
    assert "--profile-from-start off" in call
    assert (run / "profile" / "ncu-loss.ncu-rep").exists()
    assert len(read_metrics(run / "metrics.jsonl")) == 1


@pytest.mark.parametrize("script", ["nsys_pretrain.sh", "ncu_kernels.sh"])
def test_scripts_say_what_is_missing(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: Path) -> None:
    without = run_shell(script, 1, "--preset", "demo")
    assert (without.returncode, "--out RUN is missing" in without.stderr) == (2, True)
    help_text = run_shell(script)
    assert help_text.returncode == 2
    assert f"profiling/{script}" in help_text.stderr
    monkeypatch.setenv("NSYS", "not-there")
    monkeypatch.setenv("NCU", "not-there")
    absent = run_shell(script, 1, "--out", tmp_path)
    assert (absent.returncode, "not-there is not on the PATH" in absent.stderr) == (2, True)
