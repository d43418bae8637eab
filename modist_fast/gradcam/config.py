"""Options of Grad-CAM. Without torch: see `host.choices`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from modist_fast.evaluation.data.views import ViewsConfig
from modist_fast.evaluation.frozen.config import FrozenConfig, LbfgsConfig
from modist_pipelines.motion_inputs import DEFAULT, MotionName
from modist_pipelines.ranges import COUNT, ranged


@dataclass(frozen=True, kw_only=True)
class GradCamConfig(FrozenConfig):
    """Show where linear classifiers on frozen backbones find their class, and how much of that moves."""

    out: Path
    """Takes gradcam.png, gradcam.mp4, gradcam.json and the features."""
    versus: str | None = None
    """A second backbone, shown beside --backbone."""
    name: str = "MoDist"
    """What --backbone is called in the pictures."""
    versus_name: str = "RGB-only"
    """What the pictures call the backbone of --versus."""
    views: ViewsConfig = field(default_factory=lambda: ViewsConfig(temporal=5, spatial=1))
    """Of the features that the classifier is fitted on. Grad-CAM looks at the middle clip, cut in the same way."""
    lbfgs: LbfgsConfig = field(default_factory=LbfgsConfig)
    explain: Literal["label", "predicted"] = "label"
    """Whose logit: the true class's, or that of the class which the classifier takes it for."""
    output_stride: Literal[8, 16, 32] | None = None
    """Pixels from one place of the map to the next; left out, as the net is: 32 of r50 and r18, 16 of the others. Below
    that, the last stages are dilated, for small crops; a ViT has none to dilate."""
    motion_input: MotionName = DEFAULT
    """The stored motion maps that say what moves."""
    num_shown: int = ranged(8, COUNT)
    """Test clips in gradcam.png, drawn by the seed, from as many classes as there are."""
    num_filmed: int = ranged(3, COUNT)
    """Of these, whole videos in gradcam.mp4."""
