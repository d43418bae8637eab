"""Kernels, nets and step benchmarks need torch and little else: machines are lent that have no DALI."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = """
import importlib, sys
absent = sys.argv[2].split(",")
class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == one or name.startswith(one + ".") for one in absent):
            raise ModuleNotFoundError(f"planted absence of {name}", name=name)
sys.meta_path.insert(0, Absent())
importlib.import_module(sys.argv[1])
"""


def import_without(module: str, absent: str) -> str:
    words = [sys.executable, "-c", BLOCK, module, absent]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False).stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    ["modist_kernels", "modist_fast.step", "modist_profiling.gpu_check.one_step", "modist_profiling.step.bench"],
)
def test_imports_without_what_only_clips_need(module: str) -> None:
    assert import_without(module, "nvidia.dali,av,isal,cv2") == ""


@pytest.mark.slow
def test_the_kernels_need_nothing_of_the_rest() -> None:
    """They are of use in a training of one's own (docs/kernels.md)."""
    rest = "nvidia.dali,av,isal,cv2,tyro,rich,pyarrow,torchvision,modist_fast,modist_pipelines,modist_profiling"
    assert import_without("modist_kernels", rest) == ""


@pytest.mark.slow
def test_what_is_planted_as_absent_is_absent() -> None:
    assert "planted absence of av" in import_without("modist_pipelines.video.reader", "nvidia.dali,av,isal,cv2")
    assert "planted absence of isal" in import_without("modist_pipelines.store.reader", "isal")
