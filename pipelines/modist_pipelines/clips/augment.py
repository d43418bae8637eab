"""The augmentation on a CPU, by OpenCV: what the graph does behind the decoder, three times as fast as DALI's CPU does.

The steps and their order are the graph's (see `graph`); between them pixels are bytes, whose rounding is the one
difference: a gray level or so.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from modist_pipelines.clips.graph import blur_window
from modist_pipelines.motion_inputs import MotionInput
from modist_pipelines.plan import Augmentation, ClipPlan


def augment_frame(pixels: np.ndarray, plan: ClipPlan, options: Augmentation, out: np.ndarray) -> None:
    """Resize, flip, blur, colour and normalize one RGB frame.

    Args:
        pixels: (h, w, 3) uint8, the crop alone.
        plan: of the frame's clip.
        options: mean and std of the normalization.
        out: (S, S, 3) float32, contiguous: takes the result.
    """
    resized = _resized(pixels, plan, out)
    if plan.blur_sigma:
        window = int(blur_window(np.array(plan.blur_sigma), options))
        resized = cv2.GaussianBlur(resized, (window, window), plan.blur_sigma, borderType=cv2.BORDER_REFLECT_101)
    _colour(resized, plan, options, out)


def augment_map(channels: Sequence[np.ndarray], plan: ClipPlan, motion: MotionInput, out: np.ndarray) -> None:
    """Resize and flip one motion map, and turn its pixels into shares of full scale. No colour of the plan touches it.

    Args:
        channels: (h, w, 1) uint8 each, the crop alone.
        plan: of the map's clip.
        motion: what the map is.
        out: (S, S, C) float32, contiguous: takes the result.
    """
    for channel, (pixels, factor) in enumerate(zip(channels, motion.factors(plan.flip).tolist(), strict=True)):
        resized, offset = _resized(pixels, plan, out), -motion.zero * factor
        if len(channels) == 1:  # then OpenCV can write where the result is to be
            cv2.addWeighted(resized, factor, resized, 0.0, offset, dst=out[..., 0], dtype=cv2.CV_32F)
        else:
            out[..., channel] = cv2.addWeighted(resized, factor, resized, 0.0, offset, dtype=cv2.CV_32F)


def _resized(pixels: np.ndarray, plan: ClipPlan, out: np.ndarray) -> np.ndarray:
    resized = cv2.resize(pixels, (out.shape[1], out.shape[0]), interpolation=cv2.INTER_LINEAR)
    return cv2.flip(resized, 1) if plan.flip else resized


def _colour(pixels: np.ndarray, plan: ClipPlan, options: Augmentation, out: np.ndarray) -> None:
    """`graph.color_transforms` as a weighted sum of the picture and its gray."""
    saturation = 0.0 if plan.gray else plan.saturation
    gain = plan.contrast * plan.brightness / 255 / options.std
    offset = ((1 - plan.contrast) * plan.brightness - 1) * options.mean / options.std
    gray = pixels
    if saturation != 1.0:
        gray = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.addWeighted(pixels, saturation * gain, gray, (1 - saturation) * gain, offset, dst=out, dtype=cv2.CV_32F)
