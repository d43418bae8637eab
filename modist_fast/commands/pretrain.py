"""Pre-train: torchrun --standalone --nproc-per-node N -m modist_fast pretrain --preset NAME --store STORE --out RUN"""

import argparse
import dataclasses
import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import tyro

from modist_fast.commands.cli import is_alone_at_start, parse_options, run_cli, starting
from modist_fast.config import TrainConfig, check
from modist_fast.errors import ConfigError
from modist_fast.network.errors import advice
from modist_fast.presets import PAPER_PRESETS, PRESETS, find_preset
from modist_fast.run.few_videos import fitted, words
from modist_fast.run.files import refuse_taken, traces
from modist_fast.run.options import plain, spelled

if TYPE_CHECKING:  # --help and a wrong option need not wait for torch
    import torch

    from modist_pipelines.source import ClipSource

log = logging.getLogger("modist")


def parse(arguments: list[str]) -> TrainConfig:
    """The preset that --preset names, with every value that the command line overrides."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    wants_help = "--help" in arguments or "-h" in arguments
    preset = first.parse_known_args(arguments)[0].preset or ("modist-r50" if wants_help else None)
    if preset is None:
        raise ConfigError(f"--preset is missing. There are: {', '.join(PRESETS)}.")
    default = find_preset(preset)(None, tyro.MISSING)
    if any(word.split("=")[0] in ("--batch-size", "--batch_size") for word in arguments):
        default = replace(default, follow_videos=False)  # a size that was asked for is kept to
    return parse_options(
        TrainConfig,
        arguments,
        default=default,
        description=f"{TrainConfig.__doc__}\n\nDefaults below: --preset {preset}. Presets: {', '.join(PRESETS)}.",
    )


def open_source(config: TrainConfig, device: "torch.device") -> "ClipSource":
    """The store or the raw videos of a configuration that `config.check` has passed.

    Args:
        device: of this process; a GPU decodes raw videos itself.

    Raises:
        DataError: no store, no videos.
    """
    from modist_pipelines.remote.fetch import use_cache
    from modist_pipelines.store.reader import Store
    from modist_pipelines.video.raw import RawVideos

    use_cache(config.cache, config.cache_gb, (config.store, config.videos))
    if config.source == "store":
        assert config.store is not None
        store = Store.open(config.store)
        if config.preset in PAPER_PRESETS and config.objective.motion and not store.meta.flow.startswith("raft"):
            log.warning(
                "%s was prepared with --flow %s; the paper, whose recipe --preset %s is, takes RAFT's "
                "(--flow raft-large; docs/own-videos.md).",
                config.store,
                store.meta.flow,
                config.preset,
            )
        return store
    assert config.videos is not None
    source = RawVideos(
        config.videos,
        device=str(device),
        num_threads=config.loader.num_threads,
        engine=config.loader.video_engine,
        frames_fps=config.frames_fps,
    )
    if config.objective.motion:
        source.check_motion(config.motion_input)
        log.info(
            "--source video: the motion pathway sees the %s of consecutive frames, of any window: "
            "--clips.motion-threshold is not applied, since no scores are known. Flow edges need a store "
            "(modist prepare).",
            config.motion_input,
        )
    return source


def follow_videos(config: TrainConfig, source: "ClipSource", world_size: int) -> TrainConfig:
    """The configuration that the videos are enough for, see `few_videos.fitted`; says once what that changed."""
    if not config.follow_videos:
        return config
    from modist_pipelines.plan import eligible_videos

    usable = len(eligible_videos(source, config.plan(source.grid, source.fps)).videos)
    usable = min(usable, config.clips.subset or usable)
    found = fitted(config, usable, world_size)
    if found != config:
        log.info("%s", words(config, found, usable))
        check(found, world_size)
    return found


def own_options(config: TrainConfig) -> str:
    """The options that differ from the preset's, a line each, and where the others are."""
    recipe = find_preset(config.preset)(None, config.out)
    given, usual = (spelled(plain(dataclasses.asdict(each))) for each in (config, recipe))
    own = {option: value for option, value in given.items() if option == "out" or value != usual.get(option)}
    lines = [f"{option:36} {value}" for option, value in own.items()]
    others = f"{len(given) - len(own)} other options as --preset {config.preset} has them: {config.out / 'config.json'}"
    return "\n".join([*lines, others])


def main() -> None:
    config = parse(sys.argv[1:])
    if config.resume != "auto" and not config.overwrite and is_alone_at_start():
        refuse_taken(config.out, traces(config.out))
    starting()  # what comes now imports torch
    from modist_fast.collectives.agreement import agree_on_program
    from modist_fast.host.arithmetic import arithmetic_of
    from modist_fast.host.distributed import join_world
    from modist_fast.trainer import Trainer

    with join_world(config.device, config.collective_timeout, arithmetic_of(config)) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        check(config, world.size)
        agree_on_program(plain(dataclasses.asdict(config)))
        for sentence in advice(config.resume):
            log.warning("WARNING: %s", sentence)
        log.info("%s", own_options(config))
        if world.is_main and config.optim.warmup_epochs > config.epochs:
            log.warning(
                "WARNING: --epochs %g end before the --optim.warmup-epochs %g do: the learning rate never comes to its "
                "peak. A tenth of the epochs is usual: --optim.warmup-epochs %g",
                config.epochs,
                config.optim.warmup_epochs,
                config.epochs / 10,
            )
        log.info("%d process(es) on %s", world.size, world.device)
        source = open_source(config, world.device)
        Trainer(follow_videos(config, source, world.size), world, source).run()


if __name__ == "__main__":
    run_cli(main)
