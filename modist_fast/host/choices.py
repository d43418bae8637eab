"""Options of which net, where and how to compute. Without torch: a command's --help need not wait for it."""

from typing import Literal

Arch = Literal["r50", "r18", "vit-s16", "r2plus1d-18", "slow-r50", "imagenet-r50", "imagenet-r18"]
"""The names of `models.table.BACKBONES`; a test holds the two equal."""
DeviceOption = Literal["auto", "cpu", "cuda"]
PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]
COLLECTIVE_TIMEOUT = 1800.0
"""Seconds: longer than any rank's reading of videos, fit or export that the others wait for, and less than a night."""
Inflation = Literal["mean", "centre"]
WeightsFormat = Literal["modist", "pyslowfast", "pytorchvideo", "torchvision", "onnx", "torch-export", "huggingface"]
