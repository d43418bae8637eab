"""Turn videos into a store: modist prepare VIDEOS --out STORE [--shard I/N, then --merge]"""

import tyro

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.commands.edge_map import edge_map
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.summary import Summary


def main() -> None:
    config = parse_options(PrepareConfig, config=(tyro.conf.FlagCreatePairsOff,))
    result = prepare(config, edge_map)
    if isinstance(result, Summary):  # an estimate, or what is left to do, is in the log
        print(result)
        print(f"store: {config.out}")


if __name__ == "__main__":
    run_cli(main)
