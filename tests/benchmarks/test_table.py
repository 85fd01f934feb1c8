"""The arithmetic of the benchmark page: medians, ratios, and whether what was wanted was reached."""

import dataclasses

import pytest
from suite.records import Record, median
from suite.table import REQUIREMENTS, Requirement, Verdict, times_as_good, verdict
from suite.workloads import WORKLOADS, Scale, workload

RATE = Requirement("speed", "race", "steps_per_second", "other", 3)


def record(**others):
    empty = {field.name: {} for field in dataclasses.fields(Record)}
    return Record(**{**empty, "name": "race", **others})


def race(ours, theirs, metric="steps_per_second"):
    runs = {"graftwork": [{metric: value} for value in ours], "other": [{metric: value} for value in theirs]}
    return {"race": record(runs=runs)}


def test_median_is_of_an_odd_and_an_even_number_of_runs():
    assert median([{"x": 5.0}, {"x": 1.0}, {"x": 2.0}], "x") == 2.0
    assert median([{"x": 4.0}, {"x": 1.0}], "x") == 2.5


def test_run_without_a_value_counts_as_the_slowest():
    assert median([{"x": None}, {"x": 1.0}, {"x": 2.0}], "x") == 2.0
    assert median([{"x": None}, {"x": None}, {"x": 2.0}], "x") is None


def test_metric_that_nobody_measured_has_no_median():
    assert median([{"x": 1.0}], "y") is None


def test_times_as_good_knows_what_is_better_when_lower():
    assert times_as_good("steps_per_second", 300.0, 100.0) == 3.0
    assert times_as_good("first_step_seconds", 2.0, 6.0) == 3.0


def test_ratio_is_of_medians():
    # Medians 320 and 100; of means it would be 2.9.
    found = verdict(RATE, race([320, 310, 1_000], [100, 90, 470]))
    assert found == Verdict("3x", "3.20x", "yes")


def test_what_falls_short_is_a_no():
    assert verdict(RATE, race([299], [100])) == Verdict("3x", "2.99x", "no")


def test_at_most_is_a_share_of_theirs():
    wanted = Requirement("start", "race", "first_step_seconds", "other", at_most=0.8)
    assert verdict(wanted, race([1.6], [2.0], "first_step_seconds")) == Verdict("at most 0.8x", "0.80x", "yes")
    assert verdict(wanted, race([1.7], [2.0], "first_step_seconds")).answer == "no"


def test_star_takes_the_fastest_other_of_the_same_case():
    buffers = {"big: graftwork": 10.0, "big: A": 50.0, "big: B": 31.0, "small: C": 1.0}
    runs = {side: [{"microseconds": value}] for side, value in buffers.items()}
    wanted = Requirement("replay", "race", "microseconds", "big: *", 3, ours="big: graftwork")
    assert verdict(wanted, {"race": record(runs=runs)}) == Verdict("3x", "3.10x (B)", "yes")


def test_side_that_was_left_out_is_not_measured_and_says_why():
    found = record(runs={"graftwork": [{"steps_per_second": 5.0}]}, left_out={"other": "is not installed"})
    assert verdict(RATE, {"race": found}) == Verdict("3x", "is not installed", "not measured")


def test_workload_that_was_not_run_is_not_measured():
    assert verdict(RATE, {}).answer == "not measured"


def test_side_that_never_solved_it_took_at_least_as_long_as_its_run():
    wanted = Requirement("solved", "race", "solved_seconds", "other", 3)
    theirs = [{"solved_seconds": None, "total_seconds": 70.0}]
    runs = {"graftwork": [{"solved_seconds": 20.0, "total_seconds": 21.0}], "other": theirs}
    assert verdict(wanted, {"race": record(runs=runs)}) == Verdict("3x", "more than 3.50x: it was not solved", "yes")
    runs["graftwork"] = theirs
    assert verdict(wanted, {"race": record(runs=runs)}).answer == "no"


@pytest.mark.parametrize("wanted", REQUIREMENTS, ids=lambda wanted: f"{wanted.workload}, {wanted.ours}")
def test_requirement_is_about_sides_that_there_are(wanted):
    assert wanted.workload in WORKLOADS
    if wanted.workload != "replay":
        found = workload(wanted.workload, Scale.FULL, "cpu")
        known = found.sides.keys() | dict(found.absent).keys()
        assert {wanted.ours, wanted.against} <= known
