"""Health figures against loops."""

import math

import pytest
import torch

from modist_fast.bank import KeyBank
from modist_fast.watch.health import bank_health, retrieval, uniformity


def unit(*shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def test_uniformity_is_the_mean_over_pairs():
    keys = unit(2, 5, 8)
    for modality, name in enumerate(("visual", "motion")):
        pairs = [
            math.exp(-2 * float((keys[modality, i] - keys[modality, j]).square().sum()))
            for i in range(5)
            for j in range(5)
            if i != j
        ]
        assert float(uniformity(keys)[f"uniformity_{name}"]) == pytest.approx(math.log(sum(pairs) / 20), rel=1e-5)
    assert float(uniformity(unit(1, 1, 8).expand(1, 4, 8))["uniformity_visual"]) == pytest.approx(0, abs=1e-5)
    assert float(uniformity(torch.eye(8)[None])["uniformity_visual"]) == pytest.approx(-4)


def test_bank_health_counts_slots_and_steps():
    bank = KeyBank(1, 10, 4)
    # Three steps of three samples; slot 0 is written over by the last.
    steps = [[1, 2, 3], [4, 5, 6], [7, -1, 9], [2, 3, 8]]
    written: dict[int, int] = {}  # slot to the step that wrote it
    for step, ids in enumerate(steps):
        found = {name: float(value) for name, value in bank_health(bank, torch.tensor(ids)).items()}
        held = {slot: int(bank.video_ids[slot]) for slot in written if bank.video_ids[slot] >= 0}
        assert found["bank_filled"] == pytest.approx(len(held) / 10)
        masked = [sum(held.get(slot, query) == query for slot in range(10)) / 10 for query in ids if query >= 0]
        assert found["masked_negatives"] == pytest.approx(sum(masked) / len(masked))
        if len(held) == len(written):  # a slot without a key is one of the oldest's place
            ages = [step - written[slot] for slot in held]
            assert found["bank_age"] == pytest.approx(sum(ages) / len(ages) if ages else 0)
        bank.enqueue(unit(1, 3, 4), torch.tensor(ids))
        written |= {(3 * step + position) % 10: step for position in range(3)}


def test_retrieval_counts_nearest_keys():
    keys = unit(2, 6, 8)
    queries = keys[:, 2:5].clone()
    queries[0, 1] = keys[0, 0]  # the second of the three finds another sample's key
    found = retrieval(queries, keys, first=2)
    assert float(found["retrieval_visual"]) == pytest.approx(2 / 3)
    assert float(found["retrieval_motion"]) == 1
