"""Frozen features: every view of every video once, in shards on disk, by any number of processes.

    FOLDER/key.json              what the features depend on
    FOLDER/NNNNN.safetensors     "features" (videos, views, D) float32 of one shard, and which videos were damaged

A shard is the unit of work: its videos pass the network together in batches that do not depend on how many processes
there are, so neither do the features. A shard appears whole or not at all; a run that was killed goes on with the rest.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import OpenedBackbone
from modist_fast.evaluation.config import FeaturesConfig
from modist_fast.evaluation.data.labelled import LabelledVideos, report_odd
from modist_fast.evaluation.data.views import ViewSpec
from modist_fast.evaluation.places import features_at_places
from modist_fast.host.distributed import World, on_main
from modist_fast.host.precision import resolve_precision
from modist_fast.host.whole_file import whole_file
from modist_fast.run.tensor_files import write_tensors
from modist_pipelines.clips.reader import ClipReader, Clips, Request
from modist_pipelines.plan import ClipPlan
from modist_pipelines.progress import Progressing

log = logging.getLogger("modist")
_SHARD = 16  # videos


@dataclass(frozen=True)
class Extraction:
    """What to compute features of, and with what."""

    backbone: OpenedBackbone
    labelled: LabelledVideos
    spec: ViewSpec
    plan: Callable[[int], Sequence[ClipPlan]]
    """Video, as its place in `labelled`, to its clips; the same number for all."""
    plan_name: str
    """Tells this plan from others of the same spec."""
    videos: np.ndarray
    """(n,) int64 videos to compute features of, none of them odd."""
    progress: Callable[[int, int], None] | None = None
    """Called with the shards of this process that are done, and all of them."""


def extract(
    extraction: Extraction, config: FeaturesConfig, folder: Path, world: World, others: Sequence[Path] = ()
) -> tuple[np.ndarray, dict[int, str]]:
    """Features of videos, computed where they are not on disk. Every rank calls it, and gets them all.

    Args:
        folder: seen by all ranks; the features go to a folder in it that is named by their key.
        others: such folders of other evaluations, from which they are taken where one has them all.

    Returns:
        (N, V, D) float32 with a place for all N labelled videos, NaN where there is nothing; and the videos that
        turned out damaged, to the reason.
    """
    key = _key(extraction, config, world)
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    videos = extraction.videos
    shards = [videos[first : first + _SHARD] for first in range(0, len(videos), _SHARD)]

    def home() -> Path:
        for other in others:
            if not (folder / name).is_dir() and all(_shard_path(other / name, n).is_file() for n in range(len(shards))):
                return other / name
        (folder / name).mkdir(parents=True, exist_ok=True)
        with whole_file(folder / name / "key.json") as half:
            half.write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
        return folder / name

    folder = on_main(world, home)
    missing = [number for number in range(len(shards)) if not _shard_path(folder, number).is_file()]
    if world.is_main:
        done = len(shards) - len(missing)
        log.info("features: %d of %d shards of %d videos are in %s", done, len(shards), _SHARD, folder)
    dist.barrier()  # before any rank adds to what another counts
    if mine := missing[world.rank :: world.size]:
        _compute(extraction, config, world, folder, [(number, shards[number]) for number in mine])
    dist.barrier()
    return _gather(extraction.labelled, folder, shards, world)


def _key(extraction: Extraction, config: FeaturesConfig, world: World) -> dict[str, Any]:
    dtype, _ = resolve_precision(config.precision, world.device)
    return {
        "backbone": extraction.backbone.digest(),
        "videos": extraction.labelled.fingerprint(),
        "views": dataclasses.asdict(extraction.spec),
        "plan": extraction.plan_name,
        "places": hashlib.sha256(extraction.videos.astype(np.int64).tobytes()).hexdigest(),
        "precision": str(dtype),
        "device": world.device.type,
        "shard": _SHARD,
    }


def _compute(
    extraction: Extraction,
    config: FeaturesConfig,
    world: World,
    folder: Path,
    shards: Sequence[tuple[int, np.ndarray]],
) -> None:
    dtype, reason = resolve_precision(config.precision, world.device)
    if world.is_main:
        log.info("features: %s", reason)
    labelled = extraction.labelled
    plan_config = extraction.spec.plan_config(labelled.source.grid)
    net = placed(extraction.backbone.net, world.device)

    def requests() -> Iterator[Request]:
        for _, videos in shards:
            for video in videos.tolist():
                yield Request(video, int(labelled.rows[video]), extraction.plan(video))

    shown = world.is_main and extraction.progress is None
    mine = sum(len(videos) for _, videos in shards)
    with (
        ClipReader(labelled.source, plan_config, world.device, config.num_threads) as reader,
        Progressing("features", mine, "videos" if world.size == 1 else "videos of this process", shown) as progress,
    ):
        answers = reader.read(requests())
        for done, (number, videos) in enumerate(shards, start=1):
            damaged: dict[str, str] = {}
            clips = _clips_of(answers, len(videos), damaged, progress)
            features = [
                _forward(net, batch, dtype, extraction.spec.window) for batch in batches(clips, config.batch_size)
            ]
            _write_shard(folder, number, len(videos), features, damaged)
            if extraction.progress is not None:
                extraction.progress(done, len(shards))


def _clips_of(
    answers: Iterator[tuple[int, Clips | str]], num: int, damaged: dict[str, str], progress: Progressing
) -> Iterator[Tensor]:
    for _ in range(num):
        progress.begin()
        video, clips = next(answers)
        if isinstance(clips, str):
            damaged[str(video)] = clips
        else:
            yield clips["visual"]


def batches(clips: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Clips of consecutive videos, `size` at a time, laid out for the net."""
    held: list[Tensor] = []
    for tensor in clips:
        held.append(tensor)
        while sum(map(len, held)) >= size:
            together = torch.cat(held)
            yield together[:size].contiguous(memory_format=torch.channels_last_3d)
            held = [together[size:]] if len(together) > size else []
    if held:
        yield torch.cat(held).contiguous(memory_format=torch.channels_last_3d)


