"""A run, or two side by side, as one HTML page: modist report RUN [RUN] [--out FILE]"""

from modist_fast.commands.cli import run_cli
from modist_profiling.report.page import main

if __name__ == "__main__":
    run_cli(main)
