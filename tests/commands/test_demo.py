"""The demo's commands; CI and users run the whole of it by `make demo`."""

import sys
from pathlib import Path

import pytest
import torch

from modist_fast.commands import demo


@pytest.mark.parametrize(
    ("num_gpus", "asked", "started"), [(0, [], 2), (1, [], 1), (2, [], 2), (8, [], 2), (8, ["--num-processes", 4], 4)]
)
def test_every_process_finds_a_device(
    num_gpus: int, asked: list, started: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(demo, "_do", lambda title, words: commands.append(words))
    monkeypatch.setattr(demo, "_summarize", lambda run, seconds: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", "--out", str(tmp_path), *map(str, asked)])
    demo.main()
    training = commands[-1]
    assert training[training.index("--nproc-per-node") + 1] == str(started)
