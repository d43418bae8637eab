"""How far the kernels and the clips' graphs are from their float64 definitions on this machine, as a table."""

from modist_fast.commands.cli import run_cli
from modist_profiling.parity import main

if __name__ == "__main__":
    run_cli(main)
