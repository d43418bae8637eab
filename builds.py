"""What `make install` gives to pip: the builds of torch, DALI and CuPy that this machine's driver can use.

    python3 builds.py      # needs nothing but Python; TORCH_INDEX=URL for drivers of CUDA 12

Without a GPU that is the plain install. Drivers run what was built for their CUDA or an older one.
"""

import os
import re
import shutil
import subprocess
import sys

PLAIN = "dali,video,onnx,hub,remote,ray,docs,dev"
EXTRAS = {12: "dali-cuda120,gpu-cuda12,video,onnx,hub,remote,ray,docs,dev", 13: f"gpu,{PLAIN}"}
"""By the major version of CUDA; torch of the default index is built for the newest of them."""


def driver_cuda() -> int | None:
    """The major version of CUDA that the driver offers, by nvidia-smi; None where there is no GPU.

    Raises:
        SystemExit: nvidia-smi works, and says no version that can be read.
    """
    if not shutil.which("nvidia-smi"):
        return None
    done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join((done.stdout + done.stderr).split())
        print(f"nvidia-smi fails ({words}): installing for a machine without a GPU.", file=sys.stderr)
        return None
    if found := re.search(r"CUDA (?:UMD )?Version: *(\d+)\.\d+", done.stdout):
        return int(found[1])
    raise SystemExit(
        "nvidia-smi names no CUDA version, so the builds of torch, DALI and CuPy cannot be chosen. Install by hand: "
        f"pip install -c constraints.txt -e '.[{EXTRAS[13]}]' for CUDA 13."
    )


def pip_words(cuda: int | None, torch_index: str) -> list[str]:
    """The words for pip.

    Args:
        cuda: see `driver_cuda`.
        torch_index: of wheels of torch for CUDA 12; "" where none is given.

    Raises:
        SystemExit: there is no build for this driver, or the index is not known.
    """
    if cuda is None:
        return ["-e", f".[{PLAIN}]"]
    oldest, newest = min(EXTRAS), max(EXTRAS)
    if cuda < oldest:
        raise SystemExit(f"The driver offers CUDA {cuda}; DALI and torch need {oldest} or newer. Update the driver.")
    extras = EXTRAS[min(cuda, newest)]
    if cuda >= newest:
        return ["-e", f".[{extras}]"]
    if not torch_index:
        raise SystemExit(
            f"The driver offers CUDA {cuda}; torch of the default index is built for {newest} and would not see the "
            f"GPU. Update the driver, or pass PyTorch's own index of wheels for CUDA {cuda}, which its installation "
            "page names: make install TORCH_INDEX=URL"
        )
    return ["--extra-index-url", torch_index, "-e", f".[{extras}]"]


if __name__ == "__main__":
    print(*pip_words(driver_cuda(), os.environ.get("TORCH_INDEX", "")))
