"""Fixtures of all rooms: the optional real data, and the skip of tests that need a GPU."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # workers side by side share the cores; torch reads this as it is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from tests.commands.launching import run_script

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of small real videos and flow pairs; not part of the project."""
    path = Path(os.environ.get("MODIST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (path / "manifest.csv").is_file():
        pytest.skip("no real videos here: set MODIST_TEST_DATA to a folder with manifest.csv")
    return path


@pytest.fixture(scope="session")
def demo_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 made-up videos on a grid of 4 frames, short side 72."""
    folder = tmp_path_factory.mktemp("demo")
    made = run_script("make_demo_videos.py", folder / "videos", "--num-videos", 32, "--seed", 0)
    assert made.returncode == 0, made.stderr
    prepared = run_script("prepare.py", folder / "videos", "--out", folder / "store", "--short-side", 72)
    assert prepared.returncode == 0, prepared.stderr
    return folder / "store"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Random numbers that a test draws without a seed are the same ones, whatever ran before it on its worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
