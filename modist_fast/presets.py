"""The presets: recipes as functions, one for each experiment that people repeat."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from modist_fast.config import (
    CheckpointConfig,
    ClipsConfig,
    LoaderConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    TrainConfig,
)
from modist_fast.errors import ConfigError, did_you_mean
from modist_pipelines.plan import Augmentation, ClipSpec


def modist_r50(store: Path | None, out: Path) -> TrainConfig:
    """The paper's main model: R3D-50, 8 frames of 224², 600 epochs (section 4.1).

    The cross-modal terms take the negatives of the positive's modality, unlike Eq. 2: see `modist_r50_eq2`.
    """
    return TrainConfig(store=store, out=out, preset="modist-r50", epochs=600)


def modist_r50_eq2(store: Path | None, out: Path) -> TrainConfig:
    """`modist_r50` with Eq. 2 as printed: the cross-modal terms take the negatives of the query's own modality.

    In the small-scale study that fell below random weights (docs/evidence.md). It is unstable at the start alone, so
    the weight of these terms grows over the first epoch.
    """
    objective = ObjectiveConfig(cross_negatives="own", cross_warmup_epochs=1.0)
    return replace(modist_r50(store, out), preset="modist-r50-eq2", objective=objective)


def modist_r18_128(store: Path | None, out: Path) -> TrainConfig:
    """The smaller model of Table 2: R3D-18 on 128² crops. Prepare its store with --short-side 144."""
    base = modist_r50(store, out)
    return replace(base, preset="modist-r18-128", model=ModelConfig(arch="r18"), clips=ClipsConfig(crop_size=128))


def rgb_only_r50(store: Path | None, out: Path) -> TrainConfig:
    """The baseline of Table 3a: Eq. 1 alone."""
    return replace(
        modist_r50(store, out),
        preset="rgb-only-r50",
        objective=ObjectiveConfig(motion=False, key_momentum=0.999),
    )


def k400_mini(store: Path | None, out: Path) -> TrainConfig:
    """The ablation setting: 60 000 videos of K400, 100 epochs (Table 3)."""
    return replace(
        modist_r50(store, out),
        preset="k400-mini",
        epochs=100,
        clips=ClipsConfig(subset=60_000),
        optim=OptimConfig(warmup_epochs=17.5),  # 35 of 200 epochs, the recipe's share
    )


def demo(store: Path | None, out: Path) -> TrainConfig:
    """A few minutes on two CPU cores, on the videos of modist make-demo-videos."""
    return TrainConfig(
        store=store,
        out=out,
        preset="demo",
        follow_videos=True,
        batch_size=32,
        group_size=16,
        epochs=110,
        model=ModelConfig(arch="r18", visual_width=16, motion_width=8, head="bn", head_width=256),
        # Few videos and few steps: a bank of a few epochs' keys, and momentum nets that keep up within the run.
        objective=ObjectiveConfig(bank_size=512, key_momentum=0.99),
        # Far milder than the paper's: matching colours and crops alone would take longer than the demo lasts, and the
        # cross-modal terms fall only after that (docs/evidence.md, "The made-up videos").
        clips=ClipsConfig(
            crop_size=48,
            # The objects of these videos never stand still: the paper's 0.02 would reject no window at all.
            motion_threshold=0.04,
            augmentation=Augmentation(
                crop_area=(0.8, 1.0), crop_aspect=(0.9, 1.1), color_strength=0.0, gray=0.0, blur=0.0
            ),
        ),
        optim=OptimConfig(lr=0.3, warmup_epochs=10.0),
        checkpoint=CheckpointConfig(every=200),
    )


def tiny(store: Path | None, out: Path) -> TrainConfig:
    """A laptop and some videos of one's own, 8 or more: the demo's nets on 64² crops, changed less than the paper's.

    Any store of the default grid will do; prepare --for tiny makes one that is quick to read.
    """
    base = demo(store, out)
    mild = Augmentation(crop_area=(0.4, 1.0), crop_aspect=(0.75, 1.33), color_strength=0.2, gray=0.1, blur=0.2)
    clips = ClipsConfig(crop_size=64, motion_threshold=0.0, augmentation=mild)
    return replace(base, preset="tiny", group_size=8, epochs=100, clips=clips)


def small(store: Path | None, out: Path) -> TrainConfig:
    """The small-scale proof: minutes an arm on one CPU core. modist ablate prepares its stores.

    docs/evidence.md has the runs that these values come from.
    """
    return TrainConfig(
        store=store,
        out=out,
        preset="small",
        batch_size=64,
        group_size=32,
        epochs=135,
        model=ModelConfig(arch="r18", visual_width=16, motion_width=8, head="bn", head_width=256),
        objective=ObjectiveConfig(bank_size=128, key_momentum=0.99),
        clips=ClipsConfig(
            crop_size=40,
            # Weizmann's clips last 1.4 seconds and more: both pathways see one second.
            visual=ClipSpec(num_frames=8, stride=4),
            motion=ClipSpec(num_frames=16, stride=2),
            augmentation=Augmentation(
                crop_area=(0.6, 1.0), crop_aspect=(0.75, 1.33), color_strength=0.2, gray=0.1, blur=0.2
            ),
        ),
        optim=OptimConfig(lr=0.4, warmup_epochs=10.0),
        loader=LoaderConfig(num_threads=1),  # arms run side by side, a core each
        checkpoint=CheckpointConfig(every=100),
    )


PRESETS: dict[str, Callable[[Path | None, Path], TrainConfig]] = {
    "modist-r50": modist_r50,
    "modist-r50-eq2": modist_r50_eq2,
    "modist-r18-128": modist_r18_128,
    "rgb-only-r50": rgb_only_r50,
    "k400-mini": k400_mini,
    "demo": demo,
    "tiny": tiny,
    "small": small,
}


PAPER_PRESETS = tuple(name for name in PRESETS if name not in ("demo", "tiny", "small"))
_SHORT_SIDES = {224: 256, 128: 144, 64: 96, 48: 72, 40: 72}
"""Pixels of a store's frames, by the crops that are cut from them."""


def store_options(name: str) -> dict[str, Any]:
    """What `modist prepare` is to be told, by name of the option, for a store that the preset trains from.

    Raises:
        ConfigError: there is no such preset.
    """
    config = find_preset(name)(None, Path())
    strides = [config.clips.visual.stride] + [config.clips.motion.stride] * config.objective.motion
    return {
        "short_side": _SHORT_SIDES[config.clips.crop_size],
        "grid": math.gcd(*strides),
        "motion_inputs": (config.motion_input,) if config.objective.motion else (),
    }


def find_preset(name: str) -> Callable[[Path | None, Path], TrainConfig]:
    """The recipe called `name`.

    Raises:
        ConfigError: there is none; the message lists those there are.
    """
    if name not in PRESETS:
        near = did_you_mean(name, PRESETS)
        raise ConfigError(f"--preset {name}: no such preset.{near} There are: {', '.join(PRESETS)}.")
    return PRESETS[name]
