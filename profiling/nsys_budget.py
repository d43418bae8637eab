"""The step budget out of Nsight Systems' tables: python profiling/nsys_budget.py RUN/profile [--json FILE]"""

import argparse
import json
from pathlib import Path

from modist_fast.commands.cli import run_cli
from modist_fast.errors import ConfigError
from modist_profiling import nsys


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds nsys-rankR_*.csv, as profiling/nsys_pretrain.sh makes them")
    parser.add_argument("--json", type=Path, help="write the budget here too")
    options = parser.parse_args()
    try:
        ranks = nsys.read_stats(options.folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    print(nsys.table(ranks))
    if options.json is not None:
        options.json.write_text(json.dumps(nsys.as_json(ranks), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_cli(main)
