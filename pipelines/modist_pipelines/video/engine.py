"""Decoding frames of raw videos on the GPU's video engines, by DALI or by torchcodec.

DALI goes through a file from its first frame on; torchcodec enters it at key frames. Which of them is faster was not
compared on a GPU yet; the other one goes once it was.
"""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clips.graph import VideoEngine
from modist_pipelines.clips.handover import Handover, numbered, work_on
from modist_pipelines.dali import import_dali
from modist_pipelines.errors import DataError
from modist_pipelines.video.frames import FrameEngine, torchcodec_problem
from modist_pipelines.video.picture import UPRIGHT, Orientation
from modist_pipelines.video.reader import blamed_on_file

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline


def make_engine(name: VideoEngine, device: torch.device) -> FrameEngine:
    """
    Raises:
        DataError: its library is not installed.
    """
    return TorchcodecEngine(device) if name == "torchcodec" else DaliEngine(device)


def video_graph(device: Literal["cpu", "gpu"], device_id: int | None) -> "Pipeline":
    """The frames "frames" (F,) int32 of the file "encoded", as (1, F, H, W, 3) uint8 RGB.

    Args:
        device: "gpu" decodes on the video engines; "cpu" knows VP8, VP9 and MJPEG alone, and serves tests.
        device_id: CUDA device; None for CPU, or to construct a GPU graph without running it.
    """
    fn, pipeline_def, types = import_dali()

    @pipeline_def(batch_size=1, num_threads=1, device_id=device_id, prefetch_queue_depth=1, exec_dynamic=True)
    def graph() -> Any:
        return fn.decoders.video(
            fn.external_source(name="encoded", dtype=types.UINT8, ndim=1),
            frames=fn.external_source(name="frames", dtype=types.INT32, ndim=1),
            pad_mode="none",  # a frame past the end is an error, not a black picture
            affine=False,
            device="mixed" if device == "gpu" else "cpu",
        )

    return graph()


class DaliEngine:
    """A thin DALI graph, one video a run; each thread that asks has a graph and a stream of its own, so that several
    engines work at once. An error costs a graph: the next file gets a new one."""

    seeks = False

    def __init__(self, device: torch.device) -> None:
        self._device = numbered(device)
        self._local = threading.local()

    def __call__(self, path: Path, frames: Sequence[int], orientation: Orientation = UPRIGHT) -> Tensor:
        graph = getattr(self._local, "graph", None)
        if graph is None:
            work_on(self._device)  # whoever's thread it is: DALI and torch make things on the current device
            graph = video_graph("gpu" if self._device.type == "cuda" else "cpu", self._device.index)
            self._local.handover = Handover(self._device)
            with self._local.handover.stream():
                graph.build()
        self._local.graph = None  # an error leaves a graph unusable
        handover = self._local.handover
        with handover.stream(), blamed_on_file("decode_error", "by the video engine: "):
            graph.feed_input("encoded", [np.fromfile(path, np.uint8)])
            graph.feed_input("frames", [np.asarray(frames, np.int32)])
            (output,) = graph.run()
            turned = handover.take(output, lambda video: _upright(video[0], orientation))
        self._local.graph = graph
        return turned.tensor.contiguous()


class TorchcodecEngine:
    """torchcodec, which knows where the key frames are once it has looked at all packets."""

    seeks = True

    def __init__(self, device: torch.device) -> None:
        if (problem := torchcodec_problem()) is not None:
            raise DataError(
                f"--loader.video-engine torchcodec: it does not load ({problem}). Install it, and FFmpeg's shared "
                "libraries, or take dali."
            )
        self._device = numbered(device)

    def __call__(self, path: Path, frames: Sequence[int], orientation: Orientation = UPRIGHT) -> Tensor:
        from torchcodec.decoders import VideoDecoder

        work_on(self._device)
        with blamed_on_file("decode_error", "by torchcodec: "):
            decoder = VideoDecoder(str(path.absolute()), dimension_order="NHWC", device=str(self._device))
            turned = _upright(decoder.get_frames_at(list(frames)).data, orientation).contiguous()
            if turned.is_cuda:
                torch.cuda.current_stream(self._device).synchronize()
        return turned


def _upright(frames: Tensor, orientation: Orientation) -> Tensor:
    """(F, H, W, 3) turned: a copy, also where nothing is to be turned."""
    turned = frames.transpose(1, 2) if orientation.swaps else frames
    return turned.flip([2] * orientation.mirrors_x + [1] * orientation.mirrors_y)
