"""Keys travel while the queries are computed: a stand-in whose messages arrive when they are waited for."""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from modist_fast.host import distributed
from modist_fast.host.distributed import KeysOnTheWay, join_world
from modist_fast.step import TrainingStep
from tests.method.small_runs import noise, small_config

WORLD, NUM_LOCAL, DIM = 2, 3, 4


class Late:
    """A message that does not arrive by itself."""

    def __init__(self, arrive: Callable[[], object]) -> None:
        self._arrive = arrive

    def wait(self) -> None:
        self._arrive()


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """As rank 0 of two: the keys and the damage of rank 1 come when they are waited for, and not before."""
    theirs = 100 + torch.arange(float(NUM_LOCAL * 2 * DIM)).view(NUM_LOCAL, 2, DIM)
    their_ids = torch.tensor([-1, 11, 12, 13, 14, 15], dtype=torch.int32)

    def gather(gathered: Tensor, mine: Tensor, async_op: bool = False) -> Late:
        assert async_op
        gathered.fill_(torch.nan)
        return Late(lambda: gathered.copy_(torch.cat([mine, theirs])))

    def reduce(ids: Tensor, op: dist.ReduceOp, async_op: bool = False) -> Late:
        assert op == dist.ReduceOp.MIN
        assert async_op
        return Late(lambda: torch.minimum(ids, their_ids, out=ids))

    monkeypatch.setattr(dist, "get_world_size", lambda: WORLD)
    monkeypatch.setattr(distributed, "all_gather_single", gather)
    monkeypatch.setattr(dist, "all_reduce", reduce)
    return theirs, their_ids


def test_keys_come_in_the_order_of_the_samples_and_what_any_rank_lost_is_lost(two_ranks: tuple[Tensor, Tensor]) -> None:
    theirs, _ = two_ranks
    mine = torch.arange(float(2 * NUM_LOCAL * DIM)).view(2, NUM_LOCAL, DIM)
    deal = torch.tensor([4, 0, 2, 5, 1, 3])
    ids = torch.arange(10, 16, dtype=torch.int32)
    damaged = torch.tensor([False, False, True, False, False, False])
    keys, agreed = KeysOnTheWay(mine, deal, ids, damaged).receive()
    dealt = [mine[:, place] for place in range(3)] + [theirs[place] for place in range(3)]
    for position, sample in enumerate(deal.tolist()):
        torch.testing.assert_close(keys[:, sample], dealt[position])
    assert agreed.tolist() == [-1, 11, -1, 13, 14, 15]


def test_a_step_asks_for_them_after_its_first_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noted(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def call(*args: object) -> object:
            done.append(name)
            return original(*args)

        monkeypatch.setattr(owner, name, call)

    for owner, name in (
        (KeysOnTheWay, "__init__"),
        (KeysOnTheWay, "receive"),
        (TrainingStep, "_embed_keys"),
        (TrainingStep, "_embed_queries"),
        (TrainingStep, "_loss"),
    ):
        noted(owner, name)
    config = small_config(num_groups=2)
    with join_world("cpu") as world:
        TrainingStep(config, world)(noise(config, 0), 0.1)
    passes = ["_embed_queries", "receive", "_loss", "_embed_queries", "_loss"]
    assert done == ["_embed_keys", "__init__", *passes]
