"""Projection heads: their layers, their arithmetic in float64, and unit norm under autocast."""

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from modist_fast.models import ProjectionHead
from modist_fast.models.norm import GroupBatchNorm

# Paper and released code: one hidden layer of 2048, biases, no batch norm. CVRL: three hidden layers with it.
LAYERS = {
    "mlp": ["Projection", "ReLU", "Projection"],
    "bn": ["Projection", "GroupBatchNorm", "ReLU", "Projection"],
    "cvrl": [*["Projection", "GroupBatchNorm", "ReLU"] * 3, "Projection"],
}
# inputs 256, hidden 2048, out 128; a bias goes where no batch norm follows.
PARAMETERS = {
    "mlp": 256 * 2048 + 2048 + 2048 * 128 + 128,
    "bn": 256 * 2048 + 2 * 2048 + 2048 * 128 + 128,
    "cvrl": 256 * 2048 + 2 * 2048 * 2048 + 3 * 2 * 2048 + 2048 * 128 + 128,
}


@pytest.mark.parametrize("kind", ["mlp", "bn", "cvrl"])
def test_layers_and_parameters(kind):
    head = ProjectionHead(256, kind=kind)
    assert [type(layer).__name__ for layer in head.layers] == LAYERS[kind]
    assert sum(parameter.numel() for parameter in head.parameters()) == PARAMETERS[kind]


def by_hand(head: ProjectionHead, features: Tensor) -> Tensor:
    """The head in float64, one matrix product at a time, batch statistics."""
    x = features.double()
    for layer in head.layers:
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.double().T
            if layer.bias is not None:
                x = x + layer.bias.double()
        elif isinstance(layer, GroupBatchNorm):
            centred = x - x.mean(0)
            x = centred / (centred.square().mean(0) + 1e-5).sqrt() * layer.weight.double() + layer.bias.double()
        else:
            x = x.clamp(min=0)
    return x / x.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("kind", ["mlp", "bn", "cvrl"])
def test_against_float64(kind):
    torch.manual_seed(0)
    head = ProjectionHead(40, hidden=64, out=24, kind=kind)
    for parameter in head.parameters():
        nn.init.normal_(parameter, std=0.3)
    features = torch.rand(9, 40)
    expected = by_hand(head, features)
    torch.testing.assert_close(head(features).double(), expected, rtol=0, atol=5e-6)
    features.neg_()
    assert (head(features).double() - expected).abs().max() > 0.05  # the comparison can fail


@pytest.mark.parametrize("kind", ["mlp", "bn", "cvrl"])
def test_float32_unit_vectors_under_bf16(kind):
    torch.manual_seed(0)
    head = ProjectionHead(40, hidden=64, out=128, kind=kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = nn.functional.linear(torch.rand(16, 40), torch.eye(40))
        assert features.dtype == torch.bfloat16
        embeddings = head(features)
        assert head.layers(features).dtype == torch.bfloat16  # only the norm is float32
    assert embeddings.dtype == torch.float32
    assert embeddings.shape == (16, 128)
    # bf16 would miss 1 by up to 4e-3.
    assert (embeddings.double().norm(dim=1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["mlp", "cvrl"])
def test_heads_begin_as_the_authors_do_where_asked(kind):
    torch.manual_seed(0)
    linear = [layer for layer in ProjectionHead(256, kind=kind, init="normal").layers if isinstance(layer, nn.Linear)]
    for layer in linear:
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert stats.kurtosis(layer.weight.detach().flatten().numpy()) == pytest.approx(0, abs=0.05)  # uniform: -1.2
        assert layer.bias is None or not layer.bias.any()


def test_gradient_is_tangent_to_the_sphere():
    """What the loss sees has no length; so the gradient at the last layer's output is orthogonal to it."""
    torch.manual_seed(0)
    head = ProjectionHead(20, hidden=32, out=16)
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    head.layers.register_forward_hook(keep)
    (head(torch.rand(5, 20)) * torch.randn(5, 16)).sum().backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert gradient.norm() > 0.1
    assert (gradient * outputs[0]).sum(1).abs().max() < 1e-5
