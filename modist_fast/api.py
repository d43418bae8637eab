"""The commands as functions, for notebooks and other people's code. `modist_fast` itself offers them by name.

They raise ConfigError and DataError with the words of the commands, and never end the process. Each makes a world of
one process, or joins that which torchrun describes, and leaves it. Random numbers, the settings of cuDNN and OpenCV,
memory and files are then as they were found.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from torch import nn

from modist_fast.commands.pretrain import follow_videos, open_source
from modist_fast.config import TrainConfig, check
from modist_fast.errors import ConfigError, did_you_mean
from modist_fast.evaluation.backbones import open_backbone
from modist_fast.evaluation.config import BackboneConfig, FeaturesConfig, LabelledConfig
from modist_fast.evaluation.frozen.config import FrozenConfig, KnnEvaluationConfig, LinearConfig, PlainVideosConfig
from modist_fast.evaluation.frozen.plain_videos import FeatureTable, run_features
from modist_fast.evaluation.frozen.session import Progress
from modist_fast.evaluation.frozen.tasks import run_knn, run_linear
from modist_fast.evaluation.preprocess import Preprocess
from modist_fast.evaluation.results import write_result
from modist_fast.host.arithmetic import arithmetic_of
from modist_fast.host.choices import DeviceOption
from modist_fast.host.distributed import World, join_world
from modist_fast.run.alone import alone_in
from modist_fast.run.options import as_typed, check_ranges
from modist_fast.trainer import Trainer
from modist_fast.watch.metrics import Watcher

StrPath = str | PathLike[str]
Options = TypeVar("Options")
_OWN = ("store", "videos", "labels", "progress")


def pretrain(config: TrainConfig, progress: bool | Watcher = True) -> Path:
    """Pre-train as `modist pretrain` does, in this process.

    Args:
        config: from a function of `modist_fast.presets`, or `dataclasses.replace` of one.
        progress: True shows a bar, in a notebook or a terminal; a function is called after each step with the steps
            done, the steps in all, and the step's line of metrics.jsonl (loss, samples_per_s, …); False is silent.

    Returns:
        The run directory, `config.out`: metrics.jsonl, checkpoints, pictures, backbone.safetensors.

    Raises:
        ConfigError: options that cannot work, a directory that holds a run, a loss that is not finite.
        DataError: no store, no videos.
    """
    config = as_typed(config)
    with _visit(config) as world:
        check(config, world.size)
        source = open_source(config, world.device)
        Trainer(follow_videos(config, source, world.size), world, source, _watcher(progress, "step")).run()
    return config.out


@contextmanager
def _visit(config: Any) -> Iterator[World]:
    """`join_world`, after which the process is as it was found."""
    benchmark, threads = torch.backends.cudnn.benchmark, cv2.getNumThreads()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with (
            torch.random.fork_rng(gpus),
            join_world(config.device, config.collective_timeout, arithmetic_of(config)) as world,
        ):
            yield world
    finally:
        torch.backends.cudnn.benchmark = benchmark
        cv2.setNumThreads(threads)
        gc.collect()  # nets and stores hold themselves in circles, and with them memory and open files


def _options(kind: type[Options], own: Sequence[str], **options: Any) -> Options:
    """`kind` of these options, with the errors that the command line gives.

    Args:
        own: arguments that the caller has beside them.
    """
    known = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    for name in options:
        if name not in known:
            guess = did_you_mean(name, [*known, *own])
            raise ConfigError(f"There is no option {name}.{guess} Look at the fields of {kind.__name__}.")
    typed = as_typed(kind(**options))
    check_ranges(typed)
    return typed


def _watcher(progress: bool | Callable[..., None], unit: str) -> Callable[..., None]:
    if isinstance(progress, bool):
        return _bar(unit) if progress else _silent
    return progress


def _bar(unit: str) -> Callable[..., None]:
    from tqdm.auto import tqdm

    bar = tqdm(unit=unit, smoothing=0.05)

    def show(done: int, in_all: int, row: Mapping[str, Any] | None = None) -> None:
        bar.total = in_all
        if row:
            bar.set_postfix({"loss": f"{row['loss']:.3f}", "top-1": f"{row['top1_visual']:.0%}"}, refresh=False)
        bar.update(done - bar.n)
        if done == in_all:
            bar.close()

    return show


def _silent(*shown: Any) -> None:
    pass


def evaluate_linear(
    backbone: StrPath,
    out: StrPath,
    *,
    store: StrPath | None = None,
    videos: StrPath | None = None,
    labels: StrPath | None = None,
    device: DeviceOption = "auto",
    progress: bool | Progress = True,
    **options: Any,
) -> dict[str, Any]:
    """Train and score a linear classifier on frozen features, as `modist evaluate linear` does.

    Args:
        backbone: a run, an exported file, a checkpoint, "random" or "random:RUN".
        out: takes result.json, confusion.png and the features.
        store: where the frames come from: this, or videos.
        videos: a folder of files, in place of a store.
        labels: a list with columns path, label, split; without one, folders are the labels.
        progress: a bar, silence, or a function that is called with the shards of 16 videos whose features are done, and
            all.
        options: fields of `LinearConfig`: views=ViewsConfig(…), split=SplitConfig(…), recipe="sgd", …

    Returns:
        What result.json holds: "top1" and "interval" in [0, 1], "classes", "confusion", "videos", …

    Raises:
        ConfigError, DataError: as the command.
    """
    config = _options(LinearConfig, _OWN, **_common(backbone, out, store, videos, labels, device), **options)
    return _evaluate(config, run_linear, progress)


def knn(
    backbone: StrPath,
    out: StrPath,
    *,
    store: StrPath | None = None,
    videos: StrPath | None = None,
    labels: StrPath | None = None,
    device: DeviceOption = "auto",
    progress: bool | Progress = True,
    **options: Any,
) -> dict[str, Any]:
    """Classify by the nearest training videos, as `modist evaluate knn` does; arguments as for `evaluate_linear`.

    Args:
        options: fields of `KnnEvaluationConfig`: knn=KnnConfig(k=…), views=ViewsConfig(…), …
    """
    config = _options(KnnEvaluationConfig, _OWN, **_common(backbone, out, store, videos, labels, device), **options)
    return _evaluate(config, run_knn, progress)


def _common(
    backbone: StrPath,
    out: StrPath,
    store: StrPath | None,
    videos: StrPath | None,
    labels: StrPath | None,
    device: DeviceOption,
) -> dict[str, Any]:
    store, videos, labels = (None if path is None else Path(path) for path in (store, videos, labels))
    data = LabelledConfig(store=store, videos=videos, labels=labels)
    return {"out": Path(out), "network": BackboneConfig(backbone=str(backbone)), "data": data, "device": device}


def _evaluate(config: Any, run: Callable[..., dict[str, Any]], progress: bool | Progress) -> dict[str, Any]:
    assert isinstance(config, FrozenConfig)
    with _visit(config) as world, alone_in(config.out, world):
        result = run(config, world, _watcher(progress, "shard"))
        if world.is_main:
            write_result(config.out, result)
    return result


def features(
    backbone: StrPath,
    videos: StrPath | Sequence[StrPath],
    *,
    folder: StrPath,
    every: float | None = None,
    device: DeviceOption = "auto",
    progress: bool | Progress = True,
    **options: Any,
) -> FeatureTable:
    """Features of videos that need no labels, as `modist features` writes them.

    Args:
        backbone: a run, an exported file or a checkpoint.
        videos: a folder, a store, a file, or several files.
        folder: keeps what is computed, so that a second call computes only what is new.
        every: a clip every so many seconds, in place of ten at equal distances.
        progress: a bar, silence, or a function that is called with the shards of 16 videos that are done, and all.
        options: fields of `PlainVideosConfig`: views=ViewsConfig(…).

    Returns:
        names (N), times (N, V, 2) in seconds, features (N, V, D) float32, and the videos that could not be used.

    Raises:
        ConfigError, DataError: no backbone, no video.
    """
    paths = (videos,) if isinstance(videos, str | PathLike) else tuple(videos)
    config = _options(
        PlainVideosConfig,
        ("folder", "progress"),
        videos=tuple(map(Path, paths)),
        network=BackboneConfig(backbone=str(backbone)),
        out=Path(folder) / "features.parquet",
        features=options.pop("features", FeaturesConfig(folder=Path(folder))),
        every=every,
        device=device,
        **options,
    )
    with _visit(config) as world:
        return run_features(config, world, _watcher(progress, "shard"))


def load_backbone(path: StrPath) -> nn.Module:
    """The visual pathway as a plain module in eval mode: (B, 3, T, H, W) float32 to (B, D).

    Args:
        path: a run directory, an exported backbone.safetensors, or a checkpoint.

    Returns:
        The net; `net.card` says what it expects, and `net.preprocess` turns decoded frames, (N, H, W, 3) uint8, into
        its clip: see `Preprocess`. A card that does not say how long and how large a clip is has no `preprocess`.

    Raises:
        ConfigError: nothing there that can be read.
    """
    opened = open_backbone(BackboneConfig(backbone=str(path)))
    opened.net.card = opened.card  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    if opened.card.keys() >= {"crop_size", "num_frames", "stride"}:
        opened.net.preprocess = Preprocess(opened.card)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return opened.net
