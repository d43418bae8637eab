"""What is installed here, and what each absence costs: modist doctor [--json]"""

from modist_fast.commands.cli import Parser
from modist_fast.host.doctor import run_doctor


def main() -> int:
    """Parse the command line; argparse, because tyro may be what is missing."""
    parser = Parser(prog="modist doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return run_doctor(parser.parse_args().json)
