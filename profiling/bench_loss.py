"""The loss over the memory banks, forward and backward: this project's against plain torch and other libraries."""

from modist_fast.commands.cli import run_cli
from modist_profiling.kernels.loss import main

if __name__ == "__main__":
    run_cli(main)
