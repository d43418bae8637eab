"""Nearest neighbours against loops over all pairs."""

import numpy as np
import pytest
import torch

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen import neighbours
from modist_fast.evaluation.frozen.config import KnnConfig
from modist_fast.evaluation.frozen.neighbours import first_hits, knn_probabilities

CPU = torch.device("cpu")


@pytest.fixture(params=[4096, 7])
def parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries all at once, and a few at a time."""
    monkeypatch.setattr(neighbours, "_QUERIES_AT_A_TIME", request.param)


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    gallery, queries = (random.normal(size=(num, 8)).astype(np.float32) for num in (41, 19))
    gallery[5] = 2 * gallery[4]  # the same direction
    return queries, random.integers(4, size=19), gallery, random.integers(4, size=41)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 1.0), (41, 0.01)])
def test_the_vote_is_that_of_a_loop(made, k: int, temperature: float) -> None:
    queries, _, gallery, labels = made
    found = knn_probabilities(queries, gallery, labels, 5, KnnConfig(k, temperature), CPU)
    for query, row in zip(queries, found, strict=True):
        ranked = sorted(((cosine(query, other), label) for other, label in zip(gallery, labels, strict=True)))[::-1]
        votes = np.zeros(5)
        for similarity, label in ranked[:k]:
            votes[label] += np.exp(similarity / temperature)
        np.testing.assert_allclose(row, votes / votes.sum(), atol=1e-9)


@pytest.mark.usefixtures("parts")
def test_retrieval_is_that_of_a_loop(made) -> None:
    queries, query_labels, gallery, labels = made
    query_labels = query_labels.copy()
    query_labels[2] = 9  # of a class that the gallery lacks
    found = first_hits(queries, query_labels, gallery, labels, CPU)
    for query, label, place in zip(queries, query_labels, found, strict=True):
        better = {other: cosine(query, gallery[other]) for other in range(len(gallery))}
        order = sorted(better, key=lambda other: -better[other])
        expected = next((i for i, other in enumerate(order) if labels[other] == label), len(gallery))
        assert place == expected
    assert found[2] == len(gallery)
    assert len(set(found.tolist())) > 2


@pytest.mark.parametrize("k", [0, 42])
def test_a_k_that_cannot_be(made, k: int) -> None:
    queries, _, gallery, labels = made
    with pytest.raises(ConfigError, match=r"--knn\.k"):
        knn_probabilities(queries, gallery, labels, 4, KnnConfig(k), CPU)
