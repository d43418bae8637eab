"""What a store holds, whether it is whole, and how to get room back: modist store info|check|compact STORE"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from modist_fast import __version__
from modist_fast.commands.cli import parse_options, run_cli
from modist_pipelines.plan import ClipSpec, PlanConfig, eligible_videos, threshold_that_rejects
from modist_pipelines.ranges import COUNT, OPEN_SHARE, SHARE, ranged
from modist_pipelines.store.reader import VERSION, Store
from modist_pipelines.store.summary import Summary
from modist_pipelines.store.upkeep import Holes, compact, damage


@dataclass(frozen=True)
class StoreConfig:
    """Look after a store."""

    action: Annotated[Literal["info", "check", "compact"], tyro.conf.Positional]
    """info: what it holds. check: read every byte against its checksum; exit code 1 where one fails. compact: take the
    room that removed and replaced videos left out of its shards; runs go on as before."""
    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder of the store."""
    motion_threshold: float = ranged(0.02, SHARE)
    """γ, for the share of videos and windows that it rejects: a share of the motion maps' full scale."""
    reject_share: float | None = ranged(None, OPEN_SHARE)
    """info: instead of --motion-threshold, the γ that rejects this share of the windows, such as 0.15."""
    window: int = ranged(16, COUNT)
    """Grid frames of a motion window: 16 are the paper's two seconds on a grid of 4."""


def main() -> int:
    config = parse_options(StoreConfig, config=(tyro.conf.FlagCreatePairsOff,))
    store = Store.open(config.store)
    if config.action == "info":
        print(_info(store, config))
    elif config.action == "check":
        found = damage(store)
        print("\n".join(found) or f"{store.path} is whole: {store.num_videos} videos, every checksum fits")
        return int(bool(found))
    else:
        freed = compact(store)
        print(f"{freed / 1e9:.3g} GB freed" if freed else "nothing to free")
    return 0


def _info(store: Store, config: StoreConfig) -> str:
    holes = Holes.of(store)
    lines = [
        str(Summary.of(store)),
        f"format {VERSION}, read by modist-fast {__version__}; fingerprint {store.fingerprint()}",
        f"{holes.num_bytes / 1e9:.3g} GB of removed or replaced videos: modist store compact frees them",
    ]
    for name in store.meta.motion_inputs:
        grid = store.grid
        motion, visual = ClipSpec(config.window, grid), ClipSpec(1, grid)
        plan = PlanConfig(visual, motion, 1, grid, motion_threshold=config.motion_threshold, motion_input=name)
        if config.reject_share is not None:
            plan = replace(plan, motion_threshold=threshold_that_rejects(store, plan, config.reject_share))
        found = eligible_videos(store, plan)
        lines.append(
            f"γ = {plan.motion_threshold:g} ({name}) rejects {found.num_rejected / max(1, found.num_windows):.1%} of "
            f"the windows of {config.window} grid frames, and {1 - len(found.videos) / store.num_videos:.1%} of the "
            "videos altogether"
        )
    card = ", ".join(f"{name} {value}" for name, value in store.card().items() if not isinstance(value, dict))
    return "\n".join([*lines, card])


if __name__ == "__main__":
    run_cli(main)