def placed(net: nn.Module, device: torch.device) -> nn.Module:
    """The net in eval mode on a device, as `batches` lays out its clips."""
    return net.eval().to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


@torch.inference_mode()
def _forward(net: nn.Module, clips: Tensor, dtype: torch.dtype, window: float) -> Tensor:
    """A row for each place of each clip."""
    with torch.autocast(clips.device.type, dtype, enabled=dtype != torch.float32):
        return features_at_places(net, clips, window).flatten(0, 1).float().cpu()  # pyright: ignore[reportArgumentType]


def _write_shard(folder: Path, number: int, num: int, features: list[Tensor], damaged: dict[str, str]) -> None:
    whole = torch.cat(features).unflatten(0, (num - len(damaged), -1)) if features else torch.empty(0, 0, 0)
    write_tensors(_shard_path(folder, number), {"features": whole}, {"damaged": json.dumps(damaged)})


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def _gather(
    labelled: LabelledVideos, folder: Path, shards: Sequence[np.ndarray], world: World
) -> tuple[np.ndarray, dict[int, str]]:
    table: np.ndarray | None = None
    found: dict[int, str] = {}
    for number, videos in enumerate(shards):
        path = _shard_path(folder, number)
        if not path.is_file():
            raise ConfigError(
                f"{path} was not written: all processes must see the same folder of features. "
                "Choose one on a disk that they share."
            )
        try:
            with safe_open(path, "np") as file:
                features = file.get_tensor("features")
                damaged = {int(video): reason for video, reason in json.loads(file.metadata()["damaged"]).items()}
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} cannot be read ({error}). Remove it to have it computed again.") from error
        found |= damaged
        whole = [video for video in videos.tolist() if video not in damaged]
        if whole:
            if table is None:
                table = np.full((len(labelled), *features.shape[1:]), np.nan, np.float32)
            table[whole] = features
    if table is None:
        raise ConfigError("no video could be read. Look at the log, which has the reason of each.")
    if world.is_main:
        report_odd(labelled, found)
    return table, found
