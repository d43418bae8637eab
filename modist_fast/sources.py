"""Opening the place that a run's clips come from."""

import logging

import torch

from modist_fast.config import TrainConfig
from modist_pipelines.source import ClipSource
from modist_pipelines.store.reader import Store
from modist_pipelines.video.raw import RawVideos

log = logging.getLogger("modist")


def open_source(config: TrainConfig, device: torch.device) -> ClipSource:
    """The store or the raw videos of a configuration that `config.check` has passed.

    Args:
        device: of this process; a GPU decodes raw videos itself.

    Raises:
        DataError: no store, no videos.
    """
    if config.source == "store":
        assert config.store is not None
        return Store.open(config.store)
    assert config.videos is not None
    source = RawVideos(config.videos, device=str(device), num_threads=config.loader.num_threads)
    if config.objective.motion:
        source.check_motion(config.motion_input)
        log.info(
            "--source video: the motion pathway sees the %s of consecutive frames, of any window: "
            "--clips.motion-threshold is not applied, since no scores are known. Flow edges need a store "
            "(launch/prepare.py).",
            config.motion_input,
        )
    return source
