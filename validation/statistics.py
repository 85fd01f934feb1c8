"""What seeds say of two sides, after Agarwal et al. 2021 (deep RL at the edge of the statistical precipice).

S seeds, E environments, K thresholds or points of a curve, R replicates. A seed is one independent training run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Verdict: TypeAlias = Literal["equivalent", "better", "worse", "undecided"]

FEWEST_SEEDS = 3


@dataclass(frozen=True)
class Interval:
    """A statistic of the data, and the bounds that resampling its seeds puts it between."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Array) -> float:
    """Mean of the middle half of all S * E scores; a quarter, rounded down, is left out at each end. scores: [S, E].

    ValueError if they are no such array of finite numbers, as from everything here.
    """
    return float(_middle_mean(_checked(scores).reshape(-1)))


def probability_of_improvement(scores: Array, others: Array) -> float:
    """P(X > Y) + P(X = Y) / 2, mean over environments; X is a seed of `scores` [S, E], Y one of `others` [S2, E]."""
    x, y = _checked(scores)[:, np.newaxis], _checked(others)
    _check_same_environments(scores, others)
    return float((np.mean(x > y) + np.mean(x >= y)) / 2)


def performance_profile(scores: Array, thresholds: Array) -> Array:
    """Share of all S * E scores that are above each threshold. scores: [S, E]; thresholds: [K] -> [K]."""
    ordered = np.sort(_checked(scores), axis=None)
    return 1.0 - np.searchsorted(ordered, thresholds, side="right") / ordered.size


def interval(
    statistic: Callable[..., float],
    *groups: Array,
    confidence: float = 0.95,
    replicates: int = 10_000,
    generator: np.random.Generator,
) -> Interval:
    """`statistic(*groups)` with its percentile bootstrap interval, stratified by environment (Agarwal et al., 4.1).

    groups: [S, E] each, S its own. Seeds are drawn again in each environment and each group independently. Where all
    seeds agree the interval is a point: resampling cannot see what did not happen. ValueError for fewer than 3 seeds.
    """
    for group in groups:
        check_seeds(len(_checked(group)))
        _check_same_environments(group, groups[0])
    resampled = zip(*(_resampled(group, replicates, generator) for group in groups), strict=True)
    values = np.fromiter((statistic(*sample) for sample in resampled), float, replicates)
    low, high = np.percentile(values, _tails(confidence))
    return Interval(float(statistic(*groups)), float(low), float(high))


def difference(
    scores: Array,
    others: Array,
    *,
    confidence: float = 0.90,
    replicates: int = 10_000,
    generator: np.random.Generator,
) -> Interval:
    """How much higher the interquartile mean of `scores` [S, E] is than that of `others` [S2, E].

    90% by default: such an interval inside the margins is two one-sided tests at 5% each.
    """
    return interval(
        lambda x, y: interquartile_mean(x) - interquartile_mean(y),
        scores,
        others,
        confidence=confidence,
        replicates=replicates,
        generator=generator,
    )


def band(
    curves: Array, *, confidence: float = 0.95, replicates: int = 10_000, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Interquartile mean of curves [S, K] at each point, and its lower and upper bounds: [K] each.

    Whole curves are drawn again; bounds are of each point alone. ValueError for fewer than 3 seeds.
    """
    seeds = check_seeds(len(_checked(curves)))
    drawn = generator.integers(seeds, size=(replicates, seeds))
    # Point by point: all resampled curves together are R * S * K numbers.
    bounds = [np.percentile(_middle_mean(point[drawn]), _tails(confidence)) for point in curves.T]
    low, high = np.array(bounds).T
    return _middle_mean(curves.T), low, high


def verdict(difference: Interval, margin: float) -> Verdict:
    """What a 90% interval of a difference says against a margin declared before.

    Equivalence comes first: a difference that is certain, but smaller than the margin, is one that does not matter (two
    one-sided tests, Schuirmann 1987). `undecided` asks for more seeds.
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "undecided"


def check_seeds(seeds: int) -> int:
    """The number of seeds. ValueError if it is too small for an interval: resamples of two are three points."""
    if seeds < FEWEST_SEEDS:
        raise ValueError(f"an interval needs at least {FEWEST_SEEDS} seeds, got {seeds}")
    return seeds


def _middle_mean(values: Array) -> Array:
    """Of the last axis: [..., N] -> [...]."""
    count = values.shape[-1]
    cut = count // 4
    ordered = np.sort(values, axis=-1)
    middle: Array = ordered[..., cut : count - cut].mean(-1)
    return middle


def _resampled(scores: Array, replicates: int, generator: np.random.Generator) -> Array:
    """[S, E] -> [R, S, E]."""
    drawn = generator.integers(len(scores), size=(replicates, *scores.shape))
    return np.take_along_axis(scores[np.newaxis], drawn, axis=1)


def _tails(confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return 50 - 50 * confidence, 50 + 50 * confidence


def _checked(scores: Array) -> Array:
    if scores.ndim != 2 or not scores.size:
        raise ValueError(f"scores must be an array [seeds, environments], got shape {list(scores.shape)}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
    return scores


def _check_same_environments(scores: Array, others: Array) -> None:
    if scores.shape[1] != others.shape[1]:
        raise ValueError(f"scores must be of the same environments, got {scores.shape[1]} and {others.shape[1]}")
