"""How many groups go through the nets in one pass."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from modist_fast.groups import groups_in_a_pass
from modist_fast.host.distributed import least_over_ranks
from modist_fast.models.norm import GroupBatchNorm


@pytest.mark.parametrize(("groups_of_room", "wanted"), [(0.5, 1), (1, 1), (2.9, 2), (3, 3), (5.9, 3), (6, 6), (60, 6)])
def test_a_pass_takes_the_largest_share_of_the_groups_that_fits(groups_of_room: float, wanted: int) -> None:
    with torch.device("meta"):
        nets = nn.Sequential(GroupBatchNorm(4), nn.Conv3d(4, 8, 1), GroupBatchNorm(8))
        clips = torch.empty(2, 4, 3, 5, 5)
    values = 2 * 3 * 5 * 5 * (4 + 8)
    free_bytes = int(groups_of_room * 4 * values * 2 / 0.6) + 1  # 2 bytes a value; 60 % of the free memory
    assert groups_in_a_pass(6, lambda: nets(clips), nets, 2, free_bytes) == wanted


def _agree(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    assert least_over_ranks((8, 2)[rank], torch.device("cpu")) == 2
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree_on_what_fits_the_fullest_gpu(tmp_path: Path) -> None:
    """Else DDP's passes, and so its messages, would differ."""
    torch.multiprocessing.spawn(_agree, (str(tmp_path / "meeting"),), nprocs=2)
