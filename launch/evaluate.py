"""Evaluate a backbone: [torchrun … ] launch/evaluate.py linear --backbone RUN --store STORE --labels LIST --out OUT"""

import logging
from typing import Annotated

import tyro

from modist_fast.cli import run_cli
from modist_fast.distributed import join_world
from modist_fast.evaluation.results import print_result, write_result
from modist_fast.evaluation.tasks import (
    KnnEvaluationConfig,
    LinearConfig,
    LowShotConfig,
    RetrievalConfig,
    run_knn,
    run_linear,
    run_lowshot,
    run_retrieval,
)

log = logging.getLogger("modist")
Command = (
    Annotated[LinearConfig, tyro.conf.subcommand("linear")]
    | Annotated[KnnEvaluationConfig, tyro.conf.subcommand("knn")]
    | Annotated[RetrievalConfig, tyro.conf.subcommand("retrieval")]
    | Annotated[LowShotConfig, tyro.conf.subcommand("lowshot")]
)
_RUNS = {
    LinearConfig: run_linear,
    KnnEvaluationConfig: run_knn,
    RetrievalConfig: run_retrieval,
    LowShotConfig: run_lowshot,
}


def main() -> None:
    config = tyro.cli(Command, description=__doc__)
    with join_world(config.device) as world:
        if not world.is_main:
            log.setLevel(logging.WARNING)
        result = _RUNS[type(config)](config, world)
        if world.is_main:
            write_result(config.out, result)
            print_result(result)
            print(f"result: {config.out / 'result.json'}")


if __name__ == "__main__":
    run_cli(main)
