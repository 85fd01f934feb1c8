"""The marks of a run, with made-up time."""

import pytest
from suite.clock import Clock, Enough


class Env:
    def step(self, action):
        return action


@pytest.fixture
def now(monkeypatch):
    """What it is, in seconds since the start; of the CPU half as much."""
    time = [0.0]
    monkeypatch.setattr("suite.clock.time.time", lambda: 1_000.0 + time[0])
    monkeypatch.setattr("suite.clock.time.process_time", lambda: time[0] / 2)
    return time


def test_rate_counts_from_where_learning_begins_without_evaluations(now):
    step = Env.step
    clock = Clock(1_000.0, "rate", skip=3)
    clock.watch(Env)
    for _ in range(7):
        now[0] += 2.0
        assert Env().step(5) == 5
    with clock.paused():
        now[0] += 100.0
    now[0] += 1.0
    clock.stop(7)
    found = clock.report(updates=18)
    assert Env.step is step, "the class is as it was"
    # The first step after 2 s, the one after the third after 8 s; the end after 15 s.
    assert found["first_step_seconds"] == 2.0
    assert found["steps_per_second"] == pytest.approx((7 - 3) / (15 - 8))
    assert found["steps_per_cpu_second"] == pytest.approx((7 - 3) / 3.5)
    assert found["updates_per_second"] == pytest.approx(18 / 7)
    assert found["total_seconds"] == 15.0


def test_what_is_told_after_iterations_counts_from_before_the_first_that_learns(now):
    class Progress:
        def __enter__(self):
            return self

        def update(self, step, return_=None):
            now[0] += 0.5  # counted: it is not the clock's

    clock = Clock(1_000.0, "rate", skip=20)
    clock.watch_progress(Progress)
    now[0] = 2.0
    progress = Progress().__enter__()
    for step in (10, 20, 30):  # the second iteration is the first that learns
        now[0] += 4.0
        progress.update(step)
    clock.stop(30)
    found = clock.report(None)
    assert found["first_step_seconds"] == 6.0
    assert found["steps_per_second"] == pytest.approx((30 - 10) / (15.5 - 6.0))


def test_solved_is_the_third_good_evaluation_in_a_row(now):
    clock = Clock(1_000.0, "solved", skip=0)
    clock.watch(Env)
    Env().step(0)
    for seconds, mean in ((10, 480.0), (20, 474.0), (30, 475.0), (40, 500.0)):
        now[0] = seconds
        clock.evaluated(mean)
    now[0] = 50.0
    with pytest.raises(Enough):
        clock.evaluated(490.0)
    assert clock.report(None)["solved_seconds"] == 50.0


def test_run_that_was_not_solved_says_so(now):
    clock = Clock(1_000.0, "solved", skip=0)
    clock.step_seen()
    clock.evaluated(12.0)
    now[0] = 60.0
    clock.stop(5)
    found = clock.report(None)
    assert (found["solved_seconds"], found["total_seconds"], found["final_return"]) == (None, 60.0, 12.0)
