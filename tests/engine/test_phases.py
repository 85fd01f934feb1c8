import threading
from collections.abc import Callable

import pytest

from graftwork.engine.phases import ACTING, BATCHES, ENVIRONMENT, LEARNING, OTHER, Stopwatch, Times


def clock(*seconds: float) -> Callable[[], int]:
    """That says one after another."""
    return iter([round(each * 1e9) for each in seconds]).__next__


def test_phase_inside_another_interrupts_it_and_all_add_up_to_the_whole():
    #                 begin, batches, acting, end, environment, end, end, end
    with Stopwatch(clock(100, 101, 103, 107, 108, 124, 156, 220)) as stopwatch, BATCHES:
        with ACTING:
            pass
        with ENVIRONMENT:
            pass
    times = stopwatch.times
    # Batches before, between and after those inside it: 2 + 1 + 32. Other: 1 before and 64 after.
    assert times.seconds == {"batches": 35, "acting": 4, "environment": 16, OTHER: 65}
    assert times.entries == {"batches": 1, "acting": 1, "environment": 1, OTHER: 0}
    assert times.total == 120
    assert times.record("time/run") == {
        "time/run/seconds": 120,
        **{f"time/run/{name}": seconds for name, seconds in times.seconds.items()},
    }


def test_phase_that_comes_again_and_inside_itself_is_summed():
    with Stopwatch(clock(0, 1, 3, 4, 8, 16, 32, 33)) as stopwatch:
        with ACTING:
            pass
        with ACTING, ACTING:
            pass
    assert stopwatch.times.seconds == {"acting": 2 + 28, OTHER: 1 + 1 + 1}
    assert stopwatch.times.entries["acting"] == 3


def test_error_ends_the_phases_that_it_leaves():
    with Stopwatch(clock(0, 1, 3, 7, 15, 31)) as stopwatch, pytest.raises(ZeroDivisionError), BATCHES, ACTING:
        raise ZeroDivisionError
    assert stopwatch.times.seconds == {"batches": 2 + 8, "acting": 4, OTHER: 1 + 16}


def test_phases_outside_a_stopwatch_count_for_nothing():
    with ACTING:
        pass
    with Stopwatch(clock(0, 5)) as stopwatch:
        pass
    with ACTING:
        pass
    assert stopwatch.times.seconds == {OTHER: 5}


def test_phases_of_other_threads_count_for_nothing():
    def act() -> None:
        with ACTING:
            pass

    with Stopwatch(clock(0, 1, 4, 5)) as stopwatch, LEARNING:
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    assert stopwatch.times.seconds == {"learning": 3, OTHER: 2}


def test_stopwatch_inside_another_measures_in_its_place():
    with Stopwatch(clock(0, 1, 21, 22)) as outer, LEARNING, Stopwatch(clock(5, 6, 8, 9)) as inner, ACTING:
        pass
    assert inner.times.seconds == {"acting": 2, OTHER: 2}
    assert outer.times.seconds == {"learning": 20, OTHER: 2}


def times(**seconds: float) -> Times:
    return Times(seconds, dict.fromkeys(seconds, 4) | {OTHER: 0})


def test_shares_are_told_from_the_largest_to_the_rest():
    # Of 400: checkpoints are a quarter of a percent, and so part of the rest.
    told = times(other=3, checkpoints=1, acting=36, learning=360)
    assert str(told) == "learning 90%, acting 9%, other 1%"
    assert str(times(other=0.1, learning=99.9)) == "learning 100%"
    assert str(times(other=2)) == "other 100%"


def test_table_has_each_phase_with_its_mean():
    rows = [line.split() for line in times(other=3, acting=0.25, learning=6.75).table().splitlines()]
    assert rows == [
        ["phase", "seconds", "share", "entries", "us", "each"],
        ["learning", "6.750", "67.5%", "4", "1,687,500.0"],
        ["other", "3.000", "30.0%"],
        ["acting", "0.250", "2.5%", "4", "62,500.0"],
    ]
