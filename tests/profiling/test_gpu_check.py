"""The GPU check without a GPU: its dry run whole, stages that fail and hang, and the commands that a GPU would get."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest
import tyro
from planted_run import plant

from modist_fast.__main__ import find
from modist_fast.commands import pretrain
from modist_fast.config import check as check_config
from modist_fast.errors import ConfigError
from modist_kernels.configurations import PartialConfiguration
from modist_profiling import parity as parity_script
from modist_profiling.gpu_check import findings as findings
from modist_profiling.gpu_check import layers, one_step
from modist_profiling.gpu_check.page import DRY_RUN
from modist_profiling.gpu_check.run import check, chosen
from modist_profiling.gpu_check.runner import Folders
from modist_profiling.gpu_check.scaling import LIMITS, scaling
from modist_profiling.gpu_check.stage import Setting, Stage
from modist_profiling.gpu_check.stages import FIRST_TESTS, LONGEST, gpu_test_files, stages
from modist_profiling.kernels import edges as bench_edges
from modist_profiling.kernels import loss as bench_loss
from modist_profiling.kernels import tuning as tune_kernels
from modist_profiling.kernels.table import write_table
from modist_profiling.step import bench as bench_step

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
GPU_ONLY = {
    *("first-step-auto", "first-step-groups", "step-compile", "bench-step-compile", "bench-step-choices"),
    *("bench-backbones", "kernel-table-16", "kernel-table-32", "kernel-table-64", "kernel-table-128"),
    *("pretrain-all", "report-all", "scaling-store", "scaling-1"),
}


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
    setting = Setting(num_gpus=num_gpus, memory_gb=memory_gb)
    return {stage.name: stage for stage in stages(setting)}


@pytest.mark.long
def test_dry_run_is_whole(tmp_path: Path) -> None:
    folder = tmp_path / "check"
    done = run_check("--dry-run", "--out", folder)
    record = json.loads((folder / "results.json").read_text())
    states = {stage["name"]: (stage["state"], stage["message"]) for stage in record["stages"]}
    assert states == dict.fromkeys(states, ("ok", ""))
    assert done.returncode == 0, done.stdout + done.stderr
    assert record["ok"]
    assert record["dry_run"]
    assert set(states) == set(gpu_stages(num_gpus=2)) - GPU_ONLY | {"kernel-table"}
    # What it says is there is there, and what it need not keep is beside it.
    page = (folder / "README.md").read_text()
    assert page.splitlines()[2] == f"**{DRY_RUN[0].upper()}{DRY_RUN[1:]}.**"
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert {"bench-step.png", "pretrain-one/clips.png", "scaling-2/budget.json", "report-one.html"} <= set(links)
    assert all((folder / link).is_file() for link in links)
    assert {path.name for path in tmp_path.iterdir()} == {"check", "check.zip", "check-work"}
    with zipfile.ZipFile(tmp_path / "check.zip") as archive:
        packed = {name for name in archive.namelist() if not name.endswith("/")}
    assert packed == {str(path.relative_to(tmp_path)) for path in folder.rglob("*") if path.is_file()}
    assert (tmp_path / "check.zip").stat().st_size < 10e6
    # The stages did what they are for.
    figures = {stage["name"]: stage["figures"] for stage in record["stages"]}
    assert figures["first-tests"]["collected"] > 20
    assert figures["gpu-tests"]["collected"] > 3
    assert figures["first-layers"]["norm_visual_3d_over_4d"] > 0
    assert figures["first-step-off"]["launches"] > 1000
    assert figures["scaling-2"]["samples_per_s"] > 0
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
    folders, pid = Folders(tmp_path / "check", tmp_path / "work"), tmp_path / "pid"
    folder = folders.out
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
        stage("unreadable", write.format(str(folder / "budget.json"), []), read=findings.kernel_table("budget.json")),
        stage("depends", "", needs=("fails",)),
        stage("elsewhere", "raise SystemExit(1)", obstacle="one GPU"),
        stage("works", "print('fine')"),
    ]
    assert check(table, folders, dry_run=False) == 1
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
    assert "`modist bench gpu-check --out check --skip-done`" in page
    assert DRY_RUN not in page


def test_only_problems_make_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "check").mkdir()
    table = [stage("works", ""), stage("elsewhere", "raise SystemExit(1)", obstacle="one GPU")]
    assert check(table, Folders(tmp_path / "check", tmp_path), dry_run=False) == 0


def states_of(folder: Path) -> dict[str, str]:
    record = json.loads((folder / "results.json").read_text())
    return {one["name"]: one["state"] for one in record["stages"]}


def counting(name: str, tmp_path: Path, more: str = "", **others) -> Stage:
    """A stage that leaves a line in `tmp_path`/NAME each time that it runs."""
    return stage(name, f"print('ran', file=open({str(tmp_path / name)!r}, 'a')); {more}", **others)


def test_a_check_goes_on_where_it_ended(tmp_path: Path) -> None:
    """What was ok does not run again, unless what it left in WORK is gone and somebody needs it."""
    folders = Folders(tmp_path / "check", tmp_path / "work")
    folders.out.mkdir()
    cure = tmp_path / "cure"
    make = f"import pathlib; pathlib.Path({str(folders.work)!r}, 'videos').mkdir(parents=True, exist_ok=True)"
    table = [
        counting("videos", tmp_path, make, work="videos"),
        counting("alone", tmp_path),
        counting("ill", tmp_path, f"import os; assert os.path.exists({str(cure)!r})", needs=("videos",)),
        counting("last", tmp_path),
    ]

    def runs() -> dict[str, int]:
        return {
            one.name: len((tmp_path / one.name).read_text().split()) for one in table if (tmp_path / one.name).exists()
        }

    assert check(table, folders, dry_run=False, only=["ill", "alone"]) == 1
    assert states_of(folders.out) == {"videos": "ok", "alone": "ok", "ill": "failed"}
    cure.touch()
    assert check(table, folders, dry_run=False, skip_done=True) == 0
    assert states_of(folders.out) == dict.fromkeys(["videos", "alone", "ill", "last"], "ok")
    assert runs() == {"videos": 1, "alone": 1, "ill": 2, "last": 1}
    # Its command has changed, and the videos that it needs are gone.
    table[2] = counting("ill", tmp_path, "2", needs=("videos",))
    (folders.work / "videos").rmdir()
    assert check(table, folders, dry_run=False, skip_done=True) == 0
    assert runs() == {"videos": 2, "alone": 1, "ill": 3, "last": 1}
    with pytest.raises(ConfigError, match="dry_run: False then, True now"):
        check(table, folders, dry_run=True, skip_done=True)


def test_a_check_that_is_killed_has_told_what_it_knew(tmp_path: Path) -> None:
    """The second stage kills the check; the first one's verdict and the zip are there."""
    folders = Folders(tmp_path / "check", tmp_path / "work")
    (folders.out).mkdir()
    table = [stage("first", ""), stage("kills", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")]
    pid = os.fork()
    if pid == 0:
        check(table, folders, dry_run=False)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    assert states_of(folders.out) == {"first": "ok", "kills": "not run yet"}
    assert "**Not run yet: kills**" in (folders.out / "README.md").read_text()
    with zipfile.ZipFile(tmp_path / "check.zip") as archive:
        assert json.loads(archive.read("check/results.json"))["ok"] is False


def test_the_deadline_cuts_limits_and_skips_stages(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "check", tmp_path / "work")
    folders.out.mkdir()
    table = [stage("long", "import time; time.sleep(600)", limit=600), stage("short", "")]
    assert check(table, folders, dry_run=False, deadline=time.monotonic() + 22) == 1
    found = {one["name"]: one for one in json.loads((folders.out / "results.json").read_text())["stages"]}
    assert found["long"]["state"] == "timed out"
    assert found["long"]["message"].startswith("ended after 7 s: KeyboardInterrupt")  # and 15 s to end it
    assert found["short"]["state"] == "skipped"
    assert found["short"]["message"] == "less than 20 s are left until --deadline"


@pytest.mark.long
def test_pytest_that_is_ended_has_written_its_report(tmp_path: Path) -> None:
    """Even where whoever began the check ignores interrupts, as `&` of a script does."""
    tests, folders = tmp_path / "test_planted.py", Folders(tmp_path / "check", tmp_path / "work")
    folders.out.mkdir()
    tests.write_text("import time\ndef test_good(): pass\ndef test_hangs(): time.sleep(600)\n")
    words = (sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(tmp_path), str(tests))
    command = (*words, "--junitxml", "OUT/report.xml")
    one = Stage("tests", "planted", command, 15.0, makes=("report.xml",), read=findings.gpu_tests("report.xml"))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert check([one], folders, dry_run=False) == 1
    finally:
        signal.signal(signal.SIGINT, before)
    [found] = json.loads((folders.out / "results.json").read_text())["stages"]
    assert found["state"] == "timed out"
    assert found["figures"] == {"passed": 1, "failed": [], "skipped": [], "unfinished": 1}


def test_stages_find_the_checkout_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = Folders(tmp_path / "check", tmp_path / "work")
    folders.out.mkdir()
    monkeypatch.delenv("PYTHONPATH", raising=False)
    show = "import modist_profiling, modist_kernels, modist_fast, sys; print(modist_kernels.__file__)"
    one = Stage("imports", "planted", (sys.executable, "-c", show), 60.0, stdout="where.txt")
    assert check([one], folders, dry_run=False) == 0
    assert (folders.out / "where.txt").read_text().startswith(str(REPOSITORY / "kernels"))


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
    assert [one.name for one in chosen(table, ["first"])] == [
        "first-tests",
        "first-layers",
        "first-step-off",
        "first-step-auto",
        "first-step-groups",
    ]
    assert [one.name for one in chosen(table, ["bench-step"])] == ["bench-step"]
    with pytest.raises(ConfigError, match=r"--only nonsense: no such stage\. There are: first-tests, "):
        chosen(table, ["nonsense"])


def test_no_stage_takes_longer_than_a_machine_is_lent() -> None:
    assert max(one.limit for one in gpu_stages(8).values()) <= LONGEST == 540


def test_each_file_with_gpu_tests_is_run_once() -> None:
    """Held against pytest's own collection: by the name of its mark, wherever it stands."""
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "tests"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    marked = {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}
    assert len(marked) > 4
    assert {*FIRST_TESTS, *gpu_test_files()} == marked
    assert not {*FIRST_TESTS} & {*gpu_test_files()}


def script_of(one: Stage) -> tuple[str, list[str]]:
    """The command of this project, or the module, and its arguments."""
    words = list(one.command[one.command.index("modist_fast") + 1 :] if "modist_fast" in one.command else ())
    if words:
        name, rest = find(words)
        return name, rest
    place = next(i for i, word in enumerate(one.command) if "gpu_check" in word)
    return one.command[place], list(one.command[place + 1 :])


@pytest.mark.parametrize("num_gpus", [1, 2, 3, 8, 16])
def test_the_commands_for_gpus_are_understood(num_gpus: int) -> None:
    """Their options exist and make sense, though none of them can run here."""
    scripts = {
        "parity": parity_script.Options,
        "bench loss": bench_loss.Options,
        "bench edges": bench_edges.Options,
        "bench step": bench_step.Options,
        "tune-kernels": tune_kernels.Options,
        "modist_profiling.gpu_check.layers": layers.Options,
        "modist_profiling.gpu_check.one_step": one_step.Options,
    }
    table, seen = gpu_stages(num_gpus), set()
    assert (table["pretrain-all"].obstacle == "") == (num_gpus > 1)
    for one in table.values():
        if "pytest" not in one.command and (found := script_of(one))[0] in scripts:
            name, arguments = found
            seen.add(name)
            options = tyro.cli(scripts[name], args=arguments)
            if one.name in ("bench-step", "bench-step-compile"):
                config = bench_step.step_config(vars(options))
                assert (config.model.arch, config.clips.crop_size, config.objective.bank_size) == ("r50", 224, 65536)
                assert (config.clips.visual.num_frames, config.clips.motion.num_frames) == (8, 16)
    assert seen == set(scripts)
    scaled = [int(name.rpartition("-")[2]) for name in table if re.fullmatch(r"scaling-\d+", name)]
    assert scaled == [num for num in (1, 2, 4, 8) if num <= num_gpus]
    trained = {"pretrain-one": 1, "pretrain-all": num_gpus} | {f"scaling-{num}": num for num in scaled}
    for name, processes in trained.items():
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
    read = findings.gpu_tests("gpu-tests.xml")
    found = read(tmp_path)
    assert found.figures["passed"] == 1
    assert [name.rpartition("::")[2] for name in found.figures["failed"]] == ["test_bad", "test_error"]
    assert [name.rpartition("::")[2] for name in found.figures["skipped"]] == ["test_left_out"]
    assert found.problems[0].startswith("2 of 4 tests failed: ")
    (tmp_path / "gpu-tests.xml").write_text("<testsuites><testsuite/></testsuites>")
    assert read(tmp_path).problems == ["no test ran"]


def test_figures_of_the_kernel_table(tmp_path: Path) -> None:
    entry = {"dim": 128} | asdict(PartialConfiguration(16, 128, 4, 3, 88))
    entry |= {"microseconds": 40.0, "shipped_microseconds": 50.0}
    edges = {"num_programs": 1056}
    write_table(tmp_path / "kernel_table.json", {"queue_infonce": [entry], "flow_edges": [edges]})
    read = findings.kernel_table("kernel_table.json")
    found = read(tmp_path)
    assert found.figures == {"entries": 1, "largest_gain": 1.25, "edges_programs": 1056}
    assert found.text.splitlines()[-1].split()[-4:] == ["40.0", "|", "50.0", "|"]
    write_table(tmp_path / "kernel_table.json", {"queue_infonce": [], "flow_edges": [edges]})
    assert read(tmp_path).problems


@pytest.mark.parametrize("worse", [None, "peak_share", "data_wait_share", "weak_scaling", "speedup_vs_plain"])
def test_limits_of_scaling_were_set_before(tmp_path: Path, worse: str | None) -> None:
    """Two GPUs just within every limit, and just beyond one of them."""
    above = {name: (sign == ">=") != (name == worse) for name, (sign, _) in LIMITS.items()}
    off = {name: 1.0001 if is_above else 0.9999 for name, is_above in above.items()}
    alone = 50.0
    rate = 0.92 * alone * off["weak_scaling"]  # of one of the two
    path = plant(tmp_path / "scaling-2") / "budget.json"
    budget = json.loads(path.read_text()) | {"samples_per_s": 2 * rate}
    budget["flops"]["peak_share"] = 0.3 * off["peak_share"]
    budget["phases"]["data_wait"]["share"] = 0.01 * off["data_wait_share"]
    path.write_text(json.dumps(budget))
    (tmp_path / "scaling-1").mkdir()
    (tmp_path / "scaling-1" / "budget.json").write_text(json.dumps({"samples_per_s": alone}))
    plain_rate = rate / (2 * off["speedup_vs_plain"])
    row = {"name": "plain", "spec": {"batch": 8}, "median": 8e3 / plain_rate}  # milliseconds of a step
    (tmp_path / "bench-step.json").write_text(json.dumps({"rows": [row]}))
    problems = scaling("scaling-2", judge=True)(tmp_path).problems
    assert [problem.split()[0] for problem in problems] == ([worse] if worse else [])
    assert scaling("scaling-2", judge=False)(tmp_path).problems == []
