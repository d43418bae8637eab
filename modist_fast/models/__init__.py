"""The networks of the two pathways."""

from modist_fast.models.backbone import Backbone
from modist_fast.models.heads import ProjectionHead
from modist_fast.models.resnet import ResNet
from modist_fast.models.table import BACKBONES, build_motion, build_visual

__all__ = ["BACKBONES", "Backbone", "ProjectionHead", "ResNet", "build_motion", "build_visual"]
