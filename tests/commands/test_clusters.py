"""The scripts for Slurm and Kubernetes: under real daemons where they are installed, and held to their schema."""

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from modist_fast.watch.ledger import read_ledger
from modist_fast.watch.run_log import read_metrics
from tests.commands.held import held_file
from tests.commands.launching import HANG, REPOSITORY
from tests.commands.nodes import Nodes
from tests.commands.slurm_here import Slurm, missing
from tests.commands.test_nodes import SMALL

SCRIPTS = sorted((REPOSITORY / "launch/slurm").glob("*.sbatch"))
TRAINJOB = REPOSITORY / "launch/kubernetes/trainjob.yaml"


def test_the_ray_cluster_is_one_to_ray() -> None:
    """Against Ray's own schema, which refuses what it does not know."""
    util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray is not installed")
    cluster = yaml.safe_load((REPOSITORY / "launch/ray/cluster.yaml").read_text())
    util.validate_config(util.prepare_config(cluster))
    (command,) = [line for line in cluster["head_start_ray_commands"] if "--head" in line]
    assert "--num-cpus=0" in command
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    with pytest.raises(Exception, match="min_wokers"):
        util.validate_config(util.prepare_config({**cluster, "min_wokers": 1}))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_are_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def stand_in(folder: Path, name: str, code: str) -> None:
    """A command of Slurm that writes its words down."""
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >> {folder}/said\n{code}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def run_script_as_slurm_does(folder: Path, script: str, *words: str, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", str(REPOSITORY / "launch/slurm" / script), *words],
        env={"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "77", **variables},
    )


def said(folder: Path) -> list[str]:
    path = folder / "said"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(("code", "end"), [(143, "requeued"), (0, "finished")])
def test_usr1_saves_and_puts_the_job_back_into_the_queue(code: int, end: str, tmp_path: Path) -> None:
    """Without Slurm, on any machine: its commands are stood in for. A run that was over just then stays over."""
    stand_in(tmp_path, "scontrol", 'if [[ $1 == show ]]; then printf "first\\nsecond\\n"; fi')
    stand_in(tmp_path, "srun", f"while [[ ! -e {tmp_path}/told ]]; do sleep 0.05; done; exit {code}")
    stand_in(tmp_path, "scancel", f"touch {tmp_path}/told")
    nodes = {"SLURM_JOB_NODELIST": "first,second", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    process = run_script_as_slurm_does(tmp_path, "pretrain.sbatch", "--out", "a run", **nodes)
    try:
        deadline = time.monotonic() + HANG
        while not any(line.startswith("srun") for line in said(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(10)  # SIGUSR1
        assert process.wait(timeout=HANG) == 0
    finally:
        process.kill()
    words = said(tmp_path)
    (started,) = (line for line in words if line.startswith("srun"))
    assert "modist --nnodes 2 --nproc-per-node 8 --max-restarts 3" in started
    assert "--rdzv-endpoint first:20077 --rdzv-id 77-0 pretrain --resume auto --out a run" in started
    assert "scancel --signal=TERM 77.0" in words
    assert ("scontrol requeue 77" in words) == (end == "requeued")


def test_an_error_of_the_run_is_the_jobs(tmp_path: Path) -> None:
    stand_in(tmp_path, "modist", "exit 2")
    process = run_script_as_slurm_does(tmp_path, "prepare.sbatch", "VIDEOS", SLURM_ARRAY_TASK_ID="3")
    assert process.wait(timeout=HANG) == 2
    merge = run_script_as_slurm_does(tmp_path, "prepare.sbatch", "VIDEOS", "--merge")
    assert merge.wait(timeout=HANG) == 2
    assert said(tmp_path) == ["modist prepare VIDEOS --shard slurm", "modist prepare VIDEOS --merge"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.fault
@pytest.mark.skipif(bool(missing()), reason=f"Slurm is not installed: {', '.join(missing())} (apt install slurm-wlm)")
def test_slurm_itself_prepares_trains_on_two_nodes_and_requeues(tmp_path: Path, monkeypatch) -> None:
    from modist_fast.demo_videos import make_demo_videos

    videos, store, run = tmp_path / "videos", tmp_path / "store", tmp_path / "run"
    make_demo_videos(videos, num_videos=32, seed=0, workers=2)
    python = os.pathsep.join(filter(None, (str(REPOSITORY), *sys.path)))
    for name, value in {"PYTHONPATH": python, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MODIST", f"{sys.executable} -m modist_fast")
    monkeypatch.setenv("MODIST_PROCESSES", "1")
    with Slurm(tmp_path / "slurm") as slurm:
        words = [videos, "--out", store, "--short-side", 72, "--workers", 1]
        slurm.submit("prepare.sbatch", *words, options=("--array=1-2", "--nodes=1"))
        slurm.wait_for(
            slurm.submit("prepare.sbatch", *words, "--merge", options=("--dependency=singleton",)), "COMPLETED"
        )
        endless = [*SMALL, "--max-steps", 10**6, "--epochs", 10**6, "--checkpoint.every", 10**6]
        job = slurm.submit("pretrain.sbatch", *endless, "--store", store, "--out", run)
        wait_for_steps(run, 3, slurm)
        slurm.ask("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the time runs out
        deadline = time.monotonic() + HANG
        while slurm.state(job).get("Restarts") != "1":
            assert time.monotonic() < deadline, slurm.logs()
            time.sleep(0.2)
        saved = len(read_metrics(run / "metrics.jsonl"))
        assert (run / "checkpoints/latest").read_text().strip() == f"step-{saved:08d}.pt"
        # Slurm lets a job that was put back wait for two minutes.
        slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")
        wait_for_steps(run, saved + 2, slurm)
    begun = read_ledger(run).begun
    assert [(after, attempt.processes) for after, attempt in begun] == [(0, 2), (saved, 2)]


def wait_for_steps(run: Path, steps: int, slurm: Slurm) -> None:
    deadline = time.monotonic() + HANG
    path = run / "metrics.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < steps:
        assert time.monotonic() < deadline, slurm.logs()
        time.sleep(0.1)


def trainjob() -> dict:
    return yaml.safe_load(TRAINJOB.read_text(encoding="utf-8"))


def test_the_trainjob_is_one_of_kubeflow_trainer() -> None:
    """By the models that Kubeflow makes from its API: they drop what they do not know, so nothing may be lost."""
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    found = models.TrainerV1alpha1TrainJob.from_dict(trainjob())
    assert found.to_dict() == trainjob()
    spoiled = trainjob()
    spoiled["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValueError, match="numNodes"):
        models.TrainerV1alpha1TrainJob.from_dict(spoiled)


@pytest.mark.slow
@pytest.mark.long
def test_the_trainjobs_command_runs_as_kubeflow_runs_it(demo_store: Path, tmp_path: Path, monkeypatch) -> None:
    """Two agents get their options as PET_* variables, which is how Kubeflow's torch runtime gives them."""
    trainer, run = trainjob()["spec"]["trainer"], tmp_path / "run"
    assert trainer["command"] == ["torchrun"]
    words = [word.replace("/data/store", str(demo_store)).replace("/data/run", str(run)) for word in trainer["args"]]
    place = words.index("--preset")
    for entry in trainer["env"]:
        monkeypatch.setenv(entry["name"], entry["value"])
    monkeypatch.setenv("PET_MAX_RESTARTS", "1")
    assert words[:3] == ["-m", "modist_fast", "pretrain"]
    with Nodes(tmp_path, [*words[:place], *SMALL, *words[words.index("--store") :]]) as nodes:
        for node in range(2):
            nodes.start(node)
        assert nodes.codes() == [0, 0], nodes.all_said()
    assert len(read_metrics(run / "metrics.jsonl")) == 14
    assert not held_file(run).exists()
