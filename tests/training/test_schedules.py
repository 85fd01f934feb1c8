from itertools import pairwise

import pytest
from pydantic import TypeAdapter, ValidationError

from graftwork.training.schedules import (
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    Probability,
    Rate,
    Schedule,
    Step,
    Warmup,
    crossed,
)

ANY, RATE, PROBABILITY = TypeAdapter(Schedule), TypeAdapter(Rate), TypeAdapter(Probability)


def test_a_constant_is_the_same_at_every_step():
    assert [Constant(value=0.3).at(step) for step in (0, 7, 10**9)] == [0.3, 0.3, 0.3]


def test_linear_moves_evenly_and_then_stays():
    schedule = Linear(start=1.0, end=0.2, steps=8)
    # 0.8 / 8 = 0.1 a step
    assert [schedule.at(step) for step in (0, 1, 4, 8, 9, 10**9)] == pytest.approx([1.0, 0.9, 0.6, 0.2, 0.2, 0.2])
    assert Linear(start=0.0, end=3.0, steps=2).at(1) == 1.5


def test_exponential_moves_by_a_constant_factor_and_then_stays():
    schedule = Exponential(start=8.0, end=0.5, steps=4)
    # (1 / 16) ** (1 / 4) = 1 / 2
    assert [schedule.at(step) for step in (0, 1, 2, 3, 4, 99)] == pytest.approx([8.0, 4.0, 2.0, 1.0, 0.5, 0.5])


def test_step_falls_by_a_factor_every_so_many_steps():
    schedule = Step(start=8.0, factor=0.5, steps=10)
    assert [schedule.at(step) for step in (0, 9, 10, 19, 20, 35)] == [8.0, 8.0, 4.0, 4.0, 2.0, 1.0]
    assert schedule.at(10**9) == 0.0


def test_cosine_falls_along_half_a_wave_and_then_stays():
    schedule = Cosine(start=1.0, end=0.2, steps=12)
    # cos of 0, 60, 90, 120 and 180 degrees: 1, 1/2, 0, -1/2, -1; 0.2 + 0.8 * (1 + cos) / 2
    assert [schedule.at(step) for step in (0, 4, 6, 8, 12, 10**9)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2])
    assert (schedule.at(0), schedule.at(12)) == (1.0, 0.2)


def test_inverse_time_is_half_after_its_steps_and_a_third_after_twice_as_many():
    schedule = InverseTime(start=6.0, steps=50)
    assert [schedule.at(step) for step in (0, 25, 50, 100, 250)] == pytest.approx([6.0, 4.0, 3.0, 2.0, 1.0])


def test_warmup_rises_evenly_to_where_the_other_begins_and_then_is_the_other():
    schedule = Warmup(steps=4, then=Linear(start=2.0, end=1.0, steps=10))
    # 2 / 4 = 0.5 a step, then 0.1 less a step
    expected = [0.0, 0.5, 1.0, 1.5, 2.0, 1.9, 1.5, 1.0, 1.0]
    assert [schedule.at(step) for step in (0, 1, 2, 3, 4, 5, 9, 14, 10**9)] == pytest.approx(expected)
    assert ANY.validate_python({"kind": "warmup", "steps": 4, "then": 0.5}).at(2) == 0.25


def test_a_number_is_a_constant():
    assert ANY.validate_python(3) == ANY.validate_python(3.0) == Constant(value=3.0)
    assert ANY.validate_json("0.25") == Constant(value=0.25)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(value=-2.0),
        Linear(start=-1, end=1, steps=5),
        Exponential(start=1, end=2, steps=3),
        Step(start=1, factor=0.1, steps=3),
        Cosine(start=1, end=0, steps=3),
        InverseTime(start=1, steps=3),
        Warmup(steps=2, then=Cosine(start=1, end=0, steps=3)),
        Warmup(steps=2, then=Constant(value=3)),
    ],
)
def test_a_schedule_survives_a_round_trip(schedule):
    for dumped in (schedule, schedule.model_dump(), schedule.model_dump(mode="json")):
        assert ANY.validate_python(dumped) == schedule


