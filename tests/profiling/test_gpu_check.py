"""The GPU check without a GPU: its dry run whole, stages that fail and hang, and the commands that a GPU would get."""

import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import tyro

from modist_fast.commands import pretrain
from modist_fast.config import check as check_config
from modist_fast.errors import ConfigError
from modist_kernels.configurations import PartialConfiguration
from modist_profiling import parity as parity_script
from modist_profiling.gpu_check import findings as findings
from modist_profiling.gpu_check.page import DRY_RUN
from modist_profiling.gpu_check.run import check, chosen
from modist_profiling.gpu_check.runner import WORK_PREFIX
from modist_profiling.gpu_check.stages import Setting, Stage, stages
from modist_profiling.kernels import edges as bench_edges
from modist_profiling.kernels import loss as bench_loss
from modist_profiling.kernels import tuning as tune_kernels
from modist_profiling.kernels.table import write_table
from modist_profiling.step import bench as bench_step

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
GPU_ONLY = {"bench-step-compile", "bench-step-choices"}


def run_check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "profiling/gpu_check.py", *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def gpu_stages(num_gpus: int = 1, memory_gb: float = 80.0) -> dict[str, Stage]:
    setting = Setting(Path("out"), Path("work"), num_gpus=num_gpus, memory_gb=memory_gb)
    return {stage.name: stage for stage in stages(setting)}


def test_dry_run_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "check"
    done = run_check("--dry-run", "--out", folder)
    record = json.loads((folder / "results.json").read_text())
    states = {stage["name"]: (stage["state"], stage["message"]) for stage in record["stages"]}
    assert states == dict.fromkeys(states, ("ok", ""))
    assert done.returncode == 0, done.stdout + done.stderr
    assert record["ok"]
    assert record["dry_run"]
    assert set(states) == set(gpu_stages()) - GPU_ONLY
    # What it says is there is there, and what it need not keep is gone.
    page = (folder / "README.md").read_text()
    assert page.splitlines()[2] == f"**{DRY_RUN[0].upper()}{DRY_RUN[1:]}.**"
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert {"bench-step.png", "run-one/clips.png", "run-all/loss.png", "report-all.html"} <= set(links)
    assert all((folder / link).is_file() for link in links)
    assert not list(tmp_path.glob(f"{WORK_PREFIX}*"))
    with zipfile.ZipFile(tmp_path / "check.zip") as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert packed == {str(path.relative_to(tmp_path)) for path in folder.rglob("*") if path.is_file()}
    assert (tmp_path / "check.zip").stat().st_size < 10e6
    # The stages did what they are for.
    figures = {stage["name"]: stage["figures"] for stage in record["stages"]}
    assert figures["gpu-tests"]["collected"] > 20
    assert figures["kernel-table"]["compiled"] == 1
    assert figures["pretrain-one"]["verdict"] in page
    assert figures["bench-step"]["step_speedup_vs_plain"] > 0
    rows = json.loads((folder / "parity.json").read_text())["rows"]
    assert all(0 <= row["error"] <= row["bound"] for row in rows)
    assert {row["what"] for row in rows} >= {
        "queue_infonce losses",
        "queue_infonce gradient",
        "flow_edges maps",
        "visual graph on cpu, largest",
        "motion graph on cpu, largest",
    }
    # Nothing but a GPU is missing: the same doctor, asked about a GPU, says so.
    missing = findings.gpu_doctor(folder).problems
    assert any(problem.startswith("CUDA devices: ") for problem in missing)


def stage(name: str, code: str, limit: float = 60.0, **more) -> Stage:
    return Stage(name, "planted", (sys.executable, "-c", code), limit, **more)


HANG = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path({pid!r}).write_text(str(child.pid))
time.sleep(600)
"""


def is_running(pid: int) -> bool:
    """Whether it runs; a process that waits for its parent to take notice does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def test_failures_are_reported_and_stop_nothing(tmp_path: Path) -> None:
    folder, work, pid = tmp_path / "check", tmp_path / "work", tmp_path / "pid"
    folder.mkdir()
    broken = {
        "what": "kernel",
        "case": "planted",
        "against": "",
        "error": 2.0,
        "bound": 1.0,
        "unit": "",
        "holds": False,
    }
    write = "import json, pathlib; pathlib.Path({!r}).write_text(json.dumps({!r}))"
    table = [
        stage("fails", "import sys; print('planted words'); sys.exit(3)"),
        stage("hangs", HANG.format(pid=str(pid)), limit=20.0),
        stage("writes nothing", "", makes=("nowhere.json",)),
        stage(
            "inaccurate",
            write.format(str(folder / "parity.json"), {"rows": [broken]}),
            makes=("parity.json",),
            read=findings.parity,
        ),
        stage("unreadable", write.format(str(folder / "budget.json"), []), read=findings.kernel_table),
        stage("depends", "", needs=("fails",)),
        stage("elsewhere", "raise SystemExit(1)", obstacle="one GPU"),
        stage("works", "print('fine')"),
    ]
    assert check(table, folder, work, dry_run=False) == 1
    record = json.loads((folder / "results.json").read_text())
    found = {one["name"]: one for one in record["stages"]}
    assert {name: one["state"] for name, one in found.items()} == {
        "fails": "failed",
        "hangs": "timed out",
        "writes nothing": "failed",
        "inaccurate": "failed",
        "unreadable": "failed",
        "depends": "skipped",
        "elsewhere": "not applicable",
        "works": "ok",
    }
    assert not record["ok"]
    assert found["fails"]["message"] == "exit code 3: planted words"
    assert found["fails"]["exit_code"] == 3
    assert found["hangs"]["message"].startswith("ended after 20 s")
    assert found["writes nothing"]["message"] == "did not write nowhere.json"
    assert found["inaccurate"]["message"] == "kernel (planted): 2.00e+00"
    assert found["depends"]["message"] == "needs fails"
    assert not is_running(int(pid.read_text()))  # the child of what hung
    page = (folder / "README.md").read_text()
    assert "**6 of 8 stages are not ok: fails, hangs, writes nothing, inaccurate, unreadable, depends**" in page
    assert "planted words" in (folder / "logs" / "fails.log").read_text()
    assert "--only fails hangs" in page
    assert DRY_RUN not in page


