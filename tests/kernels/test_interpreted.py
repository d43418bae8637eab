"""The Triton kernels in Triton's interpreter, on the CPU.

In processes of their own: TRITON_INTERPRET must be set before Triton is imported, and other tests need the compiler.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "cases", ["cases_queue_infonce.py", "cases_batch_norm.py", "cases_flow_edges.py", "cases_guard.py"]
)
def test_in_the_interpreter(cases: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / cases)]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
