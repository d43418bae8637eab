"""A model of throughput on GPUs, not a measurement: Markdown tables of stages, bottlenecks and scaling."""

from modist_fast.commands.cli import run_cli
from modist_profiling.scaling.throughput import main

if __name__ == "__main__":
    run_cli(main)
