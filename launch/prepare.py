"""Turn videos into a store: modist prepare VIDEOS --out STORE [--shard I/N, then --merge]"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.prepare import main

if __name__ == "__main__":
    run_cli(main)
