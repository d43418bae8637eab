"""The augmentation on a CPU, by OpenCV: what the graph does behind the decoder, three times as fast as DALI's CPU does.

The steps and their order are the graph's (see `graph`); between them pixels are bytes, whose rounding is the one
difference: a gray level or so.
"""

import cv2
import numpy as np

from modist_pipelines.clips.graph import Kind, blur_window
from modist_pipelines.plan import Augmentation, ClipPlan


def augment_frame(pixels: np.ndarray, kind: Kind, plan: ClipPlan, options: Augmentation, out: np.ndarray) -> None:
    """Resize, flip, blur, colour and normalize one frame.

    Args:
        pixels: (h, w, C) uint8, the crop alone; C = 3 for "visual", else 1.
        plan: of the frame's clip.
        options: mean and std of the normalization.
        out: (S, S, C) float32, contiguous: takes the result.
    """
    size = (out.shape[1], out.shape[0])
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    if kind == "motion":
        cv2.addWeighted(resized, 1 / 255, resized, 0.0, 0.0, dst=out[..., 0], dtype=cv2.CV_32F)
        return
    if plan.flip:
        resized = cv2.flip(resized, 1)
    if plan.blur_sigma:
        window = int(blur_window(np.array(plan.blur_sigma), options))
        resized = cv2.GaussianBlur(resized, (window, window), plan.blur_sigma, borderType=cv2.BORDER_REFLECT_101)
    _colour(resized, plan, options, out)


def _colour(pixels: np.ndarray, plan: ClipPlan, options: Augmentation, out: np.ndarray) -> None:
    """`graph.color_transforms` as a weighted sum of the picture and its gray."""
    saturation = 0.0 if plan.gray else plan.saturation
    gain = plan.contrast * plan.brightness / 255 / options.std
    offset = ((1 - plan.contrast) * plan.brightness - 1) * options.mean / options.std
    gray = pixels
    if saturation != 1.0:
        gray = cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    cv2.addWeighted(pixels, saturation * gain, gray, (1 - saturation) * gain, offset, dst=out, dtype=cv2.CV_32F)
