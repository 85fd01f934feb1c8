"""Statistics of seeds: by hand, by their symmetries, and against rliable."""

import subprocess
import sys
import warnings
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from graftwork.validation.statistics import (
    Interval,
    band,
    check_seeds,
    difference,
    interquartile_mean,
    interval,
    performance_profile,
    probability_of_improvement,
    verdict,
)

# Multiples of a sixteenth add up to the same in any order and keep their ties when they are shifted.
SIXTEENTHS = st.integers(-800, 800).map(lambda number: number / 16)
SCORES = arrays(np.float64, (5, 3), elements=SIXTEENTHS)
OTHERS = arrays(np.float64, (4, 3), elements=SIXTEENTHS)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def rliable() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, and its dependencies'
        library: ModuleType = import_module("rliable.library")
        metrics: ModuleType = import_module("rliable.metrics")
    return SimpleNamespace(
        intervals=library.get_interval_estimates,
        profile=library.create_performance_profile,
        iqm=metrics.aggregate_iqm,
        improvement=metrics.probability_of_improvement,
    )


def test_interquartile_mean_is_of_the_middle_half_of_all_scores():
    scores = np.array([[100.0, 0.0], [2.0, 9.0], [1.0, 3.0], [5.0, 20.0]])  # 8 scores: the middle 4 are 2, 3, 5, 9
    assert interquartile_mean(scores) == 4.75


def test_interquartile_mean_rounds_the_quarter_down():
    assert interquartile_mean(np.array([[1.0, 90.0], [2.0, 10.0], [3.0, 6.0]])) == 5.25  # of 2, 3, 6, 10
    assert interquartile_mean(np.array([[0.0], [0.0], [6.0]])) == 2.0  # of all three


def test_probability_of_improvement_counts_a_tie_as_half():
    scores, others = np.array([[1.0, 5.0], [3.0, 6.0]]), np.array([[2.0, 7.0], [3.0, 8.0], [0.0, 9.0]])
    # First environment: 1 beats 0; 3 beats 2 and 0, and ties with 3: 3.5 of 6. Second: none of 6.
    assert probability_of_improvement(scores, others) == pytest.approx(3.5 / 12)


def test_performance_profile_is_the_share_strictly_above():
    scores = np.array([[0.0, 0.5, 1.0], [0.25, 0.5, 2.0]])
    thresholds = np.array([-1.0, 0.0, 0.5, 0.75, 2.0])
    assert performance_profile(scores, thresholds).tolist() == pytest.approx([1, 5 / 6, 2 / 6, 2 / 6, 0])


def test_interval_of_equal_seeds_is_a_point():
    assert interval(interquartile_mean, np.full((3, 2), 500.0), generator=rng()) == Interval(500.0, 500.0, 500.0)


def test_interval_never_mixes_environments():
    scores = np.array([[0.0, 100.0]] * 3)  # seeds agree; only a draw across environments could change the mean
    assert interval(lambda x: float(x.mean()), scores, generator=rng()) == Interval(50.0, 50.0, 50.0)


def test_interval_draws_seeds_of_each_environment_independently():
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # every row's mean is 0.5
    found = interval(lambda x: float(x.mean()), scores, generator=rng())
    assert found.low < 0.5 < found.high


def test_interval_draws_groups_independently():
    scores = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert difference(scores, scores, generator=rng()).low < 0


def test_interval_has_the_bounds_of_the_binomial():
    scores = np.array([[0.0]] * 10 + [[1.0]] * 10)  # a resample's sum is binomial(20, 1/2), its middle 95% from 6 to 14
    assert interval(lambda x: float(x.mean()), scores, generator=rng()) == Interval(0.5, 0.3, 0.7)


def test_interval_repeats_with_its_generator():
    scores = rng(1).normal(size=(5, 3))
    first, second, third = (interval(interquartile_mean, scores, generator=rng(seed)) for seed in (2, 2, 3))
    assert first == second != third


def test_difference_of_sides_without_spread_is_that_of_their_means():
    scores, others = np.full((3, 2), 0.75), np.full((4, 2), 0.5)
    assert difference(scores, others, generator=rng()) == Interval(0.25, 0.25, 0.25)


def test_band_is_the_interval_of_each_point():
    curves = rng(4).normal(size=(7, 3))
    value, low, high = band(curves, generator=rng())
    for point in range(3):
        alone = interval(interquartile_mean, curves[:, [point]], generator=rng())  # the same draws
        assert (value[point], low[point], high[point]) == pytest.approx((alone.value, alone.low, alone.high))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.04, 0.04, "equivalent"),
        (0.01, 0.04, "equivalent"),  # certainly better, by less than matters
        (-0.04, -0.01, "equivalent"),
        (0.01, 0.05, "better"),  # the margin itself is outside
        (0.01, 0.3, "better"),
        (-0.3, -0.01, "worse"),
        (-0.05, 0.01, "undecided"),
        (0.0, 0.3, "undecided"),
        (-0.3, 0.3, "undecided"),
    ],
)
def test_verdict(low: float, high: float, expected: str):
    assert verdict(Interval((low + high) / 2, low, high), 0.05) == expected


@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(0.01, 1))
def test_verdict_is_symmetric(one: float, two: float, margin: float):
    low, high = min(one, two), max(one, two)
    mirrored = {"better": "worse", "worse": "better"}
    there, back = verdict(Interval(low, low, high), margin), verdict(Interval(-low, -high, -low), margin)
    assert back == mirrored.get(there, there)


