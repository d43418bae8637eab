"""The networks of the two pathways."""

from modist_fast.models.heads import ProjectionHead
from modist_fast.models.resnet import ResNet, build_motion
from modist_fast.models.table import BACKBONES, build_visual

__all__ = ["BACKBONES", "ProjectionHead", "ResNet", "build_motion", "build_visual"]
