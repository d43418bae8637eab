"""A model of the data path and the step on GPUs: the rate of each stage, and which of them is the slowest.

It is a model. Nothing in it was measured on a GPU; docs/throughput-model.md shows the arithmetic and what would make
it wrong.
"""

from dataclasses import dataclass

from modist_pipelines.clips.graph import HW_DECODER_LOAD
from modist_pipelines.ranges import COUNT, FROM_ZERO, PART, POSITIVE, SHARE, ranged
from modist_pipelines.resources import decodes_motion_on_host

_FULL_HD = 1920 * 1080
_MAP_PIXELS = 256 * 341


@dataclass(frozen=True)
class Device:
    """Figures of one GPU; `SOURCES` says where each comes from."""

    name: str
    tflops: float
    """Dense bf16 products."""
    memory_gbs: float
    pcie_gbs: float
    """One direction."""
    nvlink_gbs: float
    """One direction; PCIe's where there is no NVLink."""
    video_full_hd: float
    """H.264 frames of 1920x1080 a second, all video engines together."""
    jpeg_full_hd: float
    """4:2:0 JPEGs of 1920x1080 a second, all JPEG engines together."""


DEVICES = (
    Device("H100 SXM", 989.0, 3350.0, 64.0, 450.0, 170 * 30.0, 6350.0),
    Device("A100 SXM 80 GB", 312.0, 2039.0, 32.0, 300.0, 75 * 30.0, 2950.0),
    # Three video and four JPEG engines, each taken to be as fast as one of the H100's seven.
    Device("L40S", 362.0, 864.0, 32.0, 32.0, 170 * 30.0 * 3 / 7, 6350.0 * 4 / 7),
)

SOURCES = {
    "tflops, memory_gbs, pcie_gbs, nvlink_gbs": "NVIDIA's data sheets of H100, A100 and L40S: dense figures; half of "
    "the two-way rates of PCIe (5, 4, 4) and NVLink",
    "video_full_hd, jpeg_full_hd": "NVIDIA H100 Tensor Core GPU Architecture (white paper), tables of NVDEC (1080p30 "
    "streams of H.264: H100 170, A100 75) and NVJPG (1080p 4:2:0 a second: 6350 and 2950)",
    "L40S engines": "numbers of engines from its data sheet; their speed is an assumption: that of the H100's",
}


@dataclass(frozen=True)
class Assumptions:
    """What no data sheet says."""

    compute_share: float = ranged(0.35, PART)
    """Of the peak, reached by 3D convolutions and everything around them."""
    small_frame_share: float = ranged(0.5, PART)
    """Of the engines' pixel rate, reached on frames far below full HD."""
    hw_decoder_load: float = ranged(HW_DECODER_LOAD, SHARE)
    """Share of a GPU's JPEGs that the engines decode: the trainer's --loader.hw-decoder-load."""
    other_jpeg_full_hd: float = ranged(1600.0, POSITIVE)
    """4:2:0 JPEGs of 1920x1080 a second of a GPU's host threads and cores, which decode the rest. Made up: with it
    DALI's default share is the best one for the engines of an A100."""
    host_cores: int = ranged(14, FROM_ZERO)
    """Of a GPU, to decode motion maps beside it: 112 cores for eight. Below 8 the GPU decodes these too, as the
    trainer's --loader.motion-decoding has it by itself."""
    host_maps_per_core: float = ranged(3400.0, POSITIVE)
    """Motion maps of 256x341 a second, 24 KB each: measured, see docs/throughput-model.md."""
    pcie_share: float = ranged(0.8, PART)
    """Of the data sheet's rate, reached by copies."""
    host_us_per_frame: float = ranged(15.0, POSITIVE)
    """modist bench host measures it. Python runs it on one core at a time."""
    augment_passes: float = ranged(8.0, POSITIVE)
    """Times that the clips' float32 bytes cross the GPU's memory: resize, blur in two passes, colour, copy."""
    raw_amplification: float = ranged(4.6, POSITIVE)
    """Frames decoded for one used, from raw video: modist bench pipeline, key frames 250 apart."""
    network_gbs: float = ranged(50.0, POSITIVE)
    """Between nodes, one direction, for each GPU: 400 Gb/s."""
    gpus_per_node: int = ranged(8, COUNT)
    """Beyond these, messages go by the network."""


@dataclass(frozen=True)
class Workload:
    """One sample: what is read, decoded and computed for it."""

    name: str
    crop_size: int
    frame_pixels: float
    """Of a stored frame, or of a raw one."""
    frame_bytes: float
    """Mean JPEG; for raw video the bytes of the file over the frames used."""
    flops: float
    """Of a training step, for each sample."""
    rgb_frames: int = 16
    motion_frames: int = 32

    @property
    def frames(self) -> int:
        return self.rgb_frames + self.motion_frames

    @property
    def clip_bytes(self) -> float:
        """float32 clips of a sample."""
        return 4.0 * self.crop_size**2 * (3 * self.rgb_frames + self.motion_frames)


