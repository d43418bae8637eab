"""Evaluate a backbone: modist evaluate linear --backbone RUN --store STORE --labels LIST --out OUT"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.evaluate import main

if __name__ == "__main__":
    run_cli(main)
