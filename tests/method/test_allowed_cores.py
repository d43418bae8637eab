"""What the log says of a process's cores, and that torchrun has the option it names."""

import os
import shlex

import pytest
import torch
from torch.distributed.run import get_args_parser

from modist_fast.host.processes import allowed_cores


def test_cores_and_the_option_that_keeps_to_those_near_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert allowed_cores(torch.device("cpu")) == "3 of 8 cores"
    said = allowed_cores(torch.device("cuda", 1))
    assert said.startswith("3 of 8 cores ")
    options = shlex.split(said.split("`")[1].removeprefix("torchrun "))
    assert get_args_parser().parse_args([*options, "train.py"]).numa_binding == "node"
