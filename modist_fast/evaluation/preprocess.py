"""Decoded frames to the clip that a backbone expects, by its card."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modist_fast.errors import ConfigError
from modist_fast.evaluation.data.views import ViewsConfig, plan_views, resolve_views
from modist_pipelines.source import VideoInfo

_FPS = 30.0  # nominal frames a second, in which a card counts its stride


class Preprocess:
    """The middle clip of a video, as `modist evaluate` shows it with one view: `net(preprocess(frames, fps))`.

    Args:
        card: of the backbone: crop_size, num_frames, stride, mean, std.
        views: other views than the one in the middle.

    Raises:
        ConfigError: the card lacks one of these.
    """

    def __init__(self, card: Mapping[str, Any], views: ViewsConfig | None = None) -> None:
        self.spec = resolve_views(views or ViewsConfig(temporal=1, spatial=1), card).at_test()

    def __call__(self, frames: np.ndarray | Tensor, fps: float = _FPS) -> Tensor:
        """Sample, crop, resize and normalize.

        Args:
            frames: (N, H, W, 3) uint8, R, G, B: all frames of a video.
            fps: of them.

        Returns:
            (V, 3, T, S, S) float32: V views, one by default.

        Raises:
            ConfigError: frames of another shape or type.
        """
        video = torch.as_tensor(frames)
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != torch.uint8 or not len(video):
            raise ConfigError(
                f"frames are {tuple(video.shape)} {video.dtype}; give all frames of a video as (N, H, W, 3) uint8."
            )
        # Nominal frame i is the one that is shown at i / 30 s.
        shown = [min(int(i * fps / _FPS + 1e-6), len(video) - 1) for i in range(max(1, round(len(video) * _FPS / fps)))]
        info = VideoInfo(len(shown), width=video.shape[2], height=video.shape[1])
        clips = []
        for plan in plan_views(self.spec, info, 1):
            top, left, height, width = map(int, plan.crop)
            clip = video[[shown[place] for place in plan.frames], top : top + height, left : left + width]
            size = (self.spec.crop_size, self.spec.crop_size)
            clip = F.interpolate(clip.permute(0, 3, 1, 2).float(), size, mode="bilinear", align_corners=False)
            clips.append((clip.round() / 255 - self.spec.mean) / self.spec.std)
        return torch.stack(clips).transpose(1, 2).contiguous()
