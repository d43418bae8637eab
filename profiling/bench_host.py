"""What the host does for a frame besides decoding and augmenting it: plan, read, hand over to DALI."""

from modist_fast.commands.cli import run_cli
from modist_profiling.data.host import main

if __name__ == "__main__":
    run_cli(main)
