"""Operations counted against those that are written down."""

import torch
from torch import nn

from modist_profiling.step.operations import count_operations


def test_each_call_counts_once_and_views_not_at_all():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x = torch.rand(2, 4)

    def run():
        net(x.view(4, 2).T.reshape(8).view(2, 4)).sum().backward()  # views, and one copy for what no view can be
        torch._foreach_mul_([p.detach() for p in net.parameters()], 0.5)

    run()
    net.zero_grad(set_to_none=False)
    assert count_operations(run) == {
        "clone": 1,
        "addmm": 1,
        "relu": 1,
        "sum": 2,  # the loss; the gradient of the bias
        "ones_like": 1,
        "threshold_backward": 1,
        "mm": 1,
        "add_": 2,  # into the gradients that are there
        "_foreach_mul_": 1,
    }
