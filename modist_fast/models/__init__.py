"""The networks of the two pathways."""

from modist_fast.models.heads import ProjectionHead
from modist_fast.models.resnet import ResNet, build_motion, build_visual

__all__ = ["ProjectionHead", "ResNet", "build_motion", "build_visual"]
