"""One training step: this project's against the method written plainly, and what each of its choices is worth."""

from modist_fast.commands.cli import run_cli
from modist_profiling.step.bench import main

if __name__ == "__main__":
    run_cli(main)
