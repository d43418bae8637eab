"""Linear classifiers against scikit-learn, and SGD against a loop written out in float64."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler, normalize

from modist_fast.errors import ConfigError
from modist_fast.evaluation.frozen.config import LbfgsConfig, SgdConfig
from modist_fast.evaluation.frozen.linear import fit_lbfgs, fit_sgd

CPU = torch.device("cpu")


def made_features(num: int, dim: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(num, dim) float32 like a backbone's: not negative, of very different scales; and labels that they hint at."""
    random = np.random.default_rng(seed)
    labels = random.integers(num_classes, size=num)
    centres = random.normal(size=(num_classes, dim))
    features = np.maximum(centres[labels] + 1.5 * random.normal(size=(num, dim)), 0) * random.lognormal(size=dim)
    return features.astype(np.float32), labels


@pytest.mark.parametrize(("num", "dim", "num_classes"), [(83, 256, 6), (83, 37, 2), (400, 64, 11)])
@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("kind", ["standardize", "l2"])
def test_the_probabilities_are_scikit_learns(num: int, dim: int, num_classes: int, c: float, kind: str) -> None:
    features, labels = made_features(num + 60, dim, num_classes)
    features[:, 3] = 0.7  # a feature that says nothing
    train, test, y = features[:num], features[num:], labels[:num]
    config = LbfgsConfig(c=c, normalize=kind)  # type: ignore[arg-type]
    ours = fit_lbfgs(train, y, config, CPU).probabilities(test, num_classes)
    if kind == "standardize":
        scaler = StandardScaler().fit(train.astype(np.float64))
        train, test = (scaler.transform(part.astype(np.float64)) for part in (train, test))
    else:
        train, test = (normalize(part.astype(np.float64)) for part in (train, test))
    # With two classes scikit-learn has one weight vector w and penalizes ½ w². The two of the softmax are then ± w / 2,
    # and their penalty is half of that.
    peer = LogisticRegression(C=2 * c if num_classes == 2 else c, tol=1e-9, max_iter=10_000).fit(train, y)
    theirs = peer.predict_proba(test)
    assert np.abs(ours - theirs).max() < 2e-5
    assert (ours.argmax(1) != theirs.argmax(1)).sum() <= 1


def test_classes_that_were_not_trained_get_nothing() -> None:
    features, labels = made_features(60, 8, 3)
    found = fit_lbfgs(features, 2 * labels + 1, LbfgsConfig(), CPU).probabilities(features[None], 8)
    assert found.shape == (1, 60, 8)
    assert found[..., [1, 3, 5]].sum(-1) == pytest.approx(1)
    assert found[..., [0, 2, 4, 6, 7]].max() == 0


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="one class only"):
        fit_lbfgs(np.ones((3, 2), np.float32), np.zeros(3, int), LbfgsConfig(), CPU)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = made_features(30, 4, 2)
    features[3, 2] = np.inf
    with pytest.raises(ConfigError, match="not converged"):
        fit_lbfgs(features, labels, LbfgsConfig(), CPU)


def test_sgd_is_the_loop() -> None:
    """Nesterov's momentum and the cosine, written out; an epoch shows one view of each video."""
    config = SgdConfig(lr=2.0, batch_size=4, epochs=5)
    random = np.random.default_rng(0)
    features = random.normal(size=(10, 3, 6)).astype(np.float32)
    labels = np.array([0, 2, 5, 0, 2, 5, 0, 2, 5, 5])
    found = fit_sgd(features, labels, config, CPU, seed=7)

    draws = torch.Generator().manual_seed(7)
    weight = torch.empty(3, 6).normal_(0, 0.01, generator=draws).double().numpy()
    bias, places = np.zeros(3), np.searchsorted([0, 2, 5], labels)
    speed_w, speed_b, step = np.zeros_like(weight), np.zeros_like(bias), 0
    for _ in range(5):
        order = torch.randperm(10, generator=draws).numpy()
        views = torch.randint(3, (10,), generator=draws).numpy()
        for batch in (order[:4], order[4:8], order[8:]):
            rate = 2.0 * len(batch) / 256 * 0.5 * (1 + math.cos(math.pi * step / 15))
            grad_w, grad_b = np.zeros_like(weight), np.zeros_like(bias)
            for video in batch:
                x = features[video, views[video]].astype(np.float64)
                scores = np.exp(weight @ x + bias)
                error = scores / scores.sum() - np.eye(3)[places[video]]
                grad_w += np.outer(error, x) / len(batch)
                grad_b += error / len(batch)
            speed_w, speed_b = 0.9 * speed_w + grad_w, 0.9 * speed_b + grad_b
            weight, bias = weight - rate * (grad_w + 0.9 * speed_w), bias - rate * (grad_b + 0.9 * speed_b)
            step += 1
    np.testing.assert_allclose(found.weight.numpy().T, weight, atol=1e-5)
    np.testing.assert_allclose(found.bias.numpy(), bias, atol=1e-5)
    assert found.classes.tolist() == [0, 2, 5]


def test_the_papers_rates_learn_what_can_be_learned() -> None:
    features, labels = made_features(300, 32, 5)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    fitted = fit_sgd(units[:200, None], labels[:200], SgdConfig(epochs=50), CPU)
    by_sgd = (fitted.probabilities(units[200:], 5).argmax(1) == labels[200:]).mean()
    by_lbfgs = fit_lbfgs(units[:200], labels[:200], LbfgsConfig(c=1.0), CPU).probabilities(units[200:], 5).argmax(1)
    assert by_sgd > (by_lbfgs == labels[200:]).mean() - 0.1
    assert by_sgd > 0.6


@pytest.mark.parametrize(("num", "threads"), [(40, 1), (9000, 2)])
def test_a_small_fit_takes_one_thread_and_a_large_one_all(num, threads, monkeypatch):
    """Seen from within the loss; what was set before is set again, also after a fit that fails."""
    seen = set()

    def stops(*given, **options):
        seen.add(torch.get_num_threads())
        raise FloatingPointError

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", stops)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        features, labels = made_features(num, 256, 8)
        with pytest.raises(FloatingPointError):
            fit_lbfgs(features, labels, LbfgsConfig(), CPU)
        assert (seen, torch.get_num_threads()) == ({threads}, 2)
    finally:
        torch.set_num_threads(before)
