"""modist store: figures, checksums and room of a store that is there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from clip_store import make_store

from modist_fast.commands import store as command
from modist_fast.errors import ConfigError
from tests.method.striped_store import make_striped_store


@pytest.fixture
def store(tmp_path) -> Path:
    return make_striped_store(tmp_path / "store", num_train=4, num_test=2)


def call(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["modist store", *map(str, words)])
    return command.main()


def test_info(store, monkeypatch, capsys):
    """All scores are 1 of 10: half of that is no γ for any window, twice that for all."""
    assert call(monkeypatch, "info", store) == 0
    said = capsys.readouterr().out
    assert "6 videos" in said
    assert "0 files in quarantine" in said
    assert "rejects 0.0% of the windows of 16 grid frames, and 0.0% of the videos" in said
    call(monkeypatch, "info", store, "--motion-threshold", "0.2", "--window", "2")
    assert "rejects 100.0% of the windows of 2 grid frames, and 100.0% of the videos" in capsys.readouterr().out


def test_info_gives_the_gamma_of_a_share(tmp_path, monkeypatch, capsys):
    """Ten videos of one window each, whose scores are .1 to 1 of 10."""
    scores = {video: np.full(16, 0.1 * (video + 1), np.float32) for video in range(10)}
    make_store(tmp_path / "store", [16] * 10, height=16, width=16, scores=scores)
    call(monkeypatch, "info", tmp_path / "store", "--reject-share", "0.2")
    assert re.search(r"γ = 0\.0200\d* \(edges\) rejects 20\.0% of the windows", capsys.readouterr().out)
    with pytest.raises(ConfigError, match=r"--reject-share 1\.0: it must be above 0 and below 1"):
        call(monkeypatch, "info", tmp_path / "store", "--reject-share", "1")


def test_check_and_its_exit_code(store, monkeypatch, capsys):
    assert call(monkeypatch, "check", store) == 0
    path = store / "shards/00000.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert call(monkeypatch, "check", store) == 1
    assert "across/00.mp4" in capsys.readouterr().out


def test_compact(store, monkeypatch, capsys):
    assert call(monkeypatch, "compact", store) == 0
    assert "nothing to free" in capsys.readouterr().out
    (store / "shards/00003.bin").write_bytes(bytes(10**6))
    assert call(monkeypatch, "compact", store) == 0
    assert "0.001 GB freed" in capsys.readouterr().out


@pytest.mark.parametrize("words", [("--motion-threshold", "2"), ("--window", "0")])
def test_options_out_of_range(store, monkeypatch, words):
    with pytest.raises(ConfigError, match=words[0]):
        call(monkeypatch, "info", store, *words)
