"""The step budget out of Nsight Systems' tables: python profiling/nsys_budget.py RUN/profile [--json FILE]"""

from modist_fast.commands.cli import run_cli
from modist_profiling.nsys import main

if __name__ == "__main__":
    run_cli(main)