@given(SCORES, SIXTEENTHS, st.sampled_from([0.25, 2.0, 8.0]))
def test_interquartile_mean_and_its_interval_follow_shift_and_scale(scores, shift, scale):
    before = interval(interquartile_mean, scores, replicates=20, generator=rng())
    after = interval(interquartile_mean, scale * scores + shift, replicates=20, generator=rng())
    expected = [scale * number + shift for number in (before.value, before.low, before.high)]
    assert [after.value, after.low, after.high] == pytest.approx(expected, abs=1e-9)


@given(SCORES)
def test_interquartile_mean_is_odd_and_does_not_see_the_order(scores):
    assert interquartile_mean(-scores) == pytest.approx(-interquartile_mean(scores))
    assert interquartile_mean(scores[::-1, ::-1]) == interquartile_mean(scores)


@given(SCORES, OTHERS)
def test_probabilities_of_both_sides_add_up_to_one(scores, others):
    there, back = probability_of_improvement(scores, others), probability_of_improvement(others, scores)
    assert there + back == pytest.approx(1)
    assert probability_of_improvement(np.exp(scores / 50), np.exp(others / 50)) == pytest.approx(there)


@given(SCORES, arrays(np.float64, 6, elements=SIXTEENTHS))
def test_profile_falls_from_one_to_zero(scores, thresholds):
    profile = performance_profile(scores, np.array([-100.0, *np.sort(thresholds), 100.0]))
    assert profile[0] == 1
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()


@given(SCORES, OTHERS)
def test_point_estimates_are_those_of_rliable(rliable, scores, others):
    assert interquartile_mean(scores) == pytest.approx(rliable.iqm(scores), abs=1e-12)
    assert probability_of_improvement(scores, others) == pytest.approx(rliable.improvement(scores, others), abs=1e-12)


def test_profile_is_that_of_rliable(rliable):
    scores, thresholds = rng(5).normal(size=(5, 3)), np.linspace(-2, 2, 9)
    profiles, _ = rliable.profile({"ours": scores}, thresholds, reps=2)
    np.testing.assert_allclose(performance_profile(scores, thresholds), profiles["ours"], atol=1e-12)


def test_interval_of_the_interquartile_mean_is_that_of_rliable(rliable):
    scores = rng(6).normal(size=(12, 3))
    np.random.seed(0)  # noqa: NPY002 - it draws from the global stream
    points, bounds = rliable.intervals({"ours": scores}, lambda x: np.array([rliable.iqm(x)]), reps=4_000)
    found = interval(interquartile_mean, scores, generator=rng())
    assert found.value == pytest.approx(points["ours"][0], abs=1e-12)
    # Four standard errors of the difference of such bounds; they are 0.73 apart.
    assert [found.low, found.high] == pytest.approx(bounds["ours"][:, 0], abs=0.032)


def test_interval_of_the_difference_is_that_of_rliable(rliable):
    scores, others = rng(7).normal(size=(12, 1)), rng(8).normal(size=(9, 1))

    def subtracted(x, y):
        return np.array([rliable.iqm(x) - rliable.iqm(y)])

    np.random.seed(0)  # noqa: NPY002
    points, bounds = rliable.intervals({"ours": [scores, others]}, subtracted, reps=4_000, confidence_interval_size=0.9)
    found = difference(scores, others, generator=rng())
    assert found.value == pytest.approx(points["ours"][0], abs=1e-12)
    assert [found.low, found.high] == pytest.approx(bounds["ours"][:, 0], abs=0.09)  # likewise; 1.6 apart


def test_interval_of_the_probability_of_improvement_is_that_of_rliable(rliable):
    scores, others = rng(9).normal(size=(12, 2)), rng(10).normal(size=(9, 2))

    def improvement(x, y):
        return np.array([rliable.improvement(x, y)])

    np.random.seed(0)  # noqa: NPY002
    _, bounds = rliable.intervals({"ours": [scores, others]}, improvement, reps=600)
    found = interval(probability_of_improvement, scores, others, generator=rng())
    assert [found.low, found.high] == pytest.approx(bounds["ours"][:, 0], abs=0.04)  # likewise


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_give_no_interval(seeds: int):
    few, many = np.zeros((seeds, 1)), np.zeros((5, 1))
    message = f"^an interval needs at least 3 seeds, got {seeds}$"
    with pytest.raises(ValueError, match=message):
        interval(interquartile_mean, few, generator=rng())
    with pytest.raises(ValueError, match=message):
        difference(many, few, generator=rng())
    with pytest.raises(ValueError, match=message):
        band(few, generator=rng())
    assert check_seeds(3) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean(np.zeros(4)), r"scores must be an array \[seeds, environments\], got shape \[4\]"),
        (lambda: interquartile_mean(np.zeros((0, 2))), r"got shape \[0, 2\]"),
        (lambda: interquartile_mean(np.array([[1.0], [np.nan]])), "scores must be finite, got nan"),
        (lambda: probability_of_improvement(np.zeros((3, 2)), np.zeros((3, 1))), "same environments, got 2 and 1"),
        (lambda: difference(np.zeros((3, 2)), np.zeros((3, 1)), generator=rng()), "same environments"),
        (lambda: verdict(Interval(0, 0, 0), 0.0), "margin must be above 0, got 0.0"),
        (lambda: band(np.zeros((3, 1)), confidence=95, generator=rng()), "confidence must be between 0 and 1, got 95"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_importing_validation_imports_no_torch():
    code = "import sys, graftwork.validation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