def stage_rates(device: Device, work: Workload, source: str, assumed: Assumptions) -> dict[str, float]:
    """Samples a second that each stage of one GPU could do by itself.

    Args:
        source: "store" or "raw".

    Returns:
        By stage; those that have nothing to do are left out.
    """
    on_host = source == "store" and decodes_motion_on_host("auto", assumed.host_cores)
    if source == "store":
        share = assumed.hw_decoder_load  # both decode side by side, and a run is over when the later one is
        engine = 1 / max(share / device.jpeg_full_hd, (1 - share) / assumed.other_jpeg_full_hd)
        decoded = work.rgb_frames if on_host else work.frames
    else:
        engine, decoded = device.video_full_hd, work.frames * assumed.raw_amplification
    maps_per_s = assumed.host_cores * assumed.host_maps_per_core * _MAP_PIXELS / work.frame_pixels
    frames_per_s = engine * _FULL_HD / work.frame_pixels * assumed.small_frame_share
    return {
        "decoders": frames_per_s / decoded,
        **({"host's decoders": maps_per_s / work.motion_frames} if on_host else {}),
        "PCIe": device.pcie_gbs * 1e9 * assumed.pcie_share / (work.frames * work.frame_bytes),
        "host": 1e6 / (assumed.host_us_per_frame * work.frames),
        "augmentation": device.memory_gbs * 1e9 / (assumed.augment_passes * work.clip_bytes),
        "compute": device.tflops * 1e12 * assumed.compute_share / work.flops,
    }


def bottleneck(rates: dict[str, float]) -> tuple[str, float]:
    """The slowest stage and its samples a second; the stages work side by side."""
    stage = min(rates, key=rates.__getitem__)
    return stage, rates[stage]


@dataclass(frozen=True)
class Link:
    """How a process reaches the others."""

    bytes_per_s: float
    """That a process sends, while it receives as many."""
    latency: float = 0.0
    """Seconds of a message, however small."""

    def seconds(self, num_bytes: float, messages: int = 1) -> float:
        """Of messages sent one after another, `num_bytes` together."""
        return messages * self.latency + num_bytes / self.bytes_per_s


@dataclass(frozen=True)
class ParallelStep:
    """A step of data-parallel training, its parts one after another; all in seconds."""

    compute: float
    gather: float
    reduce: float

    @property
    def seconds(self) -> float:
        return self.compute + self.gather + self.reduce


def ring_bytes(num_bytes: float, num_processes: int) -> float:
    """What a process sends, and receives, in a ring all_reduce of `num_bytes`."""
    return 2 * num_bytes * (num_processes - 1) / num_processes


def parallel_step(
    compute: float,
    num_processes: int,
    *,
    key_bytes: float,
    gradient_bytes: float,
    gather: Link,
    reduce: Link,
    small_messages: int = 0,
    buckets: int = 1,
) -> ParallelStep:
    """Compute, an all_gather of keys and an all_reduce of gradients, none hidden behind another.

    Args:
        compute: seconds that a process computes by itself.
        key_bytes: that a process computes, and sends to each other one.
        gradient_bytes: of the nets that learn.
        small_messages: besides keys and gradients (video ids, figures): a latency each, their bytes are nothing.
        buckets: messages that carry the gradients.
    """
    if num_processes == 1:
        return ParallelStep(compute, 0.0, 0.0)
    return ParallelStep(
        compute,
        gather.seconds(key_bytes * (num_processes - 1), 1 + small_messages),
        reduce.seconds(ring_bytes(gradient_bytes, num_processes), buckets),
    )


@dataclass(frozen=True)
class Scale:
    """Many GPUs at a given rate of each."""

    num_gpus: int
    samples_per_s: float
    storage_gbs: float
    """Read from the store or the videos, all nodes together."""
    key_bytes: float
    """That a GPU receives a step: keys of the others."""
    gradient_bytes: float
    """That a GPU sends a step, and receives: a ring all_reduce."""
    gather_ms: float
    reduce_ms: float
    step_ms: float
    efficiency: float
    """Rate over that of as many single GPUs, none of the messages hidden behind the backward pass."""


def scale(
    device: Device,
    work: Workload,
    rate: float,
    num_gpus: int,
    assumed: Assumptions,
    *,
    local_batch: int,
    num_parameters: float,
    dim: int = 128,
) -> Scale:
    """Step time and traffic of data-parallel training.

    Args:
        rate: samples a second of one GPU by itself.
        local_batch: samples of a GPU and step.
        num_parameters: of the nets that learn; their float32 gradients travel.
        dim: numbers of a key; two keys (visual, motion) of float32 a sample travel.
    """
    keys, gradients = 4.0 * 2 * dim * local_batch, 4.0 * num_parameters
    link_gbs = device.nvlink_gbs if num_gpus <= assumed.gpus_per_node else min(device.nvlink_gbs, assumed.network_gbs)
    link = Link(link_gbs * 1e9)
    alone = local_batch / rate
    step = parallel_step(alone, num_gpus, key_bytes=keys, gradient_bytes=gradients, gather=link, reduce=link)
    total = num_gpus * local_batch / step.seconds
    return Scale(
        num_gpus,
        total,
        total * work.frames * work.frame_bytes / 1e9,
        keys * (num_gpus - 1),
        ring_bytes(gradients, num_gpus),
        1e3 * step.gather,
        1e3 * step.reduce,
        1e3 * step.seconds,
        alone / step.seconds,
    )
