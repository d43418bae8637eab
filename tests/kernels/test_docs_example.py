"""The image MoCo of docs/kernels.md, taken from the page, against MoCo's loss as it is usually written."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PAGE = Path(__file__).resolve().parents[2] / "docs" / "kernels.md"
NUM_IMAGES, BATCH, SIZE, DIM = 12, 5, 18, 64  # the ring is longer than an epoch, and wraps within a batch


def from_the_page() -> Callable[..., Any]:
    code = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(r"```python\n([^`]*def moco_step.*?)```", code, flags=re.DOTALL)
    space: dict[str, Any] = {}
    exec(found, space)
    return space["moco_step"]


def plain_loss(queries: Tensor, keys: Tensor, ring: list[tuple[int, Tensor]], ids: list[int]) -> Tensor:
    """Image by image in float64: cross entropy of the positive among the negatives of other images."""
    losses = []
    for query, key, own in zip(queries.double(), keys.double(), ids, strict=True):
        logits = [query @ key] + [query @ negative.double() for image, negative in ring if image != own]
        losses.append(F.cross_entropy(torch.stack(logits)[None] / 0.2, torch.zeros(1, dtype=torch.long)))
    return torch.stack(losses).mean()


def test_the_image_moco_of_the_page_is_moco() -> None:
    step = from_the_page()
    torch.manual_seed(0)
    online: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 32), nn.ReLU(), nn.Linear(32, DIM))
    momentum = copy.deepcopy(online).requires_grad_(False)
    # The same, plainly.
    own_online, own_momentum = copy.deepcopy(online), copy.deepcopy(momentum)
    ring: list[tuple[int, Tensor]] = []
    optimizer = torch.optim.SGD(online.parameters(), lr=0.5)
    own_optimizer = torch.optim.SGD(own_online.parameters(), lr=0.5)
    bank, bank_ids, first = (
        torch.zeros(1, SIZE, DIM, dtype=torch.float16),
        torch.full((SIZE,), -1, dtype=torch.int32),
        0,
    )
    images = torch.rand(NUM_IMAGES, 3, 8, 8)
    for turn in range(9):
        ids = [(turn * BATCH + place) % NUM_IMAGES for place in range(BATCH)]
        views, keys_of = (images[ids] + 0.1 * torch.rand(BATCH, 3, 8, 8) for _ in range(2))
        image_ids = torch.tensor(ids, dtype=torch.int32)
        loss, first = step(online, momentum, optimizer, views, keys_of, image_ids, bank, bank_ids, first)

        for mine, new in zip(own_momentum.parameters(), own_online.parameters(), strict=True):
            mine.data = 0.999 * mine.data + 0.001 * new.data
        keys = F.normalize(own_momentum(keys_of), dim=1)
        expected = plain_loss(F.normalize(own_online(views), dim=1), keys, ring, ids)
        own_optimizer.zero_grad()
        expected.backward()
        own_optimizer.step()
        ring = [*ring, *zip(ids, keys.half(), strict=True)][-SIZE:]
        torch.testing.assert_close(loss.double(), expected.detach(), rtol=2e-3, atol=2e-3)
        assert (turn == 0) == (loss == 0)  # the bank is empty at first
    assert first == 9 * BATCH % SIZE
    assert sorted(bank_ids.tolist()) == sorted(image for image, _ in ring)
    for mine, own in zip(online.parameters(), own_online.parameters(), strict=True):
        torch.testing.assert_close(mine, own, rtol=1e-2, atol=1e-3)
