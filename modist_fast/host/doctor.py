"""What is installed here, what each absence costs, and the command that cures it: modist doctor

Nothing is imported at the top that may be what is missing.
"""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from modist_fast.host.environment import package_version

State = Literal["ok", "absent", "wrong"]

OLDEST_PYTHON = (3, 11)
OLDEST_TORCH = (2, 11)
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


class _Fault(Exception):
    """A part is absent or wrong: what was found in its stead, and a cure in place of the usual one."""

    def __init__(self, state: State, found: str, cure: str = "") -> None:
        super().__init__(found)
        self.state: State = state
        self.cure = cure


def _need(condition: object, state: State, otherwise: str, cure: str = "") -> None:
    if not condition:
        raise _Fault(state, otherwise, cure)


class _Part(NamedTuple):
    name: str
    look: Callable[[], str]
    """Says what was found; raises _Fault, or whatever the import raises."""
    cost: str
    cure: str
    required: bool = False

    def check(self) -> Check:
        state: State = "wrong"
        try:
            return Check(self.name, "ok", self.look(), self.required, "", "")
        except _Fault as fault:
            state, found, cure = fault.state, str(fault), fault.cure or self.cure
        except ModuleNotFoundError as error:
            state, found, cure = "absent", f"no module {error.name}", self.cure
        except Exception as error:  # a library that is there and fails, in its own way
            found, cure = f"{type(error).__name__}: {error}"[:200], self.cure
        return Check(self.name, state, found, self.required, self.cost, cure)


def _import(name: str) -> Any:
    return importlib.import_module(name)


def _module(name: str) -> str:
    _import(name)
    return package_version(name) or "of unknown version"


def _python() -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    _need(sys.version_info[:2] >= OLDEST_PYTHON, "wrong", version)
    return version


def _torch() -> str:
    torch = _import("torch")
    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    oldest = "{}.{} is the oldest supported".format(*OLDEST_TORCH)
    _need(version >= OLDEST_TORCH, "wrong", f"{torch.__version__}: {oldest}", "pip install --upgrade torch torchvision")
    return f"{torch.__version__}, built for: {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU only'}"


def _libraries() -> str:
    names = ("numpy", "isal", "rich", "safetensors", "tensorboard", "tyro", "tqdm", "psutil", "matplotlib", "PIL")
    missing = []
    for name in names:
        try:
            _import(name)
        except ImportError:
            missing.append(name)
    cure = f"pip install {' '.join(missing)}".replace("PIL", "pillow")
    _need(not missing, "absent", f"no module {', '.join(missing)}", cure)
    return ", ".join(names)


def _dali() -> str:
    try:
        dali = _import("nvidia.dali")
    except ModuleNotFoundError:
        cure = "pip uninstall -y nvidia-dali && pip install nvidia-dali-cuda130"
        _need(not package_version("nvidia-dali"), "wrong", "PyPI's `nvidia-dali`, which is another package", cure)
        _need(sys.platform == "linux", "absent", f"none is built for {sys.platform}", "Linux, or a container of it")
        raise
    with dali.Pipeline(batch_size=1, num_threads=1, device_id=None) as pipeline:
        pipeline.set_outputs(dali.fn.constant(idata=[3]))
    pipeline.build()
    pipeline.run()
    names = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")
    installed = [f"{name} {version}" for name in names if (version := package_version(name))]
    gpu = _import("nvidia.dali.backend").GetCUDADeviceCount() > 0
    runs = "cpu, gpu and mixed" if gpu else "cpu runs, gpu and mixed need a GPU"
    return f"{', '.join(installed) or 'of unknown origin'}: {runs}"


def _video_decoders() -> str:
    av = _import("av")
    found = [name for name, codecs in DECODERS.items() if any(_has_codec(av, codec, "r") for codec in codecs)]
    missing = ", ".join(name for name in DECODERS if name not in found)
    _need("h264" in found, "wrong", f"PyAV {av.__version__} without {missing}")
    return f"PyAV {av.__version__}: {', '.join(found)}" + (f"; without {missing}" if missing else "")


def _h264_encoder() -> str:
    av = _import("av")
    _need(_has_codec(av, "libx264", "w"), "absent", f"PyAV {av.__version__} without libx264")
    return "libx264"


def _has_codec(av: Any, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True


def _opencv() -> str:
    cv2 = _import("cv2")
    _need(hasattr(cv2, "DISOpticalFlow"), "wrong", f"OpenCV {cv2.__version__} without DIS flow")
    return f"OpenCV {cv2.__version__}, DIS flow"


def _bf16() -> str:
    torch = _import("torch")
    dtype, reason = _import("modist_fast.host.precision").resolve_precision("auto", torch.device("cpu"))
    _need(dtype == torch.bfloat16, "absent", reason)
    return reason


def _collectives(name: str) -> str:
    dist = _import("torch.distributed")
    there = dist.is_available() and getattr(dist, f"is_{name}_available")()
    _need(there, "absent", "torch was built without it")
    return "in torch" if name == "gloo" else ".".join(map(str, _import("torch.cuda.nccl").version()))


def _cuda() -> str:
    torch = _import("torch")
    cure = "pip install --force-reinstall torch torchvision"
    _need(torch.version.cuda is not None, "wrong", "this torch is built for CPUs only", cure)
    _need(torch.cuda.is_available(), "absent", "torch sees no CUDA device")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} × {name}" for name in dict.fromkeys(names))


