"""The banks against a list that a loop keeps."""

import pytest
import torch

from modist_fast.bank import EMPTY, KeyBank


@pytest.mark.parametrize(("size", "batch"), [(12, 4), (10, 4), (7, 7), (5, 3)])
def test_ring_holds_the_newest_keys_wherever_the_end_falls(size: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(size)
    bank = KeyBank(num_modalities=2, size=size, dim=3)
    slots: list[tuple[torch.Tensor, int]] = [(torch.zeros(2, 3), EMPTY)] * size
    position = 0
    for step in range(5):
        keys = torch.randn(2, batch, 3, generator=generator)
        ids = torch.arange(batch, dtype=torch.int32) + 100 * step
        bank.enqueue(keys, ids)
        for row in range(batch):
            slots[position % size] = (keys[:, row], int(ids[row]))
            position += 1
        assert bank.video_ids.tolist() == [video for _, video in slots]
        expected = torch.stack([key for key, _ in slots], dim=1).half()
        assert torch.equal(bank.keys, expected)
        assert int(bank.pointer) == position % size


def test_all_slots_are_empty_at_first() -> None:
    assert KeyBank(1, 6, 4).video_ids.tolist() == [EMPTY] * 6
