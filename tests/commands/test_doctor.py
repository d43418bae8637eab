"""The doctor: planted absences, unrelated packages of the same name, exit codes, and a machine without torch."""

import builtins
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from modist_fast.host import doctor
from modist_fast.host.doctor import Check, examine, run_doctor

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_ON_A_CPU = {
    "Python",
    "torch",
    "DALI",
    "video decoders",
    "OpenCV",
    "pyarrow",
    "other libraries",
    "kernels",
}


def look(name: str) -> Check:
    (part,) = (part for part in doctor.PARTS if part.name == name)
    return part.check()


def hide(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)


def plant(monkeypatch: pytest.MonkeyPatch, folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_this_machine_trains_on_its_cpu(capsys):
    assert run_doctor(as_json=True) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    checks = {check["name"]: check for check in report["checks"]}
    assert {name for name, check in checks.items() if check["required"]} == NEEDED_ON_A_CPU
    assert all(checks[name]["state"] == "ok" for name in NEEDED_ON_A_CPU)
    assert metadata.version("torch") in checks["torch"]["found"]
    assert metadata.version("nvidia-dali-cuda130") in checks["DALI"]["found"]
    assert "h264" in checks["video decoders"]["found"]
    for check in checks.values():
        assert check["found"]
        assert (check["cost"] == check["cure"] == "") if check["state"] == "ok" else check["cost"] and check["cure"]


@pytest.mark.parametrize(
    ("name", "module", "cure"),
    [
        ("torchvision", "torchvision", "pip install torchvision"),
        ("DALI", "nvidia.dali", "pip install nvidia-dali-cuda130"),
        ("video decoders", "av", "pip install --force-reinstall av"),
        ("OpenCV", "cv2", "pip install --force-reinstall opencv-python-headless"),
        ("pyarrow", "pyarrow", "pip install pyarrow"),
        ("Triton", "triton", "pip install triton"),
        ("NVML", "pynvml", "nvidia-ml-py"),
        ("nvtx", "nvtx", "pip install nvtx"),
        ("CuPy", "cupy", "pip install cupy-cuda13x"),
        ("other libraries", "tyro", "pip install tyro"),
        ("RAFT weights", "torchvision", "get_weight"),
    ],
)
def test_planted_absence(monkeypatch, name, module, cure):
    hide(monkeypatch, module)
    check = look(name)
    assert check.state == "absent"
    assert module in check.found
    assert check.cost
    assert cure in check.cure


@pytest.mark.parametrize(("module", "code"), [("pyarrow", 1), ("torchvision", 0), ("nvtx", 0)])
def test_exit_code_says_whether_the_cpu_path_works(monkeypatch, capsys, module, code):
    hide(monkeypatch, module)
    assert run_doctor(as_json=False) == code
    printed = capsys.readouterr().out
    assert f"{module} (absent)" in printed
    assert f"\n    pip install {module}\n" in printed  # on a line of its own, to be copied
    assert ("Training does not run without: pyarrow." in printed) == (code == 1)


def test_machine_without_torch():
    """In a process of its own, in which torch cannot be imported at all."""
    script = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['modist_fast', 'doctor', '--json']\n"
        "import runpy\n"
        "runpy.run_module('modist_fast', run_name='__main__')\n"
    )
    paths = [str(REPOSITORY / folder) for folder in ("", "kernels", "pipelines", "profiling")]
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}"],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    report = json.loads(result.stdout)
    states = {check["name"]: (check["state"], check["found"]) for check in report["checks"]}
    assert report["works"] is False
    for name in ("torch", "kernels", "gloo", "bf16 on this CPU", "CUDA devices", "NCCL"):
        state, found = states[name]
        assert state == "absent"
        assert found.startswith("no module torch")
    for name in ("Python", "DALI", "video decoders", "OpenCV", "pyarrow", "Triton"):
        assert states[name][0] == "ok", states[name]


def test_unrelated_apex_is_told_apart_and_not_imported(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, {"apex/__init__.py": "raise SystemExit('imported')\n", "apex/lib/__init__.py": ""})
    check = look("NVIDIA apex")
    assert check.state == "wrong"
    assert "another package" in check.found
    assert check.cure.startswith("pip uninstall -y apex && ")
    assert "NVIDIA/apex" in check.cure


