"""Show where backbones look: modist gradcam --backbone RUN --versus RUN --store STORE --labels LIST --out OUT"""

from modist_fast.commands.cli import run_cli
from modist_fast.commands.gradcam import main

if __name__ == "__main__":
    run_cli(main)
