"""Average gradients over the ranks in bf16, and compare with the sums written out: under torchrun, on any number."""

import torch
import torch.distributed as dist
from torch import Tensor

from modist_fast.collectives.averaging import Bfloat16Average


def gradients_of(rank: int, num: int) -> Tensor:
    draws = torch.Generator().manual_seed(rank)
    return torch.randn(num, generator=draws) * 10.0 ** torch.randint(-6, 4, (num,), generator=draws)


def main() -> None:
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    average = Bfloat16Average(torch.device("cpu"))
    for num in (1, 5, 1000, 1003):  # fewer than ranks, and no multiple of them
        mine = gradients_of(rank, num)
        found = average(mine).wait()
        assert found.data_ptr() == mine.data_ptr()
        everyone = [gradients_of(other, num) for other in range(size)]
        rounded = torch.stack([one.bfloat16().double() for one in everyone])
        oracle = (rounded.sum(dim=0) / size).float().bfloat16().float()
        # A sum in float32 may fall on the other side of a rounding to bf16, by one of its last places.
        torch.testing.assert_close(found, oracle, rtol=2**-8, atol=0)
        assert (found == oracle).float().mean() > 0.99 or num < 100
        first = found.clone()
        dist.broadcast(first, 0)
        assert torch.equal(first, found)  # the same bits on all ranks
        if num == 1000 and size > 2:
            ring = everyone[0].bfloat16()
            for one in everyone[1:]:
                ring = ring + one.bfloat16()  # what sums in bf16 would be: rounded once a rank
            exact = torch.stack([one.double() for one in everyone]).mean(dim=0)
            errors = [float((value.double() - exact).abs().div(exact.abs()).median()) for value in (found, ring / size)]
            assert errors[0] < errors[1], errors
    bad = torch.ones(10)
    if rank == 0:
        bad[3] = torch.inf
    assert average(bad).wait().isinf().tolist() == [place == 3 for place in range(10)]
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
