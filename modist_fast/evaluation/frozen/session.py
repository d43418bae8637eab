"""What every evaluation of a frozen backbone shares: its options, everything opened, and the features."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch.distributed as dist
from torch import Tensor

from modist_fast.batch_norm import CALIBRATION_BATCH, CALIBRATION_CLIPS, calibrate, has_batch_norm
from modist_fast.errors import ConfigError
from modist_fast.evaluation.backbones import OpenedBackbone, open_backbone
from modist_fast.evaluation.data.labelled import LabelledVideos, open_labelled
from modist_fast.evaluation.data.splits import (
    Fold,
    Leak,
    counted,
    learnable,
    make_folds,
    refuse_leaks,
    refuse_unlearnable,
    unlearnable,
    without,
)
from modist_fast.evaluation.data.views import ViewSpec, plan_training_clip, plan_views
from modist_fast.evaluation.frozen.config import FrozenConfig
from modist_fast.evaluation.frozen.features import Extraction, batches, extract, placed
from modist_fast.evaluation.results import odd_rows
from modist_fast.host.distributed import World
from modist_fast.host.environment import git_revision
from modist_fast.run.log_file import begin_log
from modist_fast.run.options import plain
from modist_pipelines.clips.reader import ClipReader, Request
from modist_pipelines.plan import ClipPlan
from modist_pipelines.progress import Progressing

log = logging.getLogger("modist")
Answer = TypeVar("Answer")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Frozen:
    """Everything opened, and the features of all views.

    Attributes:
        folds: over all videos, odd ones too.
        odd: what opening and reading found, to the reason.
        features: (N, V, D) float32, NaN for odd videos.
    """

    config: FrozenConfig
    world: World
    backbone: OpenedBackbone
    spec: ViewSpec
    labelled: LabelledVideos
    folds: list[Fold]
    odd: Mapping[int, str]
    leaks: list[Leak]
    features: np.ndarray

    def means(self) -> np.ndarray:
        """(N, D): of each video's views."""
        return self.features.mean(axis=1)

    def usable(self, videos: np.ndarray) -> np.ndarray:
        return without(videos, self.odd)

    def counted(self) -> list[Fold]:
        """The folds to fit and score on.

        Raises:
            ConfigError: a part has no video that can be used.
        """
        folds = counted(self.folds, self.odd, self.labelled.when_tested)
        return learnable(self.config.split, folds, self.labelled)

    def over_folds(self, folds: Sequence[Fold], work: Callable[[Fold], Answer], shown: bool = True) -> list[Answer]:
        """The answer for each fold; the ranks share the folds out, and the first says how far it is if `shown`."""
        places, mine = range(self.world.rank, len(folds), self.world.size), {}
        with Progressing("classifier", len(places), "folds", shown and self.world.is_main, brief=True) as progress:
            for place in places:
                progress.begin()
                mine[place] = work(folds[place])
        everyone: list[dict[int, Answer]] = [{} for _ in range(self.world.size)]
        dist.all_gather_object(everyone, mine)
        together = {place: answer for part in everyone for place, answer in part.items()}
        return [together[place] for place in range(len(folds))]

    def classify(
        self, folds: Sequence[Fold], work: Callable[[np.ndarray, np.ndarray], np.ndarray], shown: bool = True
    ) -> list[np.ndarray]:
        """Probabilities of each fold's test videos; NaN for odd ones.

        Args:
            folds: `counted`, or parts of these.
            work: training videos and usable test videos to (m, K).
        """

        def one(fold: Fold) -> np.ndarray:
            found = np.full((len(fold.test), len(self.labelled.classes)), np.nan)
            tested = self.usable(fold.test)
            found[np.isin(fold.test, tested)] = work(fold.train, tested)
            return found

        return self.over_folds(folds, one, shown)

    def result(self, task: str) -> dict[str, Any]:
        """What every result says of where it comes from."""
        return describe(task, self.config, self.backbone, self.spec, self.labelled, self.odd, self.leaks) | {
            "unlearnable": unlearnable(counted(self.folds, self.odd, self.labelled.when_tested), self.labelled)
        }


