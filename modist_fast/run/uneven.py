"""A batch that does not divide by the processes, as where a node has left."""

import json
from pathlib import Path


def uneven(batch: int, group: int, processes: int, out: Path) -> str:
    """What is wrong, and what helps: a run that began on more processes waits for them, and keeps its options.

    Args:
        out: of the run, which says on how many processes it was last.
    """
    wrong = (
        f"--batch-size {batch} does not split into groups of --group-size {group} over {processes} process(es): it "
        f"must be a multiple of {group * processes}."
    )
    before = _processes_before(out)
    if before in (None, processes):
        return f"{wrong} Change one of the three."
    fitting = [str(count) for count in range(1, batch // group + 1) if batch % (group * count) == 0]
    return (
        f"{wrong} The run in {out} was on {before} before: nodes have left or come. Nothing is lost: start it on "
        f"{' or '.join(fitting)} process(es), and --resume auto goes on. With torchrun --nnodes LEAST:MOST any number "
        "in between may come; where only some divide the batch, name one number."
    )


def _processes_before(out: Path) -> int | None:
    try:
        return int(json.loads((out / "environment.json").read_text(encoding="utf-8"))["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
