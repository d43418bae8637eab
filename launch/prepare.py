"""Turn videos into a store: python launch/prepare.py VIDEOS --out STORE [--shard I/N, then --merge]"""

import tyro

from modist_fast.commands.cli import run_cli
from modist_fast.preparation import prepare_store
from modist_pipelines.prepare.run import PrepareConfig
from modist_pipelines.store.summary import Summary


def main() -> None:
    config = tyro.cli(PrepareConfig, config=(tyro.conf.FlagCreatePairsOff,))
    result = prepare_store(config)
    if isinstance(result, Summary):  # an estimate, or what is left to do, is in the log
        print(result)
        print(f"store: {config.out}")


if __name__ == "__main__":
    run_cli(main)
