"""What is installed here, what each absence costs, and the command that cures it: python -m modist_fast doctor

Nothing is imported at the top that may be what is missing.
"""

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from modist_fast.host.environment import package_version

State = Literal["ok", "absent", "wrong"]

REQUIRED_PYTHON = (3, 11)
# FFmpeg's own "av1" needs a GPU to decode; these do it in software.
DECODERS = {"h264": ("h264",), "hevc": ("hevc",), "vp9": ("vp9", "libvpx-vp9"), "mpeg4": ("mpeg4",)}
DECODERS["av1"] = ("libdav1d", "libaom-av1")
APEX_SOURCE = (
    "git clone https://github.com/NVIDIA/apex && APEX_CPP_EXT=1 APEX_CUDA_EXT=1 "
    "pip install -v --no-build-isolation ./apex"
)


@dataclass(frozen=True)
class Check:
    """One thing looked for."""

    name: str
    state: State
    found: str
    required: bool
    """Whether training on a CPU fails without it."""
    cost: str
    """What does not work without it; empty where the state is ok."""
    cure: str
    """A command, or what to change; empty where the state is ok."""


class _Absent(Exception):
    """Not there; the message says what was found in its stead."""


class _Wrong(Exception):
    """There, but not what it should be. `cure` takes the place of the usual one."""

    def __init__(self, found: str, cure: str | None = None) -> None:
        super().__init__(found)
        self.cure = cure


@dataclass(frozen=True)
class _Part:
    name: str
    look: Callable[[], str]
    """Says what was found; raises _Absent, _Wrong, or whatever the import raises."""
    cost: str
    cure: str
    required: bool = False

    def check(self) -> Check:
        state: State = "ok"
        cost, cure = self.cost, self.cure
        try:
            found, cost, cure = self.look(), "", ""
        except _Absent as absence:
            state, found = "absent", str(absence)
        except _Wrong as fault:
            state, found, cure = "wrong", str(fault), fault.cure or cure
        except ModuleNotFoundError as error:
            state, found = "absent", f"no module {error.name}"
        except Exception as error:  # a library that is there and fails, in its own way
            state, found = "wrong", f"{type(error).__name__}: {error}"[:200]
        return Check(self.name, state, found, self.required, cost, cure)


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < REQUIRED_PYTHON:
        raise _Wrong(version)
    return version


def _module(name: str, distribution: str | None = None) -> str:
    importlib.import_module(name)
    return package_version(distribution or name) or "of unknown version"


def _libraries() -> str:
    names = ("numpy", "isal", "rich", "safetensors", "tensorboard", "tyro", "matplotlib", "PIL")
    missing = [name for name in names if not _can_import(name)]
    if missing:
        raise _Absent(f"no module {', '.join(missing)}")
    return ", ".join(names)


