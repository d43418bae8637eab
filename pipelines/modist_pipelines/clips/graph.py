"""The DALI graphs that turn JPEG frames into clips. A frame is a DALI sample; every random number is an input.

So a graph has no state, and the CPU and the GPU run the same one: `device` only says where the decoder leaves its
pixels.

The visual graph decodes the crop alone, resizes and flips it, blurs it, then applies one affine map to the
colours: brightness, contrast, saturation, gray and the normalization in a single 3 × 4 matrix (`color_transforms`).
The paper's order is flip, colour, gray, blur. Blur acts on space with weights that sum to 1, the map acts on
channels, so the two commute.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modist_pipelines.dali import import_dali
from modist_pipelines.motion_inputs import DEFAULT, MotionInput, find_motion_input
from modist_pipelines.plan import Augmentation, ClipPlan

if TYPE_CHECKING:
    from nvidia.dali.pipeline import Pipeline

Kind = Literal["visual", "motion"]
VideoEngine = Literal["dali", "torchcodec"]
"""Who decodes raw videos on a GPU: see `video.engine`."""
MotionDecoding = Literal["auto", "gpu", "host"]
"""Whose work the JPEGs of motion maps are where a GPU makes the clips; auto: `resources.decodes_motion_on_host`."""
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as torchvision's rgb_to_grayscale
HW_DECODER_LOAD = 0.65  # DALI's own default
_BLUR_REACH = 3.0  # standard deviations on either side: 99.7 % of the Gaussian


def clip_graph(
    kind: Kind,
    *,
    crop_size: int,
    device: Literal["cpu", "gpu"],
    batch_size: int,
    num_threads: int,
    device_id: int | None,
    pixels: Literal["jpeg", "rgb"] = "jpeg",
    hw_decoder_load: float = HW_DECODER_LOAD,
    decode_on_host: bool = False,
    crop_width: int | None = None,
) -> "Pipeline":
    """The graph for one kind of clip.

    Args:
        kind: "visual" decodes RGB, "motion" one-channel maps.
        crop_size: pixels of the square output.
        device: where frames are resized, blurred and mapped, and decoded too unless `decode_on_host`.
        batch_size: frames a run.
        device_id: CUDA device; None for CPU, or to construct a GPU graph without running it.
        pixels: what comes in as "frame": JPEGs, or decoded (H, W, C) frames that lie on the device.
        hw_decoder_load: share of the JPEGs, in [0, 1], that a GPU's JPEG engines decode; a CPU has none.
        decode_on_host: of a GPU's graph: the host's threads decode the JPEGs, as a CPU's graph does.
        crop_width: pixels of the width where the output is no square.

    Returns:
        A pipeline with the inputs that `graph_inputs` makes. Its output is (batch_size, crop_size, crop_size, C)
        float32, channels last: RGB normalized, or one channel of a motion map as a share of its full scale.

    Raises:
        DataError: DALI is not installed.
    """
    fn, pipeline_def, types = import_dali()

    def source(name: str, dtype: Any, ndim: int) -> Any:
        # On a CPU a run is over when it returns, so whoever feeds it need only keep the arrays until then.
        return fn.external_source(name=name, dtype=dtype, ndim=ndim, no_copy=device == "cpu")

    @pipeline_def(
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=device_id,
        prefetch_queue_depth=1,  # the loader runs ahead itself
        exec_dynamic=True,  # the outputs own their memory, so that torch may keep them
    )
    def graph() -> Any:
        if pixels == "jpeg":
            on_host = device == "cpu" or decode_on_host
            frames = _decode_crop(fn, types, source, kind, _ON_CPU if on_host else _on_gpu(hw_decoder_load))
            if device == "gpu" and on_host:
                frames = frames.gpu()
        else:
            frames = fn.external_source(
                name="frame", dtype=types.UINT8, ndim=3, layout="HWC", device=device, no_copy=device == "cpu"
            )
        frames = fn.resize(
            frames,
            size=[crop_size, crop_width or crop_size],
            # A region whose end comes before its start is mirrored: the flip costs nothing.
            roi_start=source("region_start", types.FLOAT, 1),
            roi_end=source("region_end", types.FLOAT, 1),
            interp_type=types.INTERP_LINEAR,
            antialias=False,  # plain bilinear, as the authors' code samples it
            dtype=types.FLOAT,  # on a CPU the blur is three times faster than on bytes
        )
        if kind == "visual":
            frames = fn.gaussian_blur(
                frames, sigma=source("blur_sigma", types.FLOAT, 0), window_size=source("blur_window", types.INT32, 0)
            )
        matrix, offset = source("matrix", types.FLOAT, 2), source("offset", types.FLOAT, 1)
        return fn.coord_transform(frames, M=matrix, T=offset, dtype=types.FLOAT)

    return graph()


def decode_graph(kind: Kind, *, batch_size: int, num_threads: int) -> "Pipeline":
    """The first part of the CPU's `clip_graph` alone: JPEGs in, the crops that `graph_inputs` names out, as uint8."""
    fn, pipeline_def, types = import_dali()

    def source(name: str, dtype: Any, ndim: int) -> Any:
        return fn.external_source(name=name, dtype=dtype, ndim=ndim, no_copy=True)

    @pipeline_def(
        batch_size=batch_size, num_threads=num_threads, device_id=None, prefetch_queue_depth=1, exec_dynamic=True
    )
    def graph() -> Any:
        return _decode_crop(fn, types, source, kind, _ON_CPU)

    return graph()


