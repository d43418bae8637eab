"""Train for some epochs and watch from outside: memory and file descriptors must stay as they are."""

from modist_fast.commands.cli import run_cli
from modist_profiling.soak import main

if __name__ == "__main__":
    run_cli(main)
