"""Turn videos into a store: modist prepare VIDEOS --out STORE [--for PRESET] [--shard I/N, then --merge]"""

import argparse
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from modist_fast.commands.cli import parse_options, run_cli
from modist_fast.presets import store_options
from modist_pipelines.prepare.run import PrepareConfig, prepare
from modist_pipelines.store.summary import Summary


@dataclass(frozen=True)
class CommandConfig(PrepareConfig):
    __doc__ = PrepareConfig.__doc__

    preset: Annotated[str | None, tyro.conf.arg(name="for", metavar="PRESET")] = None
    """The store is for `modist pretrain --preset PRESET`, which decides size of frames, grid and motion input where no
    option does."""


def parse(arguments: list[str]) -> CommandConfig:
    """The options, beginning with what the preset after --for trains from."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--for", dest="preset")
    preset = first.parse_known_args(arguments)[0].preset
    default = CommandConfig(videos=tyro.MISSING, out=tyro.MISSING, **(store_options(preset) if preset else {}))
    return parse_options(CommandConfig, arguments, default=default, config=(tyro.conf.FlagCreatePairsOff,))


def main() -> None:
    config = parse(sys.argv[1:])
    from modist_fast.commands.edge_map import edge_map  # and torch with it

    result = prepare(config, edge_map)
    if isinstance(result, Summary):  # an estimate, or what is left to do, is in the log
        print(result)
        print(f"store: {config.out}")


if __name__ == "__main__":
    run_cli(main)