_ON_CPU = {"device": "cpu"}


def _on_gpu(hw_decoder_load: float) -> dict[str, Any]:
    # Fancy upsampling is what the CPU's decoder does to chroma. Without it RGB clips are off by 2 of 255 levels.
    return {"device": "mixed", "hw_decoder_load": hw_decoder_load, "jpeg_fancy_upsampling": True}


def _decode_crop(fn: Any, types: Any, source: Callable[..., Any], kind: Kind, decoder: dict[str, Any]) -> Any:
    return fn.decoders.image_slice(
        source("frame", types.UINT8, 1),
        source("crop_start", types.INT32, 1),
        source("crop_shape", types.INT32, 1),
        axis_names="HW",
        normalized_anchor=False,
        normalized_shape=False,
        output_type=types.RGB if kind == "visual" else types.GRAY,
        **decoder,
    )


def graph_inputs(
    kind: Kind,
    plans: Sequence[ClipPlan],
    options: Augmentation,
    pixels: Literal["jpeg", "rgb"] = "jpeg",
    motion: MotionInput | None = None,
) -> dict[str, np.ndarray]:
    """All inputs of a graph but the frames, one row a frame, the clips' frames one after the other; the channels of a
    motion map, each a row, within a frame.

    Args:
        plans: clips of equal length.
        options: mean and std of the normalization.
        pixels: as for `clip_graph`.
        motion: what clips of that kind show; by default the flow edges.
    """
    num_frames = len(plans[0].frames)
    crops = np.array([plan.crop for plan in plans], dtype=np.float32)
    height, width = crops[:, 2], crops[:, 3]
    flips = np.array([plan.flip for plan in plans])
    # JPEGs are cropped as they are decoded, and the region begins at the crop's own corner.
    top, left = (crops[:, 0], crops[:, 1]) if pixels == "rgb" else np.zeros((2, len(plans)), np.float32)
    right = left + width
    inputs = {
        "region_start": np.stack([top, np.where(flips, right, left)], axis=1),
        "region_end": np.stack([top + height, np.where(flips, left, right)], axis=1),
    }
    if pixels == "jpeg":
        inputs |= {"crop_start": crops[:, :2].astype(np.int32), "crop_shape": crops[:, 2:].astype(np.int32)}
    if kind == "visual":
        sigma = np.array([plan.blur_sigma for plan in plans], dtype=np.float32)
        inputs["blur_sigma"] = np.maximum(sigma, 1e-3)
        inputs["blur_window"] = blur_window(sigma, options)
        inputs["matrix"], inputs["offset"] = color_transforms(plans, options)
        return _by_frame(inputs, num_frames)
    motion = motion or find_motion_input(DEFAULT)
    factors = np.stack([motion.factors(plan.flip) for plan in plans])  # of each clip and channel
    values = {"matrix": factors[..., None, None], "offset": -motion.zero * factors[..., None]}
    by_channel = {name: np.repeat(rows[:, None], motion.channels, axis=1) for name, rows in inputs.items()}
    rows = _by_frame(by_channel | values, num_frames)
    return {name: each.reshape(-1, *each.shape[2:]) for name, each in rows.items()}


def _by_frame(inputs: dict[str, np.ndarray], num_frames: int) -> dict[str, np.ndarray]:
    """Rows of clips as rows of their frames; what acts on values in float32."""
    for name in ("matrix", "offset"):
        inputs[name] = inputs[name].astype(np.float32)
    return {name: np.repeat(rows, num_frames, axis=0) for name, rows in inputs.items()}


def blur_window(sigma: np.ndarray, options: Augmentation) -> np.ndarray:
    """Taps of the Gaussian, int32; 1, which is no blur, where sigma is 0."""
    if options.blur_window:
        return np.where(sigma > 0, options.blur_window, 1).astype(np.int32)
    return (2 * np.ceil(_BLUR_REACH * sigma) + 1).astype(np.int32)


def color_transforms(plans: Sequence[ClipPlan], options: Augmentation) -> tuple[np.ndarray, np.ndarray]:
    """Brightness, contrast, saturation, gray and normalization as one affine map of RGB in [0, 255].

    x ← b·x; x ← c·x + (1 - c)·b·mean; x ← s·x + (1 - s)·luminance(x), where gray means s = 0; (x - mean) / std.
    Contrast turns about the mean gray that the normalization assumes, not each picture's own, which would cost a
    pass over its pixels before the one that uses them. Like PySlowFast's, and unlike torchvision's, the map does not
    clip in between.

    Returns:
        (N, 3, 3) and (N, 3) float64, one a clip.
    """
    brightness, contrast, saturation = np.array(
        [(plan.brightness, plan.contrast, 0.0 if plan.gray else plan.saturation) for plan in plans]
    ).T[..., None, None]
    mix = saturation * np.eye(3) + (1 - saturation) * _LUMINANCE
    matrices = mix * (contrast * brightness / 255) / options.std
    offsets = (1 - contrast) * brightness * options.mean  # the same for all channels: `mix` keeps grays
    return matrices, np.repeat((offsets[:, 0] - options.mean) / options.std, 3, axis=1)
