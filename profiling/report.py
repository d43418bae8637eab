"""A run, or two side by side, as one HTML page: python profiling/report.py RUN [RUN] [--out FILE]

The page needs no network, and can be made while the run goes on.
"""

import argparse
from pathlib import Path

from modist_fast.commands.cli import run_cli
from modist_fast.errors import ConfigError
from modist_profiling.report.page import page
from modist_profiling.report.runs import ReportError, read_run


def main() -> None:
    options = _parse()
    try:
        html = page([read_run(folder) for folder in options.runs])
    except ReportError as error:
        raise ConfigError(str(error)) from error
    out: Path = options.out or options.runs[0] / "report.html"
    try:
        out.write_text(html, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error.strerror}. Choose another file.") from error
    print(f"{out}  {len(html.encode()) / 1e6:.1f} MB; open it in a browser")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the --out of a launch/pretrain.py")
    parser.add_argument("--out", type=Path, help="the page; without it report.html in the first RUN")
    options = parser.parse_args()
    if len(options.runs) > 2:
        raise ConfigError(f"{len(options.runs)} runs were given. A page shows one run, or two side by side.")
    return options


if __name__ == "__main__":
    run_cli(main)
