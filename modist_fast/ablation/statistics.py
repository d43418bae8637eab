"""Paired differences of two arms, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 1000  # bootstrap draws held in memory at once


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and videos, in percentage points."""

    by_seed: dict[int, float]
    mean: float
    low: float
    """Ends of the 95 % interval."""
    high: float
    over_groups: tuple[float, float] | None = None
    """The interval where whole groups are drawn in place of single videos."""


def estimate(
    correct: Mapping[int, np.ndarray], groups: Sequence[str] | None = None, *, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """Accuracy of one arm.

    Args:
        correct: for each training seed, (V,) 1 where the video was classified correctly, else 0; the same videos in
            the same order for every seed.
        groups: (V,) what each video belongs to (actor, sequence), where the interval over groups is asked for.
        draws, seed: of the bootstrap.
    """
    scores = 100.0 * np.stack([np.asarray(values, dtype=np.float64) for values in correct.values()])
    low, high = _interval(bootstrap_means(scores, draws=draws, seed=seed))
    over_groups = None if groups is None else _interval(bootstrap_means(scores, groups, draws=draws, seed=seed))
    by_seed = {key: float(row.mean()) for key, row in zip(correct, scores, strict=True)}
    return Estimate(by_seed, float(scores.mean()), low, high, over_groups)


def _interval(means: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def paired_difference(
    arm: Mapping[int, np.ndarray],
    against: Mapping[int, np.ndarray],
    groups: Sequence[str] | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """How much better `arm` is than `against`, video by video within each seed. Arguments as for `estimate`.

    Raises:
        ValueError: no seed that both have.
    """
    shared = [key for key in arm if key in against]
    if not shared:
        raise ValueError("the two arms have no seed in common")
    return estimate(
        {key: np.asarray(arm[key], dtype=np.float64) - np.asarray(against[key], dtype=np.float64) for key in shared},
        groups,
        draws=draws,
        seed=seed,
    )


def bootstrap_means(scores: np.ndarray, groups: Sequence[str] | None = None, *, draws: int, seed: int) -> np.ndarray:
    """Means of resampled scores: both the seeds and the videos are drawn anew, with replacement.

    All seeds of a draw share its videos, for they were tested on the same ones: a video that is hard is hard for every
    seed, and more seeds do not make it more than one video.

    Args:
        scores: (S, V).
        groups: (V,) draw whole groups in place of videos, since videos of one group are no independent evidence.

    Returns:
        (draws,) float64.
    """
    num_seeds, num_videos = scores.shape
    _, places = np.unique(np.arange(num_videos) if groups is None else np.asarray(groups), return_inverse=True)
    num_groups = int(places.max()) + 1
    random = np.random.default_rng(seed)
    means = []
    for begin in range(0, draws, _CHUNK):
        count = min(_CHUNK, draws - begin)
        # How often each seed and each video was drawn, not copies of the scores: a draw's mean is then a product.
        seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count) / num_seeds
        videos = random.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=count)[:, places]
        weights = videos / videos.sum(axis=1, keepdims=True)
        means.append(np.einsum("ds,sv,dv->d", seeds, scores, weights, optimize=True))
    return np.concatenate(means)
