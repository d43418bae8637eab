"""What a process pays to begin with ten million videos."""

from modist_fast.commands.cli import run_cli
from modist_profiling.data.index import main

if __name__ == "__main__":
    run_cli(main)
