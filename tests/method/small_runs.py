"""Small configurations and batches of noise, for steps without videos."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from modist_fast.config import TrainConfig
from modist_fast.presets import demo
from modist_pipelines.clips.loader import ClipBatch


def small_config(num_groups: int) -> TrainConfig:
    recipe = demo(None, Path())
    return replace(
        recipe,
        batch_size=2 * num_groups,
        group_size=2,
        precision="fp32",
        model=replace(recipe.model, visual_width=4, motion_width=4, head_width=16),
    )


def noise(config: TrainConfig, step: int) -> ClipBatch:
    random = torch.Generator().manual_seed(step)
    num = config.batch_size

    def clips(channels: int, frames: int) -> torch.Tensor:
        clip = torch.rand(num, channels, frames, 32, 32, generator=random)
        where = "cuda" if config.device == "cuda" else "cpu"
        return clip.to(where).contiguous(memory_format=torch.channels_last_3d)

    return ClipBatch(
        step=step,
        epoch=0,
        video_ids=np.arange(num, dtype=np.int32),
        deal=np.random.default_rng(step).permutation(num),
        visual_query=clips(3, 8),
        visual_key=clips(3, 8),
        motion_query=clips(1, 16),
        motion_key=clips(1, 16),
        damaged=np.zeros(num, bool),
        counters={},
    )
