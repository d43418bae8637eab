"""Optical flow between two frames: DIS on the CPU, RAFT with weights at hand, or the flow engine of a GPU."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import cv2
import numpy as np

from modist_pipelines.errors import DataError
from modist_pipelines.motion_inputs import Flow

if TYPE_CHECKING:
    from torch import Tensor  # heavy, and DIS does without

FlowName = Literal["dis", "raft-large", "raft-small", "nvof", "codec"]
EstimatorName = Literal["dis", "raft-large", "raft-small", "nvof"]  # codec looks at no pair of frames
FlowDevice = Literal["auto", "cpu", "cuda"]

# The checkpoints that torchvision ported from the RAFT authors' repository: trained on FlyingChairs, then
# FlyingThings3D. The paper says "Things", and so names RAFT's own checkpoint of that training, "raft-things".
RAFT_WEIGHTS = {
    "raft-large": "Raft_Large_Weights.C_T_V1",
    "raft-small": "Raft_Small_Weights.C_T_V1",
}

_RAFT_MIN_SIDE = 128  # four levels of a correlation pyramid on features at 1/8
RAFT_BATCH = 8


class FlowEstimator(Protocol):
    """Flow of several frame pairs at once."""

    batch_size: int
    """Pairs to collect for one call."""

    def __call__(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> Flow:
        """
        Args:
            firsts, seconds: (H, W, 3) uint8 B, G, R frames, all of one size.

        Returns:
            (N, H, W, 2) float32: where each pixel of the first went in the second, (x, y), in pixels; an array, or a
            tensor on the device that computed it, which may not be there yet, so that the edges can be taken there.
        """
        ...


class DisFlow:
    """OpenCV's Dense Inverse Search (Kroeger et al., ECCV 2016), medium preset. Several threads may call it."""

    batch_size = 1

    def __init__(self) -> None:
        self._own = threading.local()

    def __call__(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> np.ndarray:
        flows = [self._flow(first, second) for first, second in zip(firsts, seconds, strict=True)]
        return np.stack(flows) if len(flows) > 1 else flows[0][None]

    def _flow(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        # OpenCV's object is not without memory: its buffers are those of the frames before, and a frame of
        # fewer than about 50 pixels lowers its finest scale for good. Flow must not depend on what came before.
        own = self._own
        if first.shape != getattr(own, "size", None):
            own.size = first.shape
            own.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            own.finest_scale = own.dis.getFinestScale()
        own.dis.setFinestScale(own.finest_scale)
        # The annotation of `flow` leaves out None, which asks for a new array.
        return own.dis.calc(to_gray(first), to_gray(second), None)  # type: ignore[arg-type]


class RaftFlow:
    """torchvision's RAFT (Teed and Deng, ECCV 2020)."""

    batch_size = RAFT_BATCH

    def __init__(self, name: FlowName, weights: Path, device: FlowDevice = "auto") -> None:
        """
        Args:
            name: "raft-large" or "raft-small".
            weights: a state dict in torchvision's naming.
            device: "auto" takes CUDA where torch sees it.

        Raises:
            DataError: the file is not such a state dict, or `device` is "cuda" and there is none.
        """
        import torch  # heavy, and DIS does without
        from torchvision.models.optical_flow import raft_large, raft_small

        self._device = torch.device("cuda" if uses_gpu(name, device) else "cpu")
        model = {"raft-large": raft_large, "raft-small": raft_small}[name](weights=None)
        try:
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load raises many kinds
            raise DataError(
                f"{weights} does not hold torchvision's weights of {name} ({str(error).splitlines()[0]}). "
                f"Give --raft-weights the file of {RAFT_WEIGHTS[name]}, or use --flow dis."
            ) from error
        self._model = model.eval().to(self._device)

    def __call__(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> "Tensor":
        import torch

        height, width = firsts[0].shape[:2]
        # fp16 as RAFT's authors run it; its flow field and correlation sums stay fp32. A CPU gains nothing by it.
        autocast = torch.autocast(self._device.type, torch.float16, enabled=self._device.type == "cuda")
        with torch.inference_mode(), autocast:
            flow = self._model(self._images(firsts), self._images(seconds))[-1]
        return flow[..., :height, :width].float().permute(0, 2, 3, 1).contiguous()

    def _images(self, frames: Sequence[np.ndarray]):
        """(B, 3, H, W) in [-1, 1], padded at the right and bottom to a size that RAFT takes."""
        import torch
        from torch.nn import functional

        height, width = frames[0].shape[:2]
        pad = [max(_RAFT_MIN_SIDE, -(-side // 8) * 8) - side for side in (width, height)]
        images = torch.from_numpy(np.stack(frames)).to(self._device).flip(-1).permute(0, 3, 1, 2)
        return functional.pad(images.float() / 127.5 - 1, (0, pad[0], 0, pad[1]), mode="replicate")


def nvof_graph(batch_size: int, device_id: int | None):
    """DALI's graph for the hardware's optical flow: pairs (2, H, W, 3) uint8 RGB in, (1, H, W, 2) float32 out.

    Args:
        device_id: CUDA device; None to construct the graph without running it.

    Raises:
        DataError: DALI is not installed.
    """
    from modist_pipelines.dali import import_dali

    fn, pipeline_def, types = import_dali()

    @pipeline_def(batch_size=batch_size, num_threads=1, device_id=device_id, prefetch_queue_depth=1, exec_dynamic=True)
    def graph():
        pairs = fn.external_source(name="pairs", dtype=types.UINT8, ndim=4, layout="FHWC")
        return fn.optical_flow(pairs.gpu(), output_grid=1, preset=0.0, device="gpu")  # the finest; 1.0 is the fastest

    return graph()


class HardwareFlow:
    """The flow engine of NVIDIA GPUs since Turing."""

    batch_size = 16

    def __init__(self, device: FlowDevice = "auto") -> None:
        """
        Raises:
            DataError: torch sees no CUDA device.
        """
        import torch

        from modist_pipelines.clips.handover import Handover

        uses_gpu("nvof", device)
        gpu = torch.device("cuda", torch.cuda.current_device())
        self._handover = Handover(gpu)
        self._graph: Any = nvof_graph(self.batch_size, gpu.index)
        self._graph.build()

    def __call__(self, firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray]) -> "Tensor":
        # The engine says where a pixel of the later frame was in the earlier one (seen on an H200 with DALI 2.4): the
        # other way round, it says where a pixel of the first goes. B, G, R as it comes: it works on luminance.
        pairs = [np.stack((second, first)) for first, second in zip(firsts, seconds, strict=True)]
        with self._handover.stream():
            self._graph.feed_input("pairs", pairs)
            (flow,) = self._graph.run()
            taken = self._handover.take(flow, lambda lent: lent[:, 0].clone())
        return taken.receive()


def uses_gpu(name: FlowName, device: FlowDevice, of_cluster: int | None = None) -> bool:
    """Whether flow is computed on a GPU.

    Args:
        of_cluster: GPUs of the Ray cluster that computes it; by default this machine does.

    Raises:
        DataError: it must be, and there is none.
    """
    if name in ("dis", "codec"):
        return False
    import torch

    if of_cluster is None:
        available, none = torch.cuda.is_available(), "torch sees none here"
    else:
        available, none = of_cluster > 0, "the Ray cluster has none"
    if name == "nvof" and (device == "cpu" or not available):
        raise DataError(
            f"--flow nvof computes optical flow on the engine of an NVIDIA GPU, and {none}. Use --flow dis on a CPU, "
            "or --flow raft-large with weights."
        )
    if device == "cuda" and not available:
        raise DataError(f"--device cuda: it needs a GPU, and {none}. Use --device cpu, or --flow dis.")
    return device != "cpu" and available


def make_flow_estimator(name: EstimatorName, weights: Path | None, device: FlowDevice = "auto") -> FlowEstimator:
    """The estimator of `--flow`, on the current GPU where it runs on one.

    Raises:
        DataError: RAFT without usable weights, or without the device asked for.
    """
    if name == "dis":
        return DisFlow()
    if name == "nvof":
        return HardwareFlow(device)
    return RaftFlow(name, find_raft_weights(name, weights), device)


def find_raft_weights(name: FlowName, given: Path | None) -> Path:
    """The file given, or the checkpoint in torch's hub cache; nothing is downloaded.

    Raises:
        DataError: neither is there; says how to get it.
    """
    import torch
    from torchvision.models import get_weight

    entry = get_weight(RAFT_WEIGHTS[name])
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    path = given or cached
    if not path.is_file():
        raise DataError(
            f"--flow {name} needs weights, and {path} is not there. Download {entry.url} "
            f"(torchvision's {RAFT_WEIGHTS[name]}: ported from the RAFT authors, trained on FlyingChairs and "
            f"FlyingThings3D) to {cached}, or pass its path as --raft-weights; or use --flow dis, which "
            "needs no weights."
        )
    logging.getLogger("modist").info("flow: %s with %s", name, path.name)
    return path


def to_gray(frame: np.ndarray) -> np.ndarray:
    """(H, W) uint8 of a (H, W, 3) uint8 B, G, R frame."""
    return cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
