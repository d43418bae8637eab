"""Grad-CAM: where in a clip a linear classifier on the frozen backbone finds its class, and whether it moves there."""
