"""Pre-train: torchrun --standalone --nproc-per-node N -m modist_fast pretrain --preset NAME --store STORE --out RUN"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.pretrain import main

if __name__ == "__main__":
    run_cli(main)
