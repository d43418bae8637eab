"""Features of another kind, put beside a net's: what does it know that they do not?"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen.config import SUFFIXES


def read_beside(path: Path, videos: Sequence[str]) -> np.ndarray:
    """(N, D) float32: the mean of each video's views; NaN where the file has none.

    Args:
        path: what `modist features` writes, or a Parquet of the same columns: video and features.
        videos: whose features to take.

    Raises:
        ConfigError: it is no such file, or has none of these videos.
    """
    try:
        names, features = _parquet(path) if path.suffix == ".parquet" else _safetensors(path)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors, KeyErrors and OSErrors
        raise ConfigError(
            f"--beside {path}: {str(error).splitlines()[0]}. Give a file of modist features ({', '.join(SUFFIXES)}), "
            "or a Parquet with the columns video and features."
        ) from error
    means = {name: features[places].mean(axis=0) for name, places in _places(names).items()}
    if not any(name in means for name in videos):
        raise ConfigError(
            f"--beside {path} has no video of these labels: it names {names[0]!r}, they {videos[0]!r}. Names must be "
            "the same in both; compute the features of the same folder or store."
        )
    missing = np.full(features.shape[-1], np.nan, np.float32)
    return np.stack([means.get(name, missing) for name in videos]).astype(np.float32)


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places


def _parquet(path: Path) -> tuple[list[str], np.ndarray]:
    table = pq.read_table(path, columns=["video", "features"])
    return table["video"].to_pylist(), np.array(table["features"].to_pylist(), dtype=np.float32)


def _safetensors(path: Path) -> tuple[list[str], np.ndarray]:
    with safe_open(path, "numpy") as file:
        names = json.loads(file.metadata()["names"])
        return names, file.get_tensor("features").mean(axis=1)
