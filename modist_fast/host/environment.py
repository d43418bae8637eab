"""What a run ran on: versions, revision and hardware. No host names and no paths."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "modist-fast",
    "torch",
    "torchvision",
    "triton",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "numpy",
    "pyarrow",
    "av",
    "opencv-python-headless",
    "cupy-cuda13x",
    "cupy-cuda12x",
)


def environment() -> dict[str, Any]:
    """JSON-ready facts about software and hardware; what is absent is left out or None."""
    import torch

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "versions": {name: version for name in PACKAGES if (version := package_version(name)) is not None},
        "git_revision": git_revision(),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's own name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def device_name(device: Any) -> str:
    """Of a torch device: the GPU's, or the processor's with the instructions that torch uses on it."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}"


def git_revision() -> str | None:
    """The checked-out commit of this source tree, with "-dirty" where files differ; None outside its checkout."""
    source = Path(__file__).resolve().parents[2]
    if _git("rev-parse", "--show-toplevel") != str(source):
        return None  # installed somewhere inside another project's checkout, or no checkout at all
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return None
    return done.stdout.strip() or None