@pytest.mark.parametrize(
    "wrong",
    [
        "fast",
        None,
        True,
        [1, 2],
        float("nan"),
        float("inf"),
        {"kind": "sine"},
        {"kind": "cosine"},
        {"kind": "step", "start": 1, "factor": 0, "steps": 5},
        {"kind": "step", "start": 1, "factor": 1.1, "steps": 5},
        {"kind": "cosine", "start": 1, "end": 0, "steps": 0},
        {"kind": "inverse_time", "start": 1, "steps": -1},
        {"kind": "warmup", "steps": 5},
        {"kind": "warmup", "steps": 0, "then": 1.0},
        {"kind": "warmup", "steps": 5, "then": "fast"},
        {"kind": "warmup", "steps": 5, "then": {"kind": "warmup", "steps": 5, "then": 1.0}},
        {"kind": "linear", "start": 1, "end": 0},
        {"kind": "linear", "start": 1, "end": 0, "steps": 0},
        {"kind": "linear", "start": 1, "end": float("-inf"), "steps": 5},
        {"kind": "exponential", "start": 1, "end": 0, "steps": 5},
        {"kind": "exponential", "start": -1, "end": 1, "steps": 5},
        {"kind": "exponential", "start": 1, "end": float("inf"), "steps": 5},
        {"kind": "constant", "value": 1, "steps": 5},
    ],
)
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(ValidationError):
        ANY.validate_python(wrong)


def test_what_is_neither_number_nor_schedule_is_told_so():
    with pytest.raises(ValidationError, match="must be a number or a schedule with a kind, got 'fast'"):
        ANY.validate_python("fast")


@pytest.mark.parametrize(
    "wrong",
    [
        -0.1,
        Linear(start=1, end=-1e-9, steps=5),
        Linear(start=-1, end=1, steps=5),
        Step(start=-1, factor=0.5, steps=5),
        Cosine(start=1, end=-1e-9, steps=5),
        InverseTime(start=-1, steps=5),
        Warmup(steps=3, then=Constant(value=-1)),
        Warmup(steps=3, then=Linear(start=1, end=-1e-9, steps=5)),
    ],
)
def test_a_rate_is_never_negative(wrong):
    with pytest.raises(ValidationError, match="must not be negative, got -"):
        RATE.validate_python(wrong)


@pytest.mark.parametrize(
    "right",
    [
        0,
        7,
        Linear(start=5, end=0, steps=5),
        Exponential(start=1e-9, end=9, steps=5),
        Step(start=5, factor=0.1, steps=1),
        Cosine(start=5, end=0, steps=5),
        InverseTime(start=5, steps=1),
        Warmup(steps=3, then=Cosine(start=5, end=0, steps=5)),
    ],
)
def test_a_rate_may_be_anything_else(right):
    assert RATE.validate_python(right).at(0) >= 0


@pytest.mark.parametrize(
    "wrong",
    [
        -0.1,
        1.1,
        Linear(start=1, end=1.01, steps=5),
        Exponential(start=2, end=1, steps=5),
        Step(start=1.01, factor=0.5, steps=5),
        Cosine(start=0, end=1.01, steps=5),
        InverseTime(start=1.01, steps=5),
        Warmup(steps=3, then=Cosine(start=0, end=1.01, steps=5)),
    ],
)
def test_a_probability_stays_between_0_and_1(wrong):
    with pytest.raises(ValidationError, match=r"must stay in \[0, 1\], got"):
        PROBABILITY.validate_python(wrong)


@pytest.mark.parametrize(
    "schedule",
    [
        Step(start=0.3, factor=0.7, steps=3),
        Cosine(start=0.3, end=0.1, steps=30),
        Cosine(start=0.1, end=0.7, steps=30),
        InverseTime(start=0.3, steps=3),
        Warmup(steps=11, then=Exponential(start=0.3, end=0.9, steps=20)),
        Warmup(steps=11, then=Cosine(start=0.3, end=0.0, steps=20)),
    ],
)
def test_no_value_is_past_the_extremes(schedule):
    values = [schedule.at(step) for step in range(60)]
    assert min(schedule.extremes()) <= min(values)
    assert max(values) <= max(schedule.extremes())


def test_the_ends_of_a_probability_are_allowed():
    assert PROBABILITY.validate_python(1).at(5) == 1.0
    assert PROBABILITY.validate_python({"kind": "linear", "start": 1, "end": 0, "steps": 5}).at(5) == 0.0


@pytest.mark.parametrize(
    ("period", "before", "after", "expected"),
    [
        (10, 0, 9, False),
        (10, 0, 10, True),
        (10, 9, 10, True),
        (10, 10, 10, False),
        (10, 10, 19, False),
        (10, 10, 20, True),
        (10, 5, 35, True),
        (1, 3, 4, True),
        (0, 0, 100, False),
    ],
)
def test_crossed_if_a_multiple_lies_after_before_and_up_to_after(period, before, after, expected):
    assert crossed(period, before, after) is expected


def test_every_multiple_is_crossed_once_however_the_steps_are_taken():
    for stride in (1, 3, 7, 10):
        steps = list(range(0, 211, stride))
        multiples = sum(crossed(10, before, after) for before, after in pairwise(steps))
        assert multiples == steps[-1] // 10
