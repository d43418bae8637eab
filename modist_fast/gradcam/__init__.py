"""Grad-CAM: where in a clip a linear classifier on the frozen backbone finds its class, and whether it moves there."""

from modist_fast.gradcam.cam import grad_cam, resize_cam

__all__ = ["grad_cam", "resize_cam"]