def test_nvidia_apex_with_and_without_its_extensions(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, {"apex/__init__.py": "", "apex/optimizers/fused_sgd.py": ""})
    check = look("NVIDIA apex")
    assert check.state == "wrong"
    assert "without its CUDA extensions" in check.found
    plant(monkeypatch, tmp_path, {"amp_C.py": ""})
    assert look("NVIDIA apex").state == "ok"


def test_unrelated_nvidia_dali(monkeypatch):
    real = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda name: "0.1" if name == "nvidia-dali" else real(name))
    assert look("DALI").state == "ok"  # it may lie beside the real one
    hide(monkeypatch, "nvidia.dali")
    check = look("DALI")
    assert check.state == "wrong"
    assert "another package" in check.found
    assert check.cure == "pip uninstall -y nvidia-dali && pip install nvidia-dali-cuda130"


def test_library_that_fails_to_load(monkeypatch):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torchvision":
            raise OSError("libc10.so: undefined symbol")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    check = look("torchvision")
    assert check.state == "wrong"
    assert check.found == "OSError: libc10.so: undefined symbol"


@pytest.mark.parametrize(
    ("lost", "decoders", "encoder"),
    [({"h264"}, "wrong", "ok"), ({"libx264"}, "ok", "absent"), ({"libdav1d", "libaom-av1"}, "ok", "ok")],
)
def test_codecs(monkeypatch, lost, decoders, encoder):
    real = doctor._has_codec
    monkeypatch.setattr(doctor, "_has_codec", lambda av, name, mode: name not in lost and real(av, name, mode))
    assert look("video decoders").state == decoders
    assert look("H.264 encoder").state == encoder
    assert ("without av1" in look("video decoders").found) == ("libdav1d" in lost)


def test_codec_that_ffmpeg_does_not_have():
    import av

    assert not doctor._has_codec(av, "no_such_codec", "r")


def test_old_python(monkeypatch):
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (9, 0))
    check = look("Python")
    assert check.state == "wrong"
    assert check.required


def test_old_torch(monkeypatch):
    import torch

    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert '"torch>={}.{}"'.format(*doctor.OLDEST_TORCH) in setup
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu126")  # 9 is less than 11
    check = look("torch")
    assert check.state == "wrong"
    assert check.found == "2.9.1+cu126: 2.11 is the oldest supported"
    assert check.cure == "pip install --upgrade torch torchvision"
    monkeypatch.setattr(torch, "__version__", "2.11.0a0+git1")
    assert look("torch").state == "ok"


def test_forced_kernel_backend(monkeypatch):
    monkeypatch.setenv("MODIST_KERNELS_BACKEND", "reference")
    assert look("kernels").found.startswith("reference on ")
    monkeypatch.setenv("MODIST_KERNELS_BACKEND", "cuda")
    check = look("kernels")
    assert check.state == "wrong"
    assert "MODIST_KERNELS_BACKEND=cuda" in check.found


def test_raft_weights_in_the_cache(monkeypatch, tmp_path):
    from torchvision.models import get_weight

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert look("RAFT weights").state == "absent"
    name = Path(get_weight("Raft_Small_Weights.C_T_V1").url).name
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).touch()
    check = look("RAFT weights")
    assert check.state == "ok"
    assert check.found == f"raft-small ({name})"


def test_cpu_without_bf16(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    check = look("bf16 on this CPU")
    assert check.state == "absent"
    assert "fp32" in check.found


def test_torch_built_for_cpus(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    assert look("CUDA devices").state == "wrong"
    assert "CPU only" in look("torch").found
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    assert look("NCCL").state == "absent"


def test_names_are_unique():
    names = [check.name for check in examine()]
    assert len(set(names)) == len(names) == len(doctor.PARTS)


def test_unknown_command():
    result = subprocess.run(
        [sys.executable, "-m", "modist_fast", "surgeon"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "surgeon" in result.stderr
