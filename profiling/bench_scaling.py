"""One process against two: strong and weak scaling, bytes sent, and the model next to the measurement."""

from modist_fast.commands.cli import run_cli
from modist_profiling.scaling.bench import main

if __name__ == "__main__":
    run_cli(main)
