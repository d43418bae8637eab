"""The step budget out of Nsight Systems' tables: modist nsys-budget RUN/profile [--json FILE]"""

from modist_fast.commands.cli import run_cli
from modist_profiling.nsys import main

if __name__ == "__main__":
    run_cli(main)
