"""The objective against Eq. 1 to 3 of the paper, written as loops over float64 numbers."""

import math

import pytest
import torch
from torch import Tensor

from modist_fast.bank import KeyBank
from modist_fast.config import ObjectiveConfig
from modist_fast.objective import motion_distillation_loss

TAU = 0.1


def info_nce(query: Tensor, positive: Tensor, negatives: list[Tensor]) -> float:
    """Eq. 1, literally."""
    hit = math.exp(float(query @ positive) / TAU)
    return -math.log(hit / (hit + sum(math.exp(float(query @ negative) / TAU) for negative in negatives)))


def oracle(queries: Tensor, keys: Tensor, bank: KeyBank, ids: Tensor, config: ObjectiveConfig) -> dict[str, float]:
    """Eq. 2 and 3 as a loop over the batch; the negatives leave out the own video and empty slots."""
    sums = dict.fromkeys(("visual", "motion", "visual_to_motion", "motion_to_visual"), 0.0)
    for row, video in enumerate(ids.tolist()):
        usable = [i for i, owner in enumerate(bank.video_ids.tolist()) if owner >= 0 and owner != video]
        visual = [bank.keys[0, i].double() for i in usable]
        vq, vk = queries[0, row].double(), keys[0, row].double()
        sums["visual"] += info_nce(vq, vk, visual)
        if config.motion:
            motion = [bank.keys[1, i].double() for i in usable]
            mq, mk = queries[1, row].double(), keys[1, row].double()
            own = config.cross_negatives == "own"
            sums["motion"] += info_nce(mq, mk, motion)
            sums["visual_to_motion"] += info_nce(vq, mk, visual if own else motion)
            sums["motion_to_visual"] += info_nce(mq, vk, motion if own else visual)
    return {name: value / len(ids) for name, value in sums.items()}


def random_case(modalities: int, filled: int) -> tuple[Tensor, Tensor, KeyBank, Tensor]:
    generator = torch.Generator().manual_seed(filled)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    bank = KeyBank(modalities, 24, 128)
    if filled:
        # Videos 0 to 4 come around again, so that the batch meets its own.
        bank.enqueue(unit(modalities, filled, 128), torch.arange(filled, dtype=torch.int32) % 5)
    return (
        unit(modalities, 4, 128),
        unit(modalities, 4, 128),
        bank,
        torch.tensor([0, 3, 9, 3], dtype=torch.int32),
    )


@pytest.mark.parametrize("filled", [0, 7, 24])
@pytest.mark.parametrize("cross_negatives", ["own", "other"])
def test_terms_equal_the_equations(cross_negatives: str, filled: int) -> None:
    config = ObjectiveConfig(cross_negatives=cross_negatives)  # pyright: ignore[reportArgumentType]
    queries, keys, bank, ids = random_case(2, filled)
    terms = motion_distillation_loss(queries, keys, bank, ids, config)
    expected = oracle(queries, keys, bank, ids, config)
    assert terms.losses.tolist() == pytest.approx(list(expected.values()), rel=2e-3, abs=1e-4)
    assert float(terms.loss) == pytest.approx(sum(expected.values()), rel=2e-3, abs=1e-4)


def test_a_damaged_sample_does_not_count() -> None:
    """Neither in the loss nor in its gradient, whatever its clips were replaced by; nor does its key as a negative."""
    queries, keys, bank, ids = random_case(2, 20)
    bank.enqueue(keys[:, :1], torch.tensor([-1], dtype=torch.int32))
    whole = [0, 1, 3]
    expected = oracle(queries[:, whole], keys[:, whole], bank, ids[whole], ObjectiveConfig())
    ids[2] = -1
    queries.requires_grad_()
    terms = motion_distillation_loss(queries, keys, bank, ids, ObjectiveConfig())
    assert terms.losses.tolist() == pytest.approx(list(expected.values()), rel=2e-3, abs=1e-4)
    terms.loss.backward()
    assert queries.grad is not None
    assert queries.grad[:, 2].abs().max() == 0
    assert queries.grad[:, whole].abs().amin(dim=2).amax() > 0
    ids[:] = -1
    assert float(motion_distillation_loss(queries.detach(), keys, bank, ids, ObjectiveConfig()).loss) == 0


def test_rgb_only_is_equation_one_alone() -> None:
    config = ObjectiveConfig(motion=False)
    queries, keys, bank, ids = random_case(1, 24)
    terms = motion_distillation_loss(queries, keys, bank, ids, config)
    assert terms.losses.tolist() == pytest.approx([oracle(queries, keys, bank, ids, config)["visual"]], rel=2e-3)


def test_without_motion_loss_only_that_term_is_left_out() -> None:
    queries, keys, bank, ids = random_case(2, 24)
    full = motion_distillation_loss(queries, keys, bank, ids, ObjectiveConfig())
    reduced = motion_distillation_loss(queries, keys, bank, ids, ObjectiveConfig(motion_loss=False))
    assert float(reduced.loss) == pytest.approx(float(full.loss - full.losses[1]), rel=1e-5)
    assert torch.equal(reduced.losses, full.losses)  # still reported


def test_the_weight_of_the_cross_terms_scales_them_alone() -> None:
    queries, keys, bank, ids = random_case(2, 24)
    config = ObjectiveConfig(cross_negatives="own")
    expected = oracle(queries, keys, bank, ids, config)
    for weight in (0.0, 0.25, 1.0):
        terms = motion_distillation_loss(queries, keys, bank, ids, config, cross_weight=torch.tensor(weight))
        wanted = [value * (weight if "_to_" in name else 1.0) for name, value in expected.items()]
        assert terms.loss.item() == pytest.approx(sum(wanted), abs=1e-5)
        assert terms.losses.tolist() == pytest.approx(list(expected.values()), abs=1e-5)  # shown as they are


def test_gradient_matches_finite_differences_of_the_equations() -> None:
    config = ObjectiveConfig(cross_negatives="other")
    queries, keys, bank, ids = random_case(2, 24)
    leaf = queries.clone().requires_grad_()
    motion_distillation_loss(leaf, keys, bank, ids, config).loss.backward()
    assert leaf.grad is not None
    for modality, row, channel in [(0, 0, 5), (0, 3, 90), (1, 1, 17), (1, 2, 127)]:
        step = 1e-3
        sums = []
        for sign in (+1, -1):
            moved = queries.double().clone()
            moved[modality, row, channel] += sign * step
            sums.append(sum(oracle(moved, keys, bank, ids, config).values()))
        slope = (sums[0] - sums[1]) / (2 * step)
        assert float(leaf.grad[modality, row, channel]) == pytest.approx(slope, rel=2e-2, abs=2e-4)
