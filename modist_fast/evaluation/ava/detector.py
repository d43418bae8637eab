"""The action detector: a box of a clip in, an answer for each action out (SlowFast's head on a dilated res5)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from modist_fast.evaluation.finetune.classifier import LabelledNet

BINS = 7
STRIDE = 16  # pixels from one place of the feature map to the next


def box_features(feature_map: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Mean over all of time, ROIAlign to 7 × 7, maximum over space.

    Args:
        feature_map: (B, D, T, H, W); a place is 16 pixels.
        boxes: of each clip, (n_b, 4) float32 x1, y1, x2, y2 in pixels of the clip.

    Returns:
        (Σ n_b, D) float32, the clips' boxes one after the other.
    """
    mapped = feature_map.mean(dim=2).float()
    placed = [part.to(mapped.device, mapped.dtype) for part in boxes]
    return roi_align(mapped, placed, BINS, spatial_scale=1 / STRIDE, aligned=True).amax(dim=(2, 3))


class Detector(LabelledNet):
    """Clips and boxes in, a logit for each action out. Its backbone is one `for_detection`."""

    def forward(self, clips: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """(B, 3, T, H, W) and boxes as for `box_features` to (Σ n_b, K) float32."""
        features = box_features(self.backbone.feature_map(clips), boxes)
        with torch.autocast(clips.device.type, enabled=False):
            return self.linear(self.dropout(features))