def test_only_problems_make_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "check").mkdir()
    table = [stage("works", ""), stage("elsewhere", "raise SystemExit(1)", obstacle="one GPU")]
    assert check(table, tmp_path / "check", tmp_path, dry_run=False) == 0


def test_without_a_gpu_it_says_what_to_do(tmp_path: Path) -> None:
    done = run_check("--out", tmp_path / "check")
    assert done.returncode == 2
    assert "torch sees no CUDA device here" in done.stderr
    assert "--dry-run" in done.stderr
    assert not list(tmp_path.iterdir())


def test_stages_are_chosen_with_what_they_need() -> None:
    table = list(gpu_stages(2).values())
    assert [one.name for one in chosen(table, ["report-all", "parity"])] == [
        "parity",
        "demo-videos",
        "demo-store",
        "pretrain-all",
        "report-all",
    ]
    assert chosen(table, []) == table
    with pytest.raises(ConfigError, match=r"--only nonsense: no such stage\. There are: doctor, "):
        chosen(table, ["nonsense"])


def script_of(one: Stage) -> tuple[str, list[str]]:
    """The script of a command and its arguments."""
    place = next(i for i, word in enumerate(one.command) if word.endswith(".py"))
    return one.command[place], list(one.command[place + 1 :])


@pytest.mark.parametrize("num_gpus", [1, 2, 3, 8, 16])
def test_the_commands_for_gpus_are_understood(num_gpus: int) -> None:
    """Their options exist and make sense, though none of them can run here."""
    scripts = {
        "parity.py": parity_script.Options,
        "bench_loss.py": bench_loss.Options,
        "bench_edges.py": bench_edges.Options,
        "bench_step.py": bench_step.Options,
        "tune_kernels.py": tune_kernels.Options,
    }
    table = gpu_stages(num_gpus)
    assert (table["pretrain-all"].obstacle == "") == (num_gpus > 1)
    for one in table.values():
        if "profiling/" in one.command[1] and Path(one.command[1]).name in scripts:
            name, arguments = script_of(one)
            options = tyro.cli(scripts[Path(name).name], args=arguments)
            if name.endswith("bench_step.py") and one.name != "bench-step-choices":
                config = bench_step.step_config(vars(options))
                assert (config.model.arch, config.clips.crop_size, config.objective.bank_size) == ("r50", 224, 65536)
                assert (config.clips.visual.num_frames, config.clips.motion.num_frames) == (8, 16)
    for name, processes in (("pretrain-one", 1), ("pretrain-all", num_gpus)):
        config = pretrain.parse(script_of(table[name])[1])
        check_config(config, processes)
        assert config.batch_size <= int(table["demo-videos"].command[-1])


def test_a_small_gpu_is_spared_the_eleven_processes() -> None:
    assert "20 GB" in gpu_stages(memory_gb=16.0)["bench-step-choices"].obstacle
    assert gpu_stages(memory_gb=80.0)["bench-step-choices"].obstacle == ""


def test_figures_of_tests_that_ran_on_a_gpu(tmp_path: Path) -> None:
    """By pytest's own report of four planted tests."""
    (tmp_path / "test_planted.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 0\n"
        "@pytest.mark.skip\ndef test_left_out(): pass\n"
        "@pytest.fixture\ndef broken(): raise OSError\n"
        "def test_error(broken): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", tmp_path, "test_planted.py"]
    subprocess.run([*command, "--junitxml", "gpu-tests.xml"], cwd=tmp_path, capture_output=True, check=False)
    found = findings.gpu_tests(tmp_path)
    assert found.figures["passed"] == 1
    assert [name.rpartition("::")[2] for name in found.figures["failed"]] == ["test_bad", "test_error"]
    assert [name.rpartition("::")[2] for name in found.figures["skipped"]] == ["test_left_out"]
    assert found.problems[0].startswith("2 of 4 tests failed: ")
    (tmp_path / "gpu-tests.xml").write_text("<testsuites><testsuite/></testsuites>")
    assert findings.gpu_tests(tmp_path).problems == ["no test ran"]


def test_figures_of_the_kernel_table(tmp_path: Path) -> None:
    entry = {"dim": 128} | asdict(PartialConfiguration(16, 128, 4, 3, 88))
    entry |= {"microseconds": 40.0, "shipped_microseconds": 50.0}
    edges = {"num_programs": 1056}
    write_table(tmp_path / "kernel_table.json", {"queue_infonce": [entry], "flow_edges": [edges]})
    found = findings.kernel_table(tmp_path)
    assert found.figures == {"entries": 1, "largest_gain": 1.25, "edges_programs": 1056}
    assert found.text.splitlines()[-1].split()[-4:] == ["40.0", "|", "50.0", "|"]
    write_table(tmp_path / "kernel_table.json", {"queue_infonce": [], "flow_edges": [edges]})
    assert findings.kernel_table(tmp_path).problems
