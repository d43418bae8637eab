"""A backbone as huggingface_hub keeps one: a folder with config.json and model.safetensors, offline or on the hub."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from modist_fast.errors import ConfigError
from modist_fast.models import BACKBONES, build_visual

_README = """---
{{ card_data }}
---

A visual backbone for video clips, (B, 3, T, H, W) to (B, D). `config.json` has its card: the network, and the clips
that it expects (frames, stride, crop, mean and deviation).

```python
from modist_fast.weights.hub import HubBackbone

backbone = HubBackbone.from_pretrained("FOLDER or NAME")
```
"""


class HubBackbone(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="modist-fast",
    tags=["video", "self-supervised"],
    model_card_template=_README,
):
    """`HubBackbone.from_pretrained(FOLDER)` gives (B, 3, T, H, W) clips to (B, D) features, in eval mode.

    Args:
        card: what `read_card` gives of an exported backbone.

    Raises:
        ConfigError: the card names no network.
    """

    def __init__(self, card: Mapping[str, Any]) -> None:
        super().__init__()
        if card.get("arch") not in BACKBONES:
            raise ConfigError(f"config.json names the network {card.get('arch')!r}; there are {', '.join(BACKBONES)}.")
        self.card = dict(card)
        self.backbone = build_visual(card["arch"], card["width"])

    @classmethod
    def of(cls, net: nn.Module, card: Mapping[str, Any]) -> "HubBackbone":
        """With the weights of `net`."""
        made = cls(card=dict(card))
        made.backbone.load_state_dict(net.state_dict())
        return made.eval()

    def forward(self, clips: Tensor) -> Tensor:
        return self.backbone(clips)
