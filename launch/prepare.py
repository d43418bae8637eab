"""Turn a folder of videos into a store: python launch/prepare.py VIDEOS --out STORE"""

import tyro

from modist_fast.cli import run_cli
from modist_fast.preparation import prepare_store
from modist_pipelines.prepare import PrepareConfig


def main() -> None:
    config = tyro.cli(PrepareConfig, config=(tyro.conf.FlagCreatePairsOff,))
    result = prepare_store(config)
    if not config.dry_run:  # the estimate is in the log
        print(result)
        print(f"store: {config.out}")


if __name__ == "__main__":
    run_cli(main)
