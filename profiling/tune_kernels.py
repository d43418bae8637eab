"""Refresh the launch configurations of the kernels (kernels/modist_kernels/configurations.py)."""

from modist_fast.commands.cli import run_cli
from modist_profiling.kernels.tuning import main

if __name__ == "__main__":
    run_cli(main)
