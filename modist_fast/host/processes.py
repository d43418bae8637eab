"""Commands of this project in processes of their own."""

import sys


def command(name: str, *words: object, processes: int | None = None) -> tuple[str, ...]:
    """The words that run one of the commands in a process of its own, from any working directory.

    Args:
        name: of a module of `modist_fast.commands`.
        words: its options.
        processes: start so many by torchrun.
    """
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)) if processes else ()
    return (sys.executable, *torchrun, "-m", f"modist_fast.commands.{name}", *map(str, words))
