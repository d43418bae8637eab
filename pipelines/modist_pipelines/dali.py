"""The one import of DALI."""

from typing import Any

from modist_pipelines.errors import DataError


def import_dali() -> tuple[Any, Any, Any]:  # its type stubs lack the half of it
    """fn, pipeline_def and types of DALI.

    Raises:
        DataError: DALI is not installed.
    """
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise DataError(
            f"NVIDIA DALI cannot be imported ({error}); it decodes and augments the clips. Install it with "
            "`pip install nvidia-dali-cuda130` (or -cuda120); `nvidia-dali` on PyPI is another package."
        ) from error
    return fn, pipeline_def, types
