"""Pre-train and count what this process sends: counted.py COUNT_JSON EXTRA [pretrain.py's options], under torchrun.

EXTRA is the number of float32 that a planted collective adds to each step; 0 plants none. Writes COUNT_JSON with the
rank before its suffix.
"""

import json
import os
import runpy
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist

from modist_fast.pathways import MoDist
from modist_fast.trainer import Trainer
from modist_fast.watch.undo import LeaveOut
from modist_profiling.scaling.link import CollectiveCounter, bytes_sent_on_sockets

REPOSITORY = Path(__file__).resolve().parents[2]


def _count(path: Path) -> None:
    original = Trainer._loop

    def counted(self: Trainer) -> None:
        dist.barrier()
        before = bytes_sent_on_sockets()
        with CollectiveCounter(lambda: self.step.spans.phase) as counter:
            original(self)
        dist.barrier()
        sockets = bytes_sent_on_sockets() - before
        messages = [{**asdict(kind), "bytes": counter.num_bytes[kind]} for kind in counter.calls]
        record = {"steps": self.steps_done, "sockets": sockets, "messages": messages}
        path.with_suffix(f".{self.world.rank}.json").write_text(json.dumps(record), encoding="utf-8")

    Trainer._loop = counted


def _plant(num: int) -> None:
    original = MoDist.update_momentum

    def talkative(self: MoDist, key_momentum: float, leave_out: LeaveOut | None = None) -> None:
        original(self, key_momentum, leave_out)
        dist.all_reduce(torch.zeros(num))

    MoDist.update_momentum = talkative


def main() -> None:
    path, extra, *options = sys.argv[1:]
    assert int(os.environ["WORLD_SIZE"]) > 1
    _count(Path(path))
    if int(extra):
        _plant(int(extra))
    script = REPOSITORY / "launch" / "pretrain.py"
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
