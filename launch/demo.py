"""The whole way in one command: made-up videos, a store, a pre-training run, pictures. `make demo` calls it."""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.demo import main

if __name__ == "__main__":
    run_cli(main)
