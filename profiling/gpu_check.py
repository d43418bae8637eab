"""Everything that only a GPU can show, in one folder that can be attached to an issue: `make gpu-check` runs it."""

from modist_fast.commands.cli import run_cli
from modist_profiling.gpu_check.run import main

if __name__ == "__main__":
    run_cli(main)
