"""The builds that `make install` picks, by a fake nvidia-smi; `--device auto` beside a GPU that torch cannot use."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.host.distributed import join_world

REPOSITORY = Path(__file__).resolve().parents[2]
HEADER = "| NVIDIA-SMI 580.95.05    Driver Version: 580.95.05    {} |"


def pick(folder: Path, smi: str | None, **variables: str) -> subprocess.CompletedProcess[str]:
    """What builds.py says where nvidia-smi is this script; None: where there is none."""
    if smi is not None:
        (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (folder / "nvidia-smi").chmod(0o755)
    env = {"PATH": f"{folder}:/usr/bin:/bin" if smi else str(folder), **variables}
    return subprocess.run(
        [sys.executable, "builds.py"], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("smi", "index", "words"),
    [
        (None, "", "-e .[dali,video,onnx,hub,remote,ray,docs,dev]"),
        ("echo no driver; exit 9", "", "-e .[dali,video,onnx,hub,remote,ray,docs,dev]"),
        ("CUDA Version: 13.0", "", "-e .[gpu,dali,video,onnx,hub,remote,ray,docs,dev]"),
        ("CUDA UMD Version: 14.1", "", "-e .[gpu,dali,video,onnx,hub,remote,ray,docs,dev]"),
        (
            "CUDA Version: 12.4",
            "there",
            "--extra-index-url there -e .[dali-cuda120,gpu-cuda12,video,onnx,hub,remote,ray,docs,dev]",
        ),
    ],
)
def test_builds_are_those_of_the_driver(tmp_path: Path, smi: str | None, index: str, words: str) -> None:
    said = pick(tmp_path, f"echo '{HEADER.format(smi)}'" if smi and "CUDA" in smi else smi, TORCH_INDEX=index)
    assert said.returncode == 0, said.stderr
    assert said.stdout.split() == words.split()
    assert ("no driver" in said.stderr) == (smi is not None and "exit" in smi)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("CUDA Version: 12.4", "make install TORCH_INDEX=URL"),
        ("CUDA Version: 11.8", "Update the driver"),
        ("CUDA Version: N/A", "names no CUDA version"),
    ],
)
def test_a_driver_that_nothing_fits_stops_the_install(tmp_path: Path, version: str, words: str) -> None:
    said = pick(tmp_path, f"echo '{HEADER.format(version)}'")
    assert said.returncode == 1
    assert words in said.stderr
    assert said.stdout == ""


def test_make_installs_what_was_picked(tmp_path: Path) -> None:
    """By make's own expansion; nothing is installed. The extras are there."""
    for smi, words in (
        ("CUDA Version: 13.0", "-e .[gpu,dali,video,onnx,hub,remote,ray,docs,dev]"),
        ("CUDA Version: 11.8", None),
    ):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{HEADER.format(smi)}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin/python").write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / "bin/python").chmod(0o755)
        done = subprocess.run(
            ["make", "--file", REPOSITORY / "Makefile", f"BIN={tmp_path / 'bin'}", "install"],
            cwd=_checkout(tmp_path / smi[-4:]),
            env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        if words is None:
            assert done.returncode != 0
            assert "Update the driver" in done.stderr
        else:
            assert done.returncode == 0, done.stderr
            # Under `make test` make says where it is, too.
            assert any(line.endswith(f"-c constraints.txt {words}") for line in done.stdout.splitlines()), done.stdout


def _checkout(folder: Path) -> Path:
    """What `make install` reads, and an environment in place of the one that it would make."""
    folder.mkdir()
    for name in ("builds.py", "setup.py", "constraints.txt"):
        (folder / name).symlink_to(REPOSITORY / name)
    return folder


def nvml(count: int) -> SimpleNamespace:
    return SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlSystemGetDriverVersion=lambda: "550.54",
        nvmlSystemGetCudaDriverVersion=lambda: 12040,
    )


def world_of(device, monkeypatch: pytest.MonkeyPatch, stand_in: object) -> str:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in)
    with join_world(device) as world:
        return world.device.type


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU here")
def test_auto_does_not_pass_over_a_gpu_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match=r"--device auto: NVML sees 2 GPUs, and torch can use none") as error:
        world_of("auto", monkeypatch, nvml(2))
    for words in (f"torch {torch.__version__}", "the driver (550.54) offers CUDA 12.4", "--device cpu"):
        assert words in str(error.value)
    assert world_of("cpu", monkeypatch, nvml(2)) == "cpu"
    assert world_of("auto", monkeypatch, nvml(0)) == "cpu"
    assert world_of("auto", monkeypatch, None) == "cpu"  # it cannot be imported
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    with pytest.raises(ConfigError, match=r"CUDA_VISIBLE_DEVICES is '5'"):
        world_of("auto", monkeypatch, nvml(1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden by whoever set it
    assert world_of("auto", monkeypatch, nvml(1)) == "cpu"
