"""The two backends: one DALI graph on a GPU; on a CPU, DALI decodes the crops and OpenCV does the rest."""

import weakref
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from modist_pipelines.clips.decoder import ClipDecoder, JpegRows, feed_and_run
from modist_pipelines.clips.graph import HW_DECODER_LOAD, Kind, clip_graph, decode_graph, graph_inputs
from modist_pipelines.clips.handover import Handed, Handover, numbered
from modist_pipelines.plan import ClipPlan, PlanConfig


def build_decoders(
    kinds: Iterable[Kind],
    config: PlanConfig,
    pixels: Literal["jpeg", "rgb"],
    *,
    num_clips: int,
    num_threads: int,
    device: torch.device,
    hw_decoder_load: float = HW_DECODER_LOAD,
    host_kinds: Collection[Kind] = (),
) -> dict[Kind, ClipDecoder]:
    """The decoder of each kind for a device.

    Args:
        num_clips: most clips of a kind at a time.
        num_threads: threads of the host.
        hw_decoder_load: of a GPU: see `clip_graph`.
        host_kinds: of a GPU: those whose JPEGs the host's threads decode.
    """
    options: dict[str, Any] = {"num_clips": num_clips, "num_threads": num_threads}
    if device.type != "cuda":
        return {kind: CpuDecoder(kind, config, pixels, **options) for kind in kinds}
    options |= {"device": device, "hw_decoder_load": hw_decoder_load}
    return {kind: GpuDecoder(kind, config, pixels, decode_on_host=kind in host_kinds, **options) for kind in kinds}


class GpuDecoder(ClipDecoder):
    """The whole graph; a thin wrapper, since only a GPU runs it."""

    def __init__(
        self,
        kind: Kind,
        config: PlanConfig,
        pixels: Literal["jpeg", "rgb"],
        *,
        num_clips: int,
        num_threads: int,
        device: torch.device,
        hw_decoder_load: float = HW_DECODER_LOAD,
        decode_on_host: bool = False,
    ) -> None:
        super().__init__(kind, config, pixels)
        self._device = device = numbered(device)
        self._rows, self._handover = JpegRows(), Handover(device)
        self.graph: Any = clip_graph(
            kind,
            crop_size=config.crop_size,
            crop_width=config.crop_width,
            device="gpu" if device.type == "cuda" else "cpu",
            batch_size=num_clips * self.num_frames * self.num_parts,
            num_threads=num_threads,
            device_id=device.index,
            pixels=pixels,
            hw_decoder_load=hw_decoder_load,
            decode_on_host=decode_on_host,
        )
        self.graph.build()

    def run(self, frames: Sequence[np.ndarray | Tensor], plans: Sequence[ClipPlan]) -> Handed:
        placed: Any
        inputs = graph_inputs(self.kind, plans, self.config.augmentation, self.pixels, self.motion)
        with self._handover.stream():  # on which the graph reads frames that lie on the device
            if self.pixels == "jpeg":
                placed = self._rows(frames)  # pyright: ignore[reportArgumentType]
            elif self._device.type == "cuda":  # where frames that an engine decoded lie already
                placed = [torch.as_tensor(frame).to(self._device, non_blocking=True) for frame in frames]
            else:
                placed = list(frames)
            join = self._join if self.num_parts > 1 else None
            return self._handover.take(feed_and_run(self.graph, {"frame": placed, **inputs}), join)

    def _join(self, maps: Tensor) -> Tensor:
        """(frames * C, S, S, 1) to (frames, S, S, C), in memory of its own."""
        return torch.stack(maps.squeeze(-1).unflatten(0, (-1, self.num_parts)).unbind(1), dim=-1)


class CpuDecoder(ClipDecoder):
    """Decoding by DALI, augmentation by OpenCV, a task a clip."""

    def __init__(
        self,
        kind: Kind,
        config: PlanConfig,
        pixels: Literal["jpeg", "rgb"],
        *,
        num_clips: int,
        num_threads: int,
    ) -> None:
        import cv2  # here and not above: on a GPU, clips need none, and steps are made without it

        from modist_pipelines.clips.augment import augment_frame, augment_map

        super().__init__(kind, config, pixels)
        self._augment_frame, self._augment_map = augment_frame, augment_map
        self._rows, self._pool = JpegRows(), ArrayPool()
        if pixels == "jpeg":
            self._graph: Any = decode_graph(
                kind, batch_size=num_clips * self.num_frames * self.num_parts, num_threads=num_threads
            )
            self._graph.build()
        cv2.setNumThreads(1)  # the threads are these
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="augment")

    def run(self, frames: Sequence[np.ndarray], plans: Sequence[ClipPlan]) -> Handed:
        crops, parts = self._crops(frames, plans), self.num_parts
        out = self._pool.take((len(frames) // parts, *self.config.shape, self.num_channels))

        def augment(clip: int) -> None:
            for frame in range(clip * self.num_frames, (clip + 1) * self.num_frames):
                if self.motion is not None:
                    channels = crops[frame * parts : (frame + 1) * parts]
                    self._augment_map(channels, plans[clip], self.motion, out[frame])
                else:
                    self._augment_frame(crops[frame], plans[clip], self.config.augmentation, out[frame])

        list(self._threads.map(augment, range(len(plans))))
        return Handed(torch.from_numpy(out))

    def close(self) -> None:
        self._threads.shutdown()

    def _crops(self, frames: Sequence[np.ndarray], plans: Sequence[ClipPlan]) -> list[np.ndarray]:
        """(h, w, C) uint8 of each frame, cut to its clip's crop."""
        if self.pixels == "jpeg":
            inputs = graph_inputs(self.kind, plans, self.config.augmentation, motion=self.motion)
            asked = {"frame": self._rows(frames), **{name: inputs[name] for name in ("crop_start", "crop_shape")}}
            output = feed_and_run(self._graph, asked)
            return [np.asarray(output[index]) for index in range(len(frames))]
        boxes = [tuple(map(int, plan.crop)) for plan in plans for _ in range(self.num_frames * self.num_parts)]
        return [frame[y : y + h, x : x + w] for frame, (y, x, h, w) in zip(frames, boxes, strict=True)]


class ArrayPool:
    """Arrays that are used again once nobody holds them: fresh memory costs as much as a small augmentation."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A float32 array. Its memory comes back when this very object is gone; a tensor made of it holds on to it."""
        size = int(np.prod(shape))
        # Others only append, so a place stays what it is.
        place = next((place for place, array in enumerate(self._free) if array.size == size), None)
        memory = np.empty(size, np.float32) if place is None else self._free.pop(place)
        lent = memory.reshape(shape)
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent
