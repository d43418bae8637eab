"""Evaluate a backbone: modist evaluate linear --backbone RUN --store STORE --labels LIST --out OUT"""

import argparse
import logging
import sys
from typing import Annotated, Any

import tyro

from modist_fast.commands.cli import parse_options, run_cli, starting
from modist_fast.errors import ConfigError, did_you_mean
from modist_fast.evaluation.ava.config import AVA_RECIPES, AvaConfig
from modist_fast.evaluation.config import BackboneConfig
from modist_fast.evaluation.finetune.config import FinetuneConfig, SupervisedConfig, with_recipe
from modist_fast.evaluation.frozen.config import KnnEvaluationConfig, LinearConfig, LowShotConfig, RetrievalConfig
from modist_fast.run.files import refuse_other_task

log = logging.getLogger("modist")
_TASKS = ("linear", "knn", "retrieval", "lowshot", "finetune", "supervised", "ava")


def parse(arguments: list[str]) -> Any:
    """The sub-command's options; those of finetune, supervised and ava begin with the recipe that --preset names."""
    task = arguments[0] if arguments else "--help"
    if not task.startswith("-") and task not in _TASKS:
        raise ConfigError(f"evaluate has no task {task!r}.{did_you_mean(task, _TASKS)} There are: {', '.join(_TASKS)}.")
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    preset = first.parse_known_args(arguments)[0].preset
    finetune = FinetuneConfig(out=tyro.MISSING, network=BackboneConfig(backbone=tyro.MISSING))
    supervised = SupervisedConfig(out=tyro.MISSING)
    ava = AvaConfig(out=tyro.MISSING, network=BackboneConfig(backbone=tyro.MISSING))
    if preset is not None and task == "ava":
        ava = with_recipe(ava, preset, AVA_RECIPES)
    elif preset is not None:
        finetune, supervised = with_recipe(finetune, preset), with_recipe(supervised, preset)
    commands = (
        Annotated[LinearConfig, tyro.conf.subcommand("linear")]
        | Annotated[KnnEvaluationConfig, tyro.conf.subcommand("knn")]
        | Annotated[RetrievalConfig, tyro.conf.subcommand("retrieval")]
        | Annotated[LowShotConfig, tyro.conf.subcommand("lowshot")]
        | Annotated[FinetuneConfig, tyro.conf.subcommand("finetune", default=finetune)]
        | Annotated[SupervisedConfig, tyro.conf.subcommand("supervised", default=supervised)]
        | Annotated[AvaConfig, tyro.conf.subcommand("ava", default=ava)]
    )
    return parse_options(commands, arguments, description=__doc__)  # pyright: ignore[reportArgumentType, reportCallIssue]


def main() -> None:
    config = parse(sys.argv[1:])
    refuse_other_task(config.out, task := sys.argv[1])
    starting()  # what comes now imports torch
    from modist_fast.evaluation.results import print_result, write_result
    from modist_fast.evaluation.tasks import RUNS
    from modist_fast.host.arithmetic import arithmetic_of
    from modist_fast.host.distributed import join_world, on_main
    from modist_fast.run.alone import alone_in

    with join_world(config.device, config.collective_timeout, arithmetic_of(config)) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        with alone_in(config.out, world):
            on_main(world, lambda: refuse_other_task(config.out, task))
            result = RUNS[type(config)](config, world)
            if world.is_main:
                write_result(config.out, result)
        if world.is_main:
            print_result(result)
            print(f"result: {config.out / 'result.json'}")


if __name__ == "__main__":
    run_cli(main)
