"""Grad-CAM of one or two frozen backbones on the test videos of a labelled store: pictures, a film, and the figure."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen.linear import Linear, fit_lbfgs
from modist_fast.evaluation.frozen.session import Frozen, open_frozen
from modist_fast.evaluation.statistics import bootstrap_interval
from modist_fast.gradcam.agreement import RULE, Agreement, motion_agreement, moving_region
from modist_fast.gradcam.cam import grad_cam, resize_cam
from modist_fast.gradcam.config import GradCamConfig
from modist_fast.gradcam.drawing import ShownClip, save_grid, save_video
from modist_fast.gradcam.paired import PairedClip, PairedClips
from modist_fast.host.distributed import World
from modist_fast.host.environment import git_revision
from modist_fast.models import Backbone
from modist_fast.run.checkpoint import plain
from modist_pipelines.progress import Progressing
from modist_pipelines.store.reader import Store

log = logging.getLogger("modist")


@dataclass
class _Seen:
    """What one backbone makes of the test clips; entry by entry as `clips`."""

    name: str
    frozen: Frozen
    net: Backbone
    """The backbone, at the output stride."""
    heads: dict[int, Linear]
    """Fold to classifier."""
    predicted: list[int]
    cams: list[Tensor] = field(default_factory=list)
    """(T, S, S) each."""


class _Head(nn.Module):
    """A fitted classifier as a module: (B, D) to (B, K') logits."""

    def __init__(self, linear: Linear, device: torch.device) -> None:
        super().__init__()
        self._unit = linear.unit
        self._weight, self._bias, self._shift, self._scale = (
            tensor.float().to(device) for tensor in (linear.weight, linear.bias, linear.shift, linear.scale)
        )

    def forward(self, features: Tensor) -> Tensor:
        if self._unit:
            features = nn.functional.normalize(features, dim=1)
        return ((features - self._shift) * self._scale) @ self._weight + self._bias


def run_gradcam(config: GradCamConfig, world: World) -> dict[str, Any]:
    """Write OUT/gradcam.png, OUT/gradcam.mp4 and OUT/gradcam.json.

    Returns:
        What the JSON holds.

    Raises:
        ConfigError, DataError: what the user can mend.
    """
    opened = _open(config, world)
    frozen = opened[0][1]
    store = frozen.labelled.source
    assert isinstance(store, Store)
    tested = [
        (fold, video) for fold, part in enumerate(frozen.counted()) for video in frozen.usable(part.test).tolist()
    ]
    reader = PairedClips(store, frozen.spec, config.motion_input)
    try:
        rows = [int(frozen.labelled.rows[video]) for _, video in tested]
        seen = [_fit(config, name, part, tested) for name, part in opened]
        clips: list[PairedClip] = []
        with Progressing("Grad-CAM", len(rows), "clips") as progress:
            for place, clip in enumerate(reader.read((row, reader.middle(row)) for row in rows)):
                progress.begin()
                clips.append(clip)
                for part in seen:  # while the next clip is decoded
                    part.cams.append(_cam(config, part, place, tested[place], clip.visual))
        log.info("Grad-CAM of %d clips by %s", len(clips), " and ".join(part.name for part in seen))
        regions = torch.stack([moving_region(clip.motion) for clip in clips])
        agreements = [motion_agreement(torch.stack(part.cams), regions) for part in seen]
        result = _result(config, seen, agreements, tested)
        shown = _choose(config, frozen, tested)
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "gradcam.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        title = f"Where a linear classifier on the frozen backbone sees the {_explained(config)} class (Grad-CAM)"
        save_grid(config.out / "gradcam.png", [_shown(seen, tested, clips, regions, place) for place in shown], title)
        with Progressing("film", len(shown[: config.num_filmed]), "videos", brief=True) as progress:
            films = []
            for place in shown[: config.num_filmed]:
                progress.begin()
                films.append(_film(config, seen, tested, reader, place))
            save_video(config.out / "gradcam.mp4", films, store.meta.fps / store.grid)
    finally:
        reader.close()
    return result


def _open(config: GradCamConfig, world: World) -> list[tuple[str, Frozen]]:
    if world.size > 1:
        raise ConfigError("Grad-CAM runs in one process: start it without torchrun.")
    if config.data.store is None:
        raise ConfigError("--store is missing: pass the store whose edges show where the clips move.")
    if config.views.sampling == "segments":
        raise ConfigError("--views.sampling segments: Grad-CAM is drawn on clips; use dense.")
    opened = [(config.name, open_frozen(config, world))]
    if config.versus is not None:
        other = replace(config, network=replace(config.network, backbone=config.versus))
        opened.append((config.versus_name, open_frozen(other, world)))
        if opened[0][1].spec != opened[1][1].spec:
            raise ConfigError(
                "the two backbones were trained on clips of different shape, so they cannot look at the same ones by "
                "default: give --views.num-frames, --views.stride and --views.crop-size."
            )
        odd = {**opened[0][1].odd, **opened[1][1].odd}  # both are fitted and shown on the same videos
        opened = [(name, replace(frozen, odd=odd)) for name, frozen in opened]
    return opened


def _explained(config: GradCamConfig) -> str:
    return "true" if config.explain == "label" else "predicted"


def _fit(config: GradCamConfig, name: str, frozen: Frozen, tested: Sequence[tuple[int, int]]) -> _Seen:
    """The classifiers of a backbone, which has yet to look at the clips."""
    labels, means, device = frozen.labelled.labels, frozen.means(), frozen.world.device
    heads = {
        number: fit_lbfgs(means[fold.train], labels[fold.train], config.lbfgs, device)
        for number, fold in enumerate(frozen.counted())
    }
    num_classes = len(frozen.labelled.classes)
    predicted = [int(heads[fold].probabilities(means[video][None], num_classes).argmax()) for fold, video in tested]
    backbone = frozen.backbone.net
    net = backbone.with_output_stride(config.output_stride or backbone.output_stride).to(device).eval()
    return _Seen(name, frozen, net, heads, predicted)


def _cam(config: GradCamConfig, seen: _Seen, place: int, tested: tuple[int, int], visual: Tensor) -> Tensor:
    """(T, S, S) on the host, for a clip (3, T, S, S) of a tested video."""
    frozen, (fold, video) = seen.frozen, tested
    head, device = seen.heads[fold], frozen.world.device
    label = int(frozen.labelled.labels[video]) if config.explain == "label" else seen.predicted[place]
    columns = np.flatnonzero(head.classes == label)
    if not len(columns):
        raise ConfigError(
            f"{frozen.labelled.names[video]} is of class {frozen.labelled.classes[label]}, which no training video is: "
            "there is nothing to explain. Use --explain predicted, or mend the split."
        )
    classes = torch.tensor([int(columns[0])], device=device)
    cam = grad_cam(seen.net, _Head(head, device), visual[None].to(device), classes)
    length, height, width = visual.shape[1:]
    return resize_cam(cam, (length, height, width))[0].cpu()


def _result(
    config: GradCamConfig, seen: Sequence[_Seen], agreements: Sequence[Agreement], tested: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    labelled, videos = seen[0].frozen.labelled, [video for _, video in tested]
    groups = None if labelled.groups is None else [labelled.groups[video] for video in videos]

    def mean(values: np.ndarray) -> dict[str, Any]:
        kept = ~np.isnan(values)
        if not kept.any():
            return {"mean": None, "interval": None, "clips": 0}
        of = None if groups is None else [group for group, keep in zip(groups, kept, strict=True) if keep]
        interval = bootstrap_interval(values[kept], of, seed=config.seed)
        return {"mean": float(values[kept].mean()), "interval": interval, "clips": int(kept.sum())}

    backbones = [
        {
            "name": part.name,
            "origin": part.frozen.backbone.origin,
            "digest": part.frozen.backbone.digest(),
            "top1": float(np.mean([labelled.labels[v] == p for v, p in zip(videos, part.predicted, strict=True)])),
            "agreement": mean(found.inside),
            "of_other_clips": mean(found.elsewhere),
            "above_area": mean(found.inside - found.area),
            "above_other_clips": mean(found.inside - found.elsewhere),
        }
        for part, found in zip(seen, agreements, strict=True)
    ]
    result = {
        "task": "gradcam",
        "rule": RULE,
        "chance": mean(agreements[0].area),
        "backbones": backbones,
        "options": plain(dataclasses.asdict(config)),
        "git_revision": git_revision(),
        "videos": [
            {
                "video": labelled.names[video],
                "label": labelled.classes[labelled.labels[video]],
                "area": _number(agreements[0].area[place]),
                **{part.name: _number(found.inside[place]) for part, found in zip(seen, agreements, strict=True)},
            }
            for place, video in enumerate(videos)
        ],
    }
    if len(seen) == 2:
        result["difference"] = mean(agreements[0].inside - agreements[1].inside)
    return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


def _choose(config: GradCamConfig, frozen: Frozen, tested: Sequence[tuple[int, int]]) -> list[int]:
    """Places of the clips that are shown: a class after the other, drawn by the seed, whatever the outcome."""
    order = np.random.default_rng(config.seed).permutation(len(tested)).tolist()
    labels = [int(frozen.labelled.labels[tested[place][1]]) for place in order]
    turns = [labels[:index].count(label) for index, label in enumerate(labels)]
    ranked = sorted(zip(turns, labels, order, strict=True))
    return [place for _, _, place in ranked[: config.num_shown]]


def _title(seen: Sequence[_Seen], tested: tuple[int, int], place: int) -> str:
    labelled = seen[0].frozen.labelled
    says = ", ".join(f"{part.name} says {labelled.classes[part.predicted[place]]}" for part in seen)
    return f"{labelled.classes[labelled.labels[tested[1]]]}   ({says})"


def _pixels(visual: Tensor, frozen: Frozen) -> np.ndarray:
    """(T, S, S, 3) uint8 of a normalized clip."""
    shares = (visual * frozen.spec.std + frozen.spec.mean).clamp(0, 1)
    return (255 * shares).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def _shown(
    seen: Sequence[_Seen], tested: Sequence[tuple[int, int]], clips: Sequence[PairedClip], regions: Tensor, place: int
) -> ShownClip:
    return ShownClip(
        _title(seen, tested[place], place),
        _pixels(clips[place].visual, seen[0].frozen),
        regions[place].numpy(),
        [(part.name, part.cams[place].numpy()) for part in seen],
    )


def _film(
    config: GradCamConfig, seen: Sequence[_Seen], tested: Sequence[tuple[int, int]], reader: PairedClips, place: int
) -> ShownClip:
    """A whole video: every frame as part of one of the clips that cover it."""
    labelled = seen[0].frozen.labelled
    row = int(labelled.rows[tested[place][1]])
    frames: dict[int, np.ndarray] = {}
    motion: dict[int, Tensor] = {}
    cams: list[dict[int, Tensor]] = [{} for _ in seen]
    plans = reader.covering(row)
    for plan, clip in zip(plans, reader.read((row, plan) for plan in plans), strict=True):
        numbers = plan.frames.tolist()
        frames |= dict(zip(numbers, _pixels(clip.visual, seen[0].frozen), strict=True))
        motion |= dict(zip(numbers, clip.motion, strict=True))
        for part, found in zip(seen, cams, strict=True):
            found |= dict(zip(numbers, _cam(config, part, place, tested[place], clip.visual), strict=True))
    order = sorted(frames)
    return ShownClip(
        labelled.classes[labelled.labels[tested[place][1]]],
        np.stack([frames[number] for number in order]),
        moving_region(torch.stack([motion[number] for number in order])).numpy(),
        [
            (
                f"{part.name} says {labelled.classes[part.predicted[place]]}",
                torch.stack([found[number] for number in order]).numpy(),
            )
            for part, found in zip(seen, cams, strict=True)
        ],
    )
