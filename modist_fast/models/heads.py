"""Projection heads: from pooled features to the unit vectors that the objective compares."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from modist_fast.models.layers import Projection
from modist_fast.models.norm import GroupBatchNorm

HeadKind = Literal["mlp", "bn", "cvrl"]
HeadInit = Literal["uniform", "normal"]


class ProjectionHead(nn.Module):
    """Linear layers to `out` dimensions, then the L2 norm.

    Args:
        in_features: width of the pooled features.
        hidden: width of the hidden layers.
        out: dimensions of the embedding.
        kind: "mlp", Linear-ReLU-Linear without batch norm (the authors' released code); "bn", the same with
            batch norm after the first layer, steadier on small batches of small nets; "cvrl", three hidden layers with
            batch norm each (CVRL, arXiv:2008.03800).
        init: of the linear layers: "uniform", torch's own; "normal", N(0, 0.01) and no bias (the authors' code).
    """

    def __init__(
        self,
        in_features: int,
        hidden: int = 2048,
        out: int = 128,
        kind: HeadKind = "mlp",
        init: HeadInit = "uniform",
    ) -> None:
        super().__init__()
        num_hidden = 3 if kind == "cvrl" else 1
        layers: list[nn.Module] = []
        for index in range(num_hidden):
            inputs = in_features if index == 0 else hidden
            layers += (
                [Projection(inputs, hidden)]
                if kind == "mlp"
                else [Projection(inputs, hidden, bias=False), GroupBatchNorm(hidden)]
            )
            layers.append(nn.ReLU(inplace=True))
        self.layers = nn.Sequential(*layers, Projection(hidden, out))
        if init == "normal":
            for layer in self.layers:
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.01)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, D) to (B, C) float32 unit vectors.

        The norm is taken in float32, which autocast leaves alone: the loss divides by a temperature of a tenth,
        which multiplies every rounding error by ten.
        """
        return F.normalize(self.layers(features).float(), dim=1)