def describe(
    task: str,
    config: Any,
    backbone: OpenedBackbone,
    spec: ViewSpec,
    labelled: LabelledVideos,
    odd: Mapping[int, str],
    leaks: Sequence[Leak],
) -> dict[str, Any]:
    """What every result says of where it comes from, JSON-ready."""
    return {
        "task": task,
        "backbone": {"origin": backbone.origin, "digest": backbone.digest(), "card": backbone.card},
        "options": plain(dataclasses.asdict(config)),
        "views": dataclasses.asdict(spec),
        "videos_of": str(labelled.source.path),
        "fingerprint": labelled.fingerprint(),
        "odd_videos": labelled.when_tested,
        "odd": odd_rows(labelled, odd),
        "leaks": [leak._asdict() for leak in leaks],
        "git_revision": git_revision(),
    }


def open_frozen(config: FrozenConfig, world: World, progress: Progress | None = None) -> Frozen:
    """Open backbone and videos, check the split, and compute the features that are not there yet.

    Args:
        progress: called with the shards of features that are done and all of this process's.

    Raises:
        ConfigError, DataError: what the user can mend.
    """
    backbone = open_backbone(config.network, config.seed)
    spec = backbone.views(config.views)
    labelled = open_labelled(config.data, spec.stride, world.device, config.features.num_threads)
    spec.plan_config(labelled.source.grid)  # whether the stride fits the store, before anything expensive
    folds = make_folds(config.split, labelled)
    opening = counted(folds, labelled.odd, labelled.when_tested)
    refuse_unlearnable(config.split, opening, labelled)
    leaks = refuse_leaks(config.split, opening, labelled)
    begin_log()
    if backbone.is_random and has_batch_norm(backbone.net):
        _calibrate(config, world, backbone, spec, labelled, opening)
    grid = labelled.source.grid
    extraction = Extraction(
        backbone,
        labelled,
        spec.at_test(),
        lambda video: plan_views(spec, labelled.info(video), grid),
        "test",
        labelled.usable(),
        progress,
    )
    features, damaged = frozen_features(extraction, config, world)
    frozen = Frozen(config, world, backbone, spec, labelled, folds, {**labelled.odd, **damaged}, leaks, features)
    if not np.isfinite(features[frozen.usable(np.arange(len(labelled)))]).all():
        raise ConfigError(
            "the backbone gives features that are not finite. "
            "Its training diverged: use an older checkpoint of that run, or another precision."
        )
    return frozen


def frozen_features(extraction: Extraction, config: FrozenConfig, world: World) -> tuple[np.ndarray, dict[int, str]]:
    """As `extract`; evaluations in folders beside one another share what they compute."""
    if config.features.folder is not None:
        return extract(extraction, config.features, config.features.folder, world)
    own, beside = config.out / "features", config.out.absolute().parent
    others = [path for path in sorted(beside.glob("*/features")) if path != own.absolute()]
    return extract(extraction, config.features, own, world, others)


def _calibrate(
    config: FrozenConfig,
    world: World,
    backbone: OpenedBackbone,
    spec: ViewSpec,
    labelled: LabelledVideos,
    folds: Sequence[Fold],
) -> None:
    """Give a random network batch-norm statistics; rank 0 reads the clips, and every rank gets what it came to."""
    net = placed(backbone.net, world.device)
    if world.is_main:
        train = np.unique(np.concatenate([fold.train for fold in folds]))
        chosen = np.random.default_rng(config.seed).permutation(train)[:CALIBRATION_CLIPS].tolist()
        requests = [
            Request(video, int(labelled.rows[video]), [training_clip(labelled, spec, config.seed, 0, video)])
            for video in chosen
        ]
        plan_config = spec.plan_config(labelled.source.grid)
        with (
            ClipReader(labelled.source, plan_config, world.device, config.features.num_threads) as reader,
            Progressing("statistics of batch norm", len(requests), "clips", brief=True) as progress,
        ):

            def clips() -> Iterator[Tensor]:
                for _, found in reader.read(requests):
                    progress.begin()
                    if not isinstance(found, str):
                        yield found["visual"]

            calibrate(net, batches(clips(), CALIBRATION_BATCH))
        log.info("random network: batch norm has the statistics of %d clips", len(requests))
    for buffer in net.buffers():
        dist.broadcast(buffer, 0)


def training_clip(labelled: LabelledVideos, spec: ViewSpec, seed: int, epoch: int, video: int) -> ClipPlan:
    """`plan_training_clip` of a video by its place."""
    info = labelled.info(video)
    return plan_training_clip(spec, info, labelled.source.grid, seed=seed, epoch=epoch, video=video)
