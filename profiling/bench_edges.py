"""Flow to edge maps: this project's pass against OpenCV, plain torch, kornia and, on a GPU, CuPy."""

from modist_fast.commands.cli import run_cli
from modist_profiling.kernels.edges import main

if __name__ == "__main__":
    run_cli(main)
