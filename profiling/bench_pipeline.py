"""The data plane against its peers: the same clips from the same videos, in turns."""

from modist_fast.commands.cli import run_cli
from modist_profiling.data.bench import main

if __name__ == "__main__":
    run_cli(main)
