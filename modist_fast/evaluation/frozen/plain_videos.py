"""Features of videos of which nothing is known but where they are: `modist features`, and `modist_fast.features`."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.data.labelled import LabelledVideos
from modist_fast.evaluation.data.views import plan_views
from modist_fast.evaluation.frozen.config import PlainVideosConfig, check_suffix
from modist_fast.evaluation.frozen.features import Extraction, extract
from modist_fast.host.distributed import World
from modist_fast.host.whole_file import whole_file
from modist_fast.run.tensor_files import write_tensors
from modist_pipelines.disk.names import as_text
from modist_pipelines.plan import ClipPlan
from modist_pipelines.source import ClipSource
from modist_pipelines.store.reader import META_NAME, Store
from modist_pipelines.video.raw import RawVideos


class FeatureTable(NamedTuple):
    """Features, and what they are of."""

    names: list[str]
    """N videos as they were given or found; with `every`, a video's name stands once for each of its clips."""
    times: np.ndarray
    """(N, V, 2) float64: seconds from the video's start to the first and to the last frame of each view."""
    features: np.ndarray
    """(N, V, D) float32."""
    odd: dict[str, str]
    """Videos that could not be used, to the reason; they are not among the N."""


def run_features(
    config: PlainVideosConfig, world: World, progress: Callable[[int, int], None] | None = None
) -> FeatureTable:
    """Compute features of all views of all videos; every rank gets them all.

    Args:
        progress: called with the shards that are done and all of this process's.

    Raises:
        ConfigError, DataError: no backbone, no video, options that do not fit.
    """
    if config.network.backbone.partition(":")[0] == "random":
        raise ConfigError(
            "--backbone random: its batch norms get their statistics from labelled training videos; use evaluate."
        )
    if config.every is not None and not config.every > 0:
        raise ConfigError(f"--every {config.every:g}: give seconds, above 0.")
    backbone = open_backbone(config.network, config.seed)
    spec = backbone.views(config.views)
    source, odd = _open(config.videos, spec.stride, world.device, config.features.num_threads, config.frames_fps)
    plans: list[tuple[int, list[ClipPlan]]] = []
    for row in range(source.num_videos):
        views = plan_views(spec, source.info(row), source.grid)
        if config.every is None:
            plans.append((row, views))
            continue
        length, steps = source.info(row).num_frames, views[0].frames - views[0].frames[0]
        step = max(1, round(config.every * source.fps / source.grid))
        for start in range(0, max(1, length - int(steps[-1])), step):
            frames = np.minimum(start + steps, length - 1)
            plans.append((row, [view._replace(frames=frames) for view in views[: spec.spatial]]))
    rows = np.array([row for row, _ in plans], dtype=np.int64)
    names = [str(source.videos[row]) for row in rows]
    videos = LabelledVideos(source, names, rows, np.zeros(len(rows), np.int64), [""], {}, None)
    plan_name = "views" if config.every is None else f"every {config.every:g} s"
    extraction = Extraction(
        backbone,
        videos,
        spec.at_test(),
        lambda item: plans[item][1],
        plan_name,
        np.arange(len(rows)),
        progress,
    )
    found, damaged = extract(extraction, config.features, config.features.folder or _parts(config.out), world)
    kept = [item for item in range(len(rows)) if item not in damaged]
    seconds = source.grid / source.fps
    num_views = len(plans[0][1])
    times = np.array([[(view.frames[0], view.frames[-1]) for view in plans[item][1]] for item in kept]) * seconds
    places = found.shape[1] // num_views  # of one view, where pooling is sliding
    odd |= {names[item]: reason for item, reason in damaged.items()}
    return FeatureTable([names[item] for item in kept], np.repeat(times, places, axis=1), found[kept], odd)


def _parts(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _open(
    paths: Sequence[Path], stride: int, device: torch.device, num_threads: int, frames_fps: float
) -> tuple[ClipSource, dict[str, str]]:
    if not paths:
        raise ConfigError("no video was given: pass a folder, some files, or a store.")
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ConfigError(f"{missing[0]} does not exist. Give a folder, files, or a store.")
    if len(paths) == 1 and (paths[0] / META_NAME).is_file():
        store = Store.open(paths[0])
        return store, dict(store.quarantine())
    if len(paths) > 1 and (folders := [str(path) for path in paths if path.is_dir()]):
        raise ConfigError(f"{folders[0]} is a folder: pass one folder, or files.")
    grid = math.gcd(4, stride)
    whole = [path.absolute() for path in paths]
    folder = whole[0] if whole[0].is_dir() else Path(os.path.commonpath([path.parent for path in whole]))
    names = None if whole[0].is_dir() else sorted({as_text(str(path.relative_to(folder))) for path in whole})
    videos = RawVideos(
        folder, grid=grid, device=str(device), num_threads=num_threads, names=names, frames_fps=frames_fps
    )
    if not videos.num_videos:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(videos.refused.items())[:3])
        raise ConfigError(
            f"{folder} has no video that can be used{f' ({reasons})' if reasons else ''}. Give a folder with others."
        )
    return videos, dict(videos.refused)


def write_features(table: FeatureTable, out: Path, card: Mapping[str, object]) -> None:
    """Write F.parquet (video, view, start, end, features) or F.safetensors ("features", "times"; names as metadata).

    Raises:
        ConfigError: another suffix.
    """
    check_suffix(out)
    about = {"names": json.dumps(table.names), "card": json.dumps(card), "odd": json.dumps(table.odd)}
    if out.suffix == ".safetensors":
        tensors = {"features": torch.from_numpy(table.features), "times": torch.from_numpy(table.times)}
        write_tensors(out, tensors, about)
        return
    num_views, width = table.features.shape[1:]
    columns = {
        "video": pa.array(np.repeat(table.names, num_views)),
        "view": pa.array(np.tile(np.arange(num_views), len(table.names))),
        "start": pa.array(table.times[..., 0].ravel()),
        "end": pa.array(table.times[..., 1].ravel()),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(table.features.ravel()), width),
    }
    with whole_file(out) as half:
        pq.write_table(pa.table(columns).replace_schema_metadata(about), half)