def _kernels() -> str:
    torch = _import("torch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backend = _import("modist_kernels.dispatch").choose_backend("queue_infonce", device, None)
    return f"{backend} on {device}"


def _nvml() -> str:
    pynvml = _import("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _Fault("absent", f"pynvml is there, NVML is not ({error})") from error
    driver = pynvml.nvmlSystemGetDriverVersion()
    pynvml.nvmlShutdown()
    return f"driver {driver}"


def _apex() -> str:
    """Told apart by its files: the unrelated package is not imported."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        raise _Fault("absent", "no module apex")
    ours = any((Path(folder) / "optimizers/fused_sgd.py").is_file() for folder in spec.submodule_search_locations or ())
    _need(ours, "wrong", "PyPI's `apex`, which is another package", f"pip uninstall -y apex && {APEX_SOURCE}")
    _need(importlib.util.find_spec("amp_C"), "wrong", "NVIDIA apex built without its CUDA extensions")
    return f"NVIDIA apex {package_version('apex') or ''}".strip()


def _cupy() -> str:
    cupy = _import("cupy")
    return f"{cupy.__version__}, {cupy.cuda.runtime.getDeviceCount()} devices"


def _torchcodec() -> str:
    found = _module("torchcodec")
    problem = _import("modist_pipelines.video.frames").torchcodec_problem()
    _need(not problem, "wrong", f"{found}: {problem}")
    return found


def _ray() -> str:
    missing = _import("modist_pipelines.prepare.on_ray.cluster").missing()
    _need(not missing, "absent", f"no module {', '.join(missing)}")
    return package_version("ray") or "of unknown version"


def _raft() -> str:
    _import("torchvision")
    flow = _import("modist_pipelines.prepare.flow")
    cached = []
    for name in ("raft-large", "raft-small"):
        try:
            cached.append(f"{name} ({flow.find_raft_weights(name, None).name})")
        except _import("modist_pipelines.errors").DataError:
            continue
    _need(cached, "absent", f"neither {' nor '.join(flow.RAFT_WEIGHTS)} in torch's hub cache")
    return ", ".join(cached)


_TORCHCODEC = "pip install torchcodec, and FFmpeg's shared libraries (such as apt install ffmpeg)"
_RAFT = "python -c \"from torchvision.models import get_weight as w; w('Raft_Large_Weights.C_T_V1').get_state_dict()\""

PARTS = (
    _Part("Python", _python, "nothing runs", "install Python 3.11 or newer, then `make install`", True),
    _Part("torch", _torch, "nothing runs", "pip install torch torchvision", True),
    _Part("torchvision", partial(_module, "torchvision"), "no RAFT flow", "pip install torchvision"),
    _Part("DALI", _dali, "no clips: DALI decodes and augments them", "pip install nvidia-dali-cuda130", True),
    _Part("video decoders", _video_decoders, "videos cannot be prepared", "pip install --force-reinstall av", True),
    _Part("H.264 encoder", _h264_encoder, "no demo videos; your own need none", "pip install --force-reinstall av"),
    _Part("OpenCV", _opencv, "no flow and no resizing", "pip install --force-reinstall opencv-python-headless", True),
    _Part("pyarrow", partial(_module, "pyarrow"), "stores cannot be read or written", "pip install pyarrow", True),
    _Part("other libraries", _libraries, "the commands do not start", "", True),
    _Part("kernels", _kernels, "the loss and flow edges do not run", "unset MODIST_KERNELS_BACKEND", True),
    _Part("gloo", partial(_collectives, "gloo"), "one process only on a CPU", "pip install --force-reinstall torch"),
    _Part("bf16 on this CPU", _bf16, "training on this CPU computes in fp32", "a CPU with AVX512-BF16 or AMX"),
    _Part("CUDA devices", _cuda, "everything runs on the CPU: enough for the demo", "an NVIDIA GPU and its driver"),
    _Part("Triton", partial(_module, "triton"), "no kernels on GPUs", "pip install triton"),
    _Part("NCCL", partial(_collectives, "nccl"), "one GPU only", "pip install --force-reinstall torch"),
    _Part("NVML", _nvml, "no GPU utilization and memory in reports", "an NVIDIA driver; pip install nvidia-ml-py"),
    _Part("nvtx", partial(_module, "nvtx"), "no named ranges in Nsight Systems", "pip install nvtx"),
    _Part(
        "NVIDIA apex",
        _apex,
        "no `--optim.implementation apex`; torch's own fused SGD is the default",
        APEX_SOURCE,
    ),
    _Part("CuPy", _cupy, "no independent reference in GPU benchmarks", "pip install cupy-cuda13x"),
    _Part("torchcodec", _torchcodec, "`--source video` on a CPU decodes by PyAV; a store needs neither", _TORCHCODEC),
    _Part("wandb", partial(_module, "wandb"), "no `--track wandb`; TensorBoard needs neither", "pip install wandb"),
    _Part("mlflow", partial(_module, "mlflow"), "no `--track mlflow`; TensorBoard needs neither", "pip install mlflow"),
    _Part("Ray", _ray, "no `prepare --engine ray`; --shard I/N needs nothing", "pip install 'ray[data]'"),
    _Part("RAFT weights", _raft, "`--flow raft-*` needs --raft-weights; the default, DIS, needs none", _RAFT),
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
        for check in checks:
            print(f"{check.state:7} {check.name:18} {check.found}")
        for check in checks:
            if check.state != "ok":  # commands on lines of their own, to be copied
                print(f"{check.name} ({check.state}): {check.cost}\n    {check.cure}")
        print(
            f"Training does not run without: {', '.join(ill)}." if ill else "All that training on a CPU needs is here."
        )
    return 1 if ill else 0
