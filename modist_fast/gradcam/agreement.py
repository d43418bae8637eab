"""Motion agreement: how much of a Grad-CAM lies where things move, as the stored edge maps show it.

The moving region of a clip is found from its flow edges. Edges outline what moves, so the maps are first averaged over
a square of an eighth of their side and over three frames, about the fineness of a Grad-CAM, which fills the outlines; a
pixel moves where this average exceeds Otsu's threshold of the clip, the one that parts its values best into two kinds.
The share of the CAM's mass in this region is compared with two things that know nothing of the clip: the region's share
of the area, which an even map would get, and the share of the same CAM in the regions of other clips, which is what a
habit of looking at the middle would get.
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING = 1 / 8  # of the map's side
RULE = (
    "agreement: share of the Grad-CAM's mass inside the moving region. Moving region: pixels where the edge maps, "
    "averaged over a square of 1/8 of their side and 3 frames, exceed Otsu's threshold of the clip. chance: the "
    "region's share of the area. of_other_clips: share of the same Grad-CAM inside the regions of the other test clips."
)
_NEIGHBOURS = 3  # frames that are averaged


class Agreement(NamedTuple):
    """One number a clip; NaN where a clip's CAM is zero everywhere, or nothing of it moves."""

    inside: np.ndarray
    """(N,) share of the CAM's mass within the clip's own moving region."""
    area: np.ndarray
    """(N,) share of the pixels that move: what an even CAM would get."""
    elsewhere: np.ndarray
    """(N,) share of the CAM's mass within the moving regions of the other clips, their mean."""


def moving_region(motion: Tensor) -> Tensor:
    """Where a clip moves: see the rule at the top of this file.

    Args:
        motion: (T, H, W), how much each pixel moves, in any unit.

    Returns:
        (T, H, W) bool. All False where the maps are constant.
    """
    side = max(1, round(SMOOTHING * motion.shape[-1])) // 2 * 2 + 1
    window = (_NEIGHBOURS, side, side)
    padding = tuple(size // 2 for size in window)
    smooth = F.avg_pool3d(motion[None], window, stride=1, padding=padding, count_include_pad=False)[0]
    levels = (smooth * (255 / max(float(smooth.max()), 1e-12))).round().to(torch.uint8)
    if levels.min() == levels.max():
        return torch.zeros_like(levels, dtype=torch.bool)
    threshold, _ = cv2.threshold(levels.reshape(levels.shape[0], -1).numpy(), 0, 255, cv2.THRESH_OTSU)
    return levels > threshold


def motion_agreement(cams: Tensor, regions: Tensor) -> Agreement:
    """Compare CAMs with moving regions.

    Args:
        cams: (N, T, H, W), not negative.
        regions: (N, T, H, W) bool.
    """
    mass = cams.double().flatten(1)
    mass = mass / mass.sum(dim=1, keepdim=True)  # 0 / 0 is NaN: such a CAM says nothing
    inside = regions.flatten(1).double()
    shares = (mass @ inside.T).numpy()  # (N CAMs, N regions)
    own, area = np.diagonal(shares).copy(), inside.mean(dim=1).numpy()
    still = area == 0
    own[still] = np.nan
    num_others = (~still).sum() - 1
    if num_others < 1:
        return Agreement(own, area, np.full_like(own, np.nan))
    elsewhere = (shares[:, ~still].sum(axis=1) - own) / num_others
    return Agreement(own, area, elsewhere)
