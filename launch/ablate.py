"""The paper's ablations: modist ablate --table 3a --preset small --data FOLDER --out OUT [--jobs N]"""

from modist_fast.commands.ablate import main
from modist_fast.commands.cli import run_cli

if __name__ == "__main__":
    run_cli(main)
