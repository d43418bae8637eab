"""Nearest neighbours of frozen features: their vote (kNN), and whether they are of the query's class (retrieval)."""

import numpy as np
import torch
from torch import Tensor

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen.config import KnnConfig

_QUERIES_AT_A_TIME = 4096


def _units(features: np.ndarray, device: torch.device) -> Tensor:
    x = torch.from_numpy(np.ascontiguousarray(features)).double().to(device)
    return torch.nn.functional.normalize(x, dim=-1)


def _nearest(queries: Tensor, gallery: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and places of the k nearest, best first; equal ones in the gallery's order."""
    cosines, places = [], []
    for part in queries.split(_QUERIES_AT_A_TIME):
        found = (part @ gallery.T).sort(dim=1, descending=True, stable=True)
        cosines.append(found.values[:, :k])
        places.append(found.indices[:, :k])
    return torch.cat(cosines).numpy(force=True), torch.cat(places).numpy(force=True)


def knn_probabilities(
    queries: np.ndarray,
    gallery: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    config: KnnConfig,
    device: torch.device,
) -> np.ndarray:
    """Share of the vote that each class gets.

    Args:
        queries: (m, D)
        gallery: (n, D) training videos.
        labels: (n,) of the gallery.

    Returns:
        (m, num_classes) float64, rows sum to 1.

    Raises:
        ConfigError: fewer training videos than k.
    """
    if not 1 <= config.k <= len(gallery):
        raise ConfigError(f"--knn.k {config.k}: the training part has {len(gallery)} videos. Use a k from 1 to that.")
    cosines, places = _nearest(_units(queries, device), _units(gallery, device), config.k)
    votes = np.exp((cosines - cosines[:, :1]) / config.temperature)  # of the nearest: 1, so that nothing overflows
    shares = np.zeros((len(queries), num_classes))
    np.add.at(shares, (np.arange(len(queries))[:, None], labels[places]), votes)
    return shares / shares.sum(axis=1, keepdims=True)


def first_hits(
    queries: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, labels: np.ndarray, device: torch.device
) -> np.ndarray:
    """(m,) int64: place, from 0, of the nearest training video of the query's class; n where there is none.

    R@k is the share of queries whose place is below k.
    """
    _, places = _nearest(_units(queries, device), _units(gallery, device), len(gallery))
    hits = labels[places] == query_labels[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1), len(gallery))
