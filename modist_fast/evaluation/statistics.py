"""How sure a mean is: one bootstrap, over test videos or whole groups of them, over training seeds, and of pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

DRAWS = 10_000
# Student's t, two-sided 95 %, of 1, 2, … degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
_CHUNK = 1000  # draws held in memory at once
_CONFIDENCE = 95  # %


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
    over_all: tuple[float, float] | None = None
    """The interval where groups are drawn, and then videos within each: the widest of the three."""
    over_seeds: tuple[float, float] | None = None
    """Student's t of the seeds' means, of 3 to 10 seeds: these videos, other seeds."""
    standard_error: float = 0.0
    """Of the mean, over seeds, groups where there are any, and videos."""


def estimate(correct: Mapping[int, np.ndarray], groups: Sequence[str] | None = None) -> Estimate:
    """Accuracy of one arm.

    Args:
        correct: for each training seed, (V,) 1 where the video was classified correctly, else 0; the same videos in
            the same order for every seed.
        groups: (V,) what each video belongs to (actor, sequence), where the interval over groups is asked for.
    """
    scores = 100.0 * np.stack([np.asarray(values, dtype=np.float64) for values in correct.values()])
    low, high = bootstrap_interval(scores)
    over_groups = over_all = None
    drawn = bootstrap_means(scores, groups, within=True)
    if groups is not None:
        over_groups, over_all = bootstrap_interval(scores, groups), _ends(drawn)
    by_seed = {key: float(row.mean()) for key, row in zip(correct, scores, strict=True)}
    return Estimate(
        by_seed, float(scores.mean()), low, high, over_groups, over_all, _t_interval(scores), float(drawn.std())
    )


def power(effect: float, standard_error: float) -> float:
    """The chance that a true effect of this size gives a 95 % interval above 0, by the normal distribution."""
    return NormalDist().cdf(effect / standard_error - NormalDist().inv_cdf(0.5 + _CONFIDENCE / 200))


def _t_interval(scores: np.ndarray) -> tuple[float, float] | None:
    num_seeds = len(scores)
    if not 3 <= num_seeds <= len(_T95) + 1:  # of two seeds it is as wide as the scale
        return None
    means = scores.mean(axis=1)
    reach = _T95[num_seeds - 2] * float(means.std(ddof=1)) / num_seeds**0.5
    return float(means.mean()) - reach, float(means.mean()) + reach


def paired_difference(
    arm: Mapping[int, np.ndarray], against: Mapping[int, np.ndarray], groups: Sequence[str] | None = None
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
    )


def bootstrap_interval(
    scores: np.ndarray, groups: Sequence[str] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval (95 %) of a mean. Arguments as for `bootstrap_means`."""
    return _ends(bootstrap_means(scores, groups, seed=seed))


def _ends(drawn: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(drawn, ((100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2))
    return float(low), float(high)


def bootstrap_means(
    scores: np.ndarray, groups: Sequence[str] | None = None, *, draws: int = DRAWS, seed: int = 0, within: bool = False
) -> np.ndarray:
    """Means of resampled scores: the videos are drawn anew with replacement, and so are the seeds, where there are any.

    All seeds of a draw share its videos, for they were tested on the same ones: a video that is hard is hard for every
    seed, and more seeds do not make it more than one video.

    Args:
        scores: (V,), or (S, V) of S training seeds.
        groups: (V,) draw whole groups, since videos of one group are no independent evidence; None draws videos. So
            does a single group, which, drawn alone, would give an interval of no width.
        seed: of the draws.
        within: of the groups that are drawn, draw the videos anew, too.

    Returns:
        (draws,) float64.
    """
    names = np.arange(scores.shape[-1]) if groups is None or len(set(groups)) < 2 else np.asarray(groups)
    _, places = np.unique(names, return_inverse=True)
    random = np.random.default_rng(seed)
    # Both draw alike, but other numbers: those that the intervals of evaluations and of ablations have always had.
    draw = _means_of_one_net if scores.ndim == 1 else partial(_means_over_seeds, within=within)
    counts = [min(_CHUNK, draws - begin) for begin in range(0, draws, _CHUNK)]
    return np.concatenate([draw(random, count, scores, places) for count in counts])


def _means_of_one_net(random: np.random.Generator, count: int, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    sums, sizes = np.bincount(places, scores), np.bincount(places)
    drawn = random.integers(len(sums), size=(count, len(sums)))
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)


def _means_over_seeds(
    random: np.random.Generator, count: int, scores: np.ndarray, places: np.ndarray, *, within: bool
) -> np.ndarray:
    num_seeds, num_groups = len(scores), int(places.max()) + 1
    # How often each seed and each group was drawn, not copies of the scores: a draw's mean is then a product.
    seeds = random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=count) / num_seeds
    groups = random.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=count)
    videos = groups[:, places]
    if within and num_groups < len(places):
        for group in range(num_groups):
            members = np.flatnonzero(places == group)
            share = np.full(len(members), 1 / len(members))
            videos[:, members] = random.multinomial(groups[:, group] * len(members), share)
    weights = videos / videos.sum(axis=1, keepdims=True)
    return np.einsum("ds,sv,dv->d", seeds, scores, weights, optimize=True)
