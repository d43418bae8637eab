"""Make the demo videos: modist make-demo-videos OUT"""

import os
from dataclasses import dataclass
from pathlib import Path

import tyro

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.demo_videos import MOTIONS, make_demo_videos
from modist_fast.evaluation.ava.made_up import ACTIONS, make_ava
from modist_pipelines.ranges import COUNT, FROM_ZERO, ranged


@dataclass(frozen=True)
class DemoVideosConfig:
    """Make small H.264 videos whose classes differ in motion alone."""

    out: tyro.conf.Positional[Path]
    """Folder; videos that it already holds are left alone."""
    num_videos: int = ranged(192, COUNT)
    """How many."""
    ava: bool = False
    """Make a set in AVA's format instead: two objects a video with actions of their own, OUT/videos, and the CSVs of
    boxes, the list of actions and the excluded keyframes beside it."""
    seed: int = ranged(0, FROM_ZERO)
    """Another one gives other videos."""


def main() -> None:
    config = parse_options(DemoVideosConfig)
    workers = len(os.sched_getaffinity(0))
    if config.ava:
        made = make_ava(config.out, num_videos=config.num_videos, seed=config.seed, workers=workers)
        print(f"{made} videos made, {config.num_videos - made} already there: {len(ACTIONS)} actions in {config.out}")
        return
    made = make_demo_videos(config.out, num_videos=config.num_videos, seed=config.seed, workers=workers)
    print(f"{made} videos made, {config.num_videos - made} already there: {len(MOTIONS)} motions in {config.out}")


if __name__ == "__main__":
    run_cli(main)
