"""Ranks that differ, and ranks that do not: under torchrun, on two."""

import os
from pathlib import Path

import torch.distributed as dist

from modist_fast.collectives.agreement import agree_on_data, agree_on_program, refuse_difference
from modist_fast.errors import ConfigError

CONFIG = {"seed": 0, "store": "here", "loader": {"num_threads": 4}, "clips": {"crop_size": 32}}


def refused(act) -> str:
    try:
        act()
    except ConfigError as error:
        return str(error)
    return ""


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    os.environ["GROUP_RANK"] = str(rank)
    mine = CONFIG | {"store": f"folder {rank}", "loader": {"num_threads": rank}}  # places and speed are a node's own
    assert refused(lambda: agree_on_program(mine)) == ""
    message = refused(lambda: agree_on_program(mine | {"seed": rank, "clips": {"crop_size": 32 + rank}}))
    for words in ("--seed: 0 on rank 0 (node 0, ", "1 on rank 1 (node 1, ", "--clips.crop-size: 32 on", "start again"):
        assert words in message, message
    assert "program: " not in message
    assert "torch: " not in message
    everyone: list = [None] * 2
    dist.all_gather_object(everyone, message)
    assert everyone[0] == everyone[1]  # said alike, so that it is printed once
    asked = []

    def content(text: str) -> str:
        asked.append(text)
        return text

    path = Path("STORE")
    assert refused(lambda: agree_on_data(path, "same", lambda: content("not asked for"))) == ""
    assert not asked
    assert refused(lambda: agree_on_data(path, f"copied by {rank}", lambda: content("same"))) == ""
    assert asked == ["same"]
    message = refused(lambda: agree_on_data(path, f"of {rank}", lambda: content(f"videos {rank}")))
    assert "the data in STORE: videos 0 on rank 0 (node 0, " in message, message
    assert "none on rank 1" in refused(lambda: refuse_difference({"a part": "x"} if rank == 0 else {}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
