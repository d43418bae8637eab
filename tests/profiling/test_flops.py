"""Operations counted without computing, against loops over shapes, and the share of the peak."""

import torch
from torch import nn

from modist_fast.watch.rates import count_flops, peak_flops


def test_convolution_and_linear_by_hand():
    with torch.device("meta"):
        net = nn.Sequential(
            nn.Conv3d(3, 8, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1), bias=False),
            nn.Flatten(),
            nn.Linear(8 * 4 * 5 * 5, 7),
        )
        clip = torch.empty(2, 3, 4, 10, 10)
    conv = 2 * (2 * 8 * 4 * 5 * 5) * (3 * 9)  # a multiply-add for each output and each weight that it meets
    linear = 2 * 2 * 7 * (8 * 4 * 5 * 5)
    assert count_flops(net, [clip], backward=False) == conv + linear
    # Backward: the gradient of the weights, and of the input but for the first layer's.
    assert count_flops(net, [clip], backward=True) == 2 * conv + 3 * linear


def test_peak_names_what_it_measured():
    rate, source = peak_flops(torch.device("cpu"), torch.float32)
    assert f"{rate / 1e12:.2f} TFLOP/s" in source
    assert "fp32" in source
