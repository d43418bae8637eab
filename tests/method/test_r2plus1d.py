"""R(2+1)D-18 against torchvision's, with the same weights."""

import pytest
import torch
from torch import nn

from modist_fast.models import build_visual

video = pytest.importorskip("torchvision.models.video", reason="torchvision, the peer, is not installed")


def test_outputs_are_torchvisions() -> None:
    """Parameters in the order of computation are the peer's; then so are the maps, trained or not, in float64."""
    torch.manual_seed(0)
    ours, peer = build_visual("r2plus1d-18").double(), video.r2plus1d_18().double()
    peer.fc = nn.Identity()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters()) == 31_300_125
    with torch.no_grad():
        for mine, theirs in zip(ours.parameters(), peer.parameters(), strict=True):
            theirs.copy_(0.5 + torch.rand_like(theirs) if theirs.ndim == 1 else theirs)
            assert mine.shape == theirs.shape
            mine.copy_(theirs)
    clips = torch.rand(2, 3, 8, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = peer.train()(clips)
        torch.testing.assert_close(ours.train()(clips), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(ours.eval()(clips), peer.eval()(clips), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stride", [8, 4])
def test_a_finer_output_stride_moves_no_place(stride: int) -> None:
    torch.manual_seed(0)
    net = build_visual("r2plus1d-18", 4).double().eval()
    net.scale_residuals(1.0)
    clips = torch.rand(1, 3, 8, 48, 56, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = net.feature_map(clips), net.with_output_stride(stride).feature_map(clips)
    factor = 16 // stride
    assert fine.shape[-1] >= 2 * coarse.shape[-1] - 1
    torch.testing.assert_close(fine[..., ::factor, ::factor], coarse, rtol=1e-9, atol=1e-9)
