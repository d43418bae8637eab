"""Packaging: one distribution, four import packages, each nested so that none takes a common name."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE_DIRS = {
    "modist_fast": "modist_fast",
    "modist_kernels": "kernels/modist_kernels",
    "modist_pipelines": "pipelines/modist_pipelines",
    "modist_profiling": "profiling/modist_profiling",
}
# Read, not imported: torch may not be there yet.
VERSION = re.findall(r'^__version__ = "(.+)"$', Path("modist_fast/__init__.py").read_text(encoding="utf-8"), re.M)[0]

setup(
    name="modist-fast",
    version=VERSION,
    description="MoDist (motion distillation) video pre-training: fused kernels, a DALI data plane, DDP",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[
        package
        for name, folder in PACKAGE_DIRS.items()
        for package in (name, *(f"{name}.{inner}" for inner in find_packages(folder)))
    ],
    package_dir=PACKAGE_DIRS,
    package_data={
        **{name: ["py.typed"] for name in PACKAGE_DIRS},
        "modist_kernels": ["py.typed", "configurations.json"],
        "modist_profiling.report": ["page.css", "page.js"],
    },
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "triton>=3.6; platform_system == 'Linux'",
        "numpy>=2.0",
        "pyarrow>=18",
        "av>=17",
        "isal>=1.6",  # checksums
        "opencv-python-headless>=4.10",
        "nvtx>=0.2.11; platform_system == 'Linux'",
        "nvidia-ml-py>=12.560",  # import name: pynvml
        "tyro>=0.9",
        "docstring-parser>=0.15",  # help of options; tyro brings it
        "typeguard>=4.3",
        "tqdm>=4.66",
        "rich>=13",
        "tensorboard>=2.18",
        "safetensors>=0.5",
        "matplotlib>=3.9",
        "pillow>=11",
        "psutil>=6",
    ],
    entry_points={"console_scripts": ["modist = modist_fast.__main__:main"]},
    extras_require={
        # Not `nvidia-dali`: on PyPI that name is a different package. One of the two CUDA builds.
        "dali": ["nvidia-dali-cuda130>=2.0"],
        "dali-cuda120": ["nvidia-dali-cuda120>=1.50"],
        # For --source video on a CPU; needs FFmpeg's shared libraries on the machine, else PyAV decodes.
        "video": ["torchcodec>=0.17"],
        # NVIDIA apex is built from source: see README. `make install` takes the one that the driver can use.
        "gpu": ["cupy-cuda13x>=13.6"],
        "gpu-cuda12": ["cupy-cuda12x>=13.6"],
        # modist convert --to onnx, and --to huggingface.
        "onnx": ["onnx>=1.17", "onnxscript>=0.3"],
        "hub": ["huggingface_hub>=0.27"],
        # modist pretrain --track.
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow>=3.1"],
        # Videos and stores by URL; gs:// needs gcsfs.
        "remote": ["fsspec>=2025.3", "s3fs>=2025.3", "aiohttp>=3.11"],
        # modist prepare --engine ray.
        "ray": ["ray[data]>=2.50"],
        # The peers of profiling/bench_pipeline.py.
        "bench": ["torchcodec>=0.17", "decord2>=3.4"],
        # `make docs`: the pages as a site; and what runs the notebooks.
        "docs": [
            "mkdocs-material>=9.6",
            "mkdocstrings[python]>=1.0",
            "nbclient>=0.10",
            "nbformat>=5.10",
            "ipykernel>=6.29",
        ],
        "dev": [
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.120",
            "scikit-learn>=1.6",  # the peer of the linear classifier
            "scipy>=1.14",
            "timm>=1.0",  # a source of weights
            "onnxruntime>=1.20",
            "imageio-ffmpeg>=0.6",  # FFmpeg's own program, the peer of decoded frames
            "moto[server]>=5.1",  # an S3 server
            "ruff>=0.9",
            "pyright>=1.1.390",
            "kubeflow-trainer-api>=2.0",  # the schema of launch/kubernetes
            "pyyaml>=6",
            "interrogate>=1.7",  # share of public names that have a docstring
        ],
    },
)
