"""A small demo store, made by the project's own scripts, shared by the tests of the trainer."""

from pathlib import Path

import pytest

from tests.fast.launching import run_script


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 made-up videos on a grid of 4 frames, short side 72."""
    folder = tmp_path_factory.mktemp("demo")
    made = run_script("make_demo_videos.py", folder / "videos", "--num-videos", 32, "--seed", 0)
    assert made.returncode == 0, made.stderr
    prepared = run_script("prepare.py", folder / "videos", "--out", folder / "store", "--short-side", 72)
    assert prepared.returncode == 0, prepared.stderr
    return folder / "store"
