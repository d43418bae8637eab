"""Flow edges of the codec's motion vectors, and of RAFT where its weights are, against those of DIS."""

from modist_fast.commands.cli import run_cli
from modist_profiling.data.flows import main

if __name__ == "__main__":
    run_cli(main)
