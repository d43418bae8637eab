"""python -m modist_fast doctor: what is installed here, and what each absence costs."""

import argparse
import sys

from modist_fast.host.doctor import run_doctor


def main() -> int:
    """Parse the command line; argparse, because tyro may be what is missing."""
    parser = argparse.ArgumentParser(prog="python -m modist_fast")
    commands = parser.add_subparsers(dest="command", required=True)
    doctor = commands.add_parser("doctor", help="say what is installed here, and what each absence costs")
    doctor.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return run_doctor(parser.parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