def _can_import(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _torch() -> str:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return f"{torch.__version__}, built for: {build}"


def _dali() -> str:
    try:
        dali: Any = importlib.import_module("nvidia.dali")
    except ModuleNotFoundError:
        if package_version("nvidia-dali") is None:
            raise
        raise _Wrong(
            "PyPI's `nvidia-dali`, which is another package",
            "pip uninstall -y nvidia-dali && pip install nvidia-dali-cuda130",
        ) from None
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        pipeline.set_outputs(dali.fn.constant(idata=[3]))
    pipeline.build()
    pipeline.run()
    names = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    installed = [f"{name} {version}" for name in names if (version := package_version(name))]
    return f"{', '.join(installed) or 'of unknown origin'}: {_dali_backends()}"


def _dali_backends() -> str:
    backend: Any = importlib.import_module("nvidia.dali.backend")
    return "cpu, gpu and mixed" if backend.GetCUDADeviceCount() > 0 else "cpu runs, gpu and mixed need a GPU"


def _video_decoders() -> str:
    av: Any = importlib.import_module("av")
    found = [name for name, codecs in DECODERS.items() if any(_has_codec(av, codec, "r") for codec in codecs)]
    missing = [name for name in DECODERS if name not in found]
    if "h264" in missing:
        raise _Wrong(f"PyAV {av.__version__} without {', '.join(missing)}")
    return f"PyAV {av.__version__}: {', '.join(found)}" + (f"; without {', '.join(missing)}" if missing else "")


def _h264_encoder() -> str:
    av: Any = importlib.import_module("av")
    if not _has_codec(av, "libx264", "w"):
        raise _Absent(f"PyAV {av.__version__} without libx264")
    return "libx264"


def _has_codec(av: ModuleType, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True


def _opencv() -> str:
    cv2: Any = importlib.import_module("cv2")
    if not hasattr(cv2, "DISOpticalFlow"):
        raise _Wrong(f"OpenCV {cv2.__version__} without DIS flow")
    return f"OpenCV {cv2.__version__}, DIS flow"


def _bf16() -> str:
    import torch

    from modist_fast.host.precision import resolve_precision

    dtype, reason = resolve_precision("auto", torch.device("cpu"))
    if dtype != torch.bfloat16:
        raise _Absent(reason)
    return reason


def _gloo() -> str:
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        raise _Absent("torch was built without it")
    return "in torch"


def _cuda() -> str:
    import torch

    if torch.version.cuda is None:
        raise _Wrong("this torch is built for CPUs only", "pip install --force-reinstall torch torchvision")
    if not torch.cuda.is_available():
        raise _Absent("torch sees no CUDA device")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def _nccl() -> str:
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_nccl_available():
        raise _Absent("torch was built without it")
    nccl: Any = importlib.import_module("torch.cuda.nccl")
    return ".".join(map(str, nccl.version()))


def _kernels() -> str:
    import torch

    from modist_kernels.dispatch import choose_backend

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return f"{choose_backend('queue_infonce', device, None)} on {device}"


def _nvml() -> str:
    pynvml: Any = importlib.import_module("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _Absent(f"pynvml is there, NVML is not ({error})") from error
    driver = pynvml.nvmlSystemGetDriverVersion()
    pynvml.nvmlShutdown()
    return f"driver {driver}"


def _apex() -> str:
    """Told apart by its files: the unrelated package is not imported."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        raise _Absent("no module apex")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not any((folder / "optimizers" / "fused_sgd.py").is_file() for folder in folders):
        raise _Wrong("PyPI's `apex`, which is another package", f"pip uninstall -y apex && {APEX_SOURCE}")
    if importlib.util.find_spec("amp_C") is None:
        raise _Wrong("NVIDIA apex built without its CUDA extensions")
    return f"NVIDIA apex {package_version('apex') or ''}".strip()


def _cupy() -> str:
    cupy: Any = importlib.import_module("cupy")
    return f"{cupy.__version__}, {cupy.cuda.runtime.getDeviceCount()} devices"


def _torchcodec() -> str:
    from modist_pipelines.video.frames import torchcodec_problem

    found = _module("torchcodec")
    if problem := torchcodec_problem():
        raise _Wrong(f"{found}: {problem}")
    return found


def _raft() -> str:
    importlib.import_module("torchvision")
    from modist_pipelines.errors import DataError
    from modist_pipelines.prepare.flow import RAFT_WEIGHTS, find_raft_weights

    cached = []
    for name in ("raft-large", "raft-small"):
        try:
            cached.append(f"{name} ({find_raft_weights(name, None).name})")
        except DataError:
            continue
    if not cached:
        raise _Absent(f"neither {' nor '.join(RAFT_WEIGHTS)} in torch's hub cache")
    return ", ".join(cached)


_ALL = "python -m pip install -c constraints.txt -e '.[dali,dev]'"

PARTS = (
    _Part("Python", _python, "nothing runs", "install Python 3.11 or newer, then `make install`", True),
    _Part("torch", _torch, "nothing runs", "pip install torch torchvision", True),
    _Part("torchvision", partial(_module, "torchvision"), "no RAFT flow", "pip install torchvision"),
    _Part("DALI", _dali, "no clips: DALI decodes and augments them", "pip install nvidia-dali-cuda130", True),
    _Part("video decoders", _video_decoders, "videos cannot be prepared", "pip install --force-reinstall av", True),
    _Part("H.264 encoder", _h264_encoder, "no demo videos; your own need none", "pip install --force-reinstall av"),
    _Part("OpenCV", _opencv, "no flow and no resizing", "pip install --force-reinstall opencv-python-headless", True),
    _Part("pyarrow", partial(_module, "pyarrow"), "stores cannot be read or written", "pip install pyarrow", True),
    _Part("other libraries", _libraries, "launch scripts do not start", _ALL, True),
    _Part("kernels", _kernels, "the loss and flow edges do not run", "unset MODIST_KERNELS_BACKEND", True),
    _Part("gloo", _gloo, "one process only on a CPU", "pip install --force-reinstall torch"),
    _Part("bf16 on this CPU", _bf16, "training on this CPU computes in fp32", "a CPU with AVX512-BF16 or AMX"),
    _Part("CUDA devices", _cuda, "everything runs on the CPU: enough for the demo", "an NVIDIA GPU and its driver"),
    _Part("Triton", partial(_module, "triton"), "no kernels on GPUs", "pip install triton"),
    _Part("NCCL", _nccl, "one GPU only", "pip install --force-reinstall torch"),
    _Part("NVML", _nvml, "no GPU utilization and memory in reports", "an NVIDIA driver; pip install nvidia-ml-py"),
    _Part("nvtx", partial(_module, "nvtx"), "no named ranges in Nsight Systems", "pip install nvtx"),
    _Part("NVIDIA apex", _apex, "none today: the optimizers are torch's own fused ones", APEX_SOURCE),
    _Part("CuPy", _cupy, "no independent reference in GPU benchmarks", "pip install cupy-cuda13x"),
    _Part(
        "torchcodec",
        _torchcodec,
        "`--source video` on a CPU decodes by PyAV; training from a store needs neither",
        "pip install torchcodec, and FFmpeg's shared libraries (such as apt install ffmpeg)",
    ),
    _Part(
        "RAFT weights",
        _raft,
        "`--flow raft-*` needs --raft-weights; the default, DIS, needs none",
        "python -c \"from torchvision.models import get_weight as w; w('Raft_Large_Weights.C_T_V1').get_state_dict()\"",
    ),
)


def examine() -> list[Check]:
    """Look for everything. Takes seconds: libraries are imported, and DALI runs a graph."""
    return [part.check() for part in PARTS]


def run_doctor(as_json: bool) -> int:
    """Print what was found.

    Returns:
        The exit code: 0 where training on a CPU works, 1 where a part that it needs is missing.
    """
    checks = examine()
    ill = [check.name for check in checks if check.required and check.state != "ok"]
    if as_json:
        print(json.dumps({"works": not ill, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks)
        print(
            f"Training does not run without: {', '.join(ill)}." if ill else "All that training on a CPU needs is here."
        )
    return 1 if ill else 0


def _print_table(checks: list[Check]) -> None:
    """A row a part; below, what each absence costs, with commands on lines of their own, to be copied."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # one of the parts that may be absent
        for check in checks:
            print(f"{check.state:7} {check.name:24} {check.found}")
            if check.state != "ok":
                print(f"        {check.cost}\n        {check.cure}")
        return

    table = Table("part", "state", "found")
    for check in checks:
        colour = "green" if check.state == "ok" else "red" if check.required or check.state == "wrong" else "yellow"
        table.add_row(check.name, Text(check.state, style=colour), Text(check.found))
    Console().print(table)
    for check in checks:
        if check.state != "ok":
            print(f"{check.name} ({check.state}): {check.cost}\n    {check.cure}")
