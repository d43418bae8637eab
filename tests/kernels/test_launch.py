"""A damaged cache of compiled kernels, and processes that compile at once: all is Triton's own but its driver."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import triton
from launched_here import Driver, launch_backward

from modist_kernels.launch import launch
from modist_kernels.queue_infonce.kernels import backward_kernel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.fault,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of Triton's half-made kernels
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    found = Driver()
    monkeypatch.setattr(triton.runtime.driver, "_active", found)
    backward_kernel.device_caches.clear()
    yield found
    backward_kernel.device_caches.clear()


def only(folder: Path, ending: str) -> Path:
    (found,) = (path for path in folder.rglob(f"*{ending}") if not path.name.startswith("__grp__"))
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" * 100)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("ending", "damage", "said"),
    [
        ("_kernel.json", cut, True),
        ("_kernel.json", garbage, True),
        (".cubin", cut, True),
        (".cubin", garbage, True),
        (".ptx", garbage, True),
        (".cubin", remove, False),  # Triton itself looks whether all files are there
    ],
)
def test_a_damaged_cache_costs_a_compilation(
    ending: str,
    damage: Callable[[Path], None],
    said: bool,
    cache: Path,
    driver: Driver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    launch_backward()
    damage(only(cache, ending))
    for attempt in ("damaged", "mended"):
        backward_kernel.device_caches.clear()  # as a new process
        caplog.clear()
        with caplog.at_level(logging.WARNING, "modist"):
            launch_backward()
        assert ("holds a damaged backward_kernel" in caplog.text) == (said and attempt == "damaged")
        assert (str(cache) in caplog.text) == (said and attempt == "damaged")
    assert len(set(driver.binaries)) == 1
    assert len(driver.binaries) == 3


def test_other_errors_are_not_taken_for_damage(cache: Path, driver: Driver) -> None:
    with pytest.raises(TypeError, match="missing"):
        launch(backward_kernel, (1,), C=64)
    assert not driver.binaries


def test_ranks_that_compile_at_once(cache: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("launched_here.py"))]
    ranks = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    digests = {rank.communicate()[0] for rank in ranks}
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert len(digests) == 1
    assert not list(cache.rglob("tmp.*"))
