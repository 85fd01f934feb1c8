import gzip
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from graftwork.engine.phases import ACTING, BATCHES, CHECKPOINTS, EVALUATION, LEARNING
from graftwork.training import profile as module
from graftwork.training.profile import Profile

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No trace ends by the clock, on however slow a machine."""
    monkeypatch.setattr(module, "_SECONDS", 1e9)
    monkeypatch.setattr(module, "_CUT", 1e9)


class Loop:
    """Batches of one update each, as a Trainer makes them; each takes so many operators, the first of all `exp`."""

    def __init__(self, num_batches: int, evaluations: Iterable[int] = (), operators: int = 1) -> None:
        """evaluations: the numbers of batches that one comes after."""
        self._num_batches, self._evaluations, self._operators = num_batches, set(evaluations), operators
        self.updates = 0

    def run(self, profile: Profile) -> Profile:
        with profile:
            for _ in range(self._num_batches):
                self.batch()
            with CHECKPOINTS:
                pass
        return profile

    def batch(self) -> None:
        with BATCHES, ACTING:
            torch.ones(3).sqrt()
        with LEARNING:
            self.updates += 1
            with torch.autograd.profiler.record_function(f"update {self.updates}"):
                torch.ones(7).exp()
            for _ in range(self._operators - 1):
                torch.ones(5).sin()
        if self.updates in self._evaluations:
            with EVALUATION:
                torch.ones(2).cos()

    def profile(self) -> Profile:
        return self.run(Profile(lambda: (self.updates, self.updates / self._num_batches), CPU))


def events(path: Path) -> list[dict[str, Any]]:
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path) as file:
        found: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return found


def traced(profile: Profile, directory: Path) -> int:
    """How many updates are in the trace."""
    trace, _ = profile.write(directory)
    return sum(event["name"] == "aten::exp" for event in events(trace))


def test_phases_are_ranges_around_the_operators_in_them(tmp_path):
    trace, summary = Loop(40).profile().write(tmp_path / "profile")
    assert (trace, summary) == (tmp_path / "profile" / "trace.json", tmp_path / "profile" / "summary.txt")
    found = events(trace)

    def of(name: str) -> list[tuple[float, float]]:
        return [(each["ts"], each["ts"] + each["dur"]) for each in found if each["name"] == name and "dur" in each]

    # It warms up in the batch after the twentieth.
    assert len(of("learning")) == len(of("aten::exp")) == len(of("acting")) == 19
    for phase, operator in (("learning", "aten::exp"), ("acting", "aten::sqrt"), ("batches", "aten::sqrt")):
        for (begin, end), (first, last) in zip(sorted(of(phase)), sorted(of(operator)), strict=True):
            assert begin <= first
            assert last <= end
    text = summary.read_text()
    assert text.startswith("phase ")
    assert "\ntrace.json: 19 batches, slower than without a trace\n" in text
    assert "aten::exp" in text


def test_phases_are_measured_as_by_any_stopwatch():
    entries = Loop(40, evaluations=[10, 20]).profile().times.entries
    expected = {"batches": 40, "acting": 40, "learning": 40, "evaluation": 2, "checkpoints": 1, "other": 0}
    assert entries == expected | {"profiling": 2}  # to begin and to end


@pytest.mark.parametrize(
    ("num_batches", "evaluations", "first", "last"),
    [
        (3_000, [], 402, 501),  # 400 updates, one to warm up, and then a hundred
        (3_000, [130, 260, 390], 262, 361),  # after the first evaluation past 200 updates
        (3_000, [260, 310], 262, 310),  # and before the next
        (60, [], 32, 60),  # halfway through a short run
    ],
)
def test_trace_is_of_batches_as_they_will_stay(tmp_path, num_batches, evaluations, first, last):
    trace, summary = Loop(num_batches, evaluations).profile().write(tmp_path)
    names = [event["name"] for event in events(trace)]
    assert [name for name in names if name.startswith("update ")] == [f"update {i}" for i in range(first, last + 1)]
    assert f"\ntrace.json: {last - first + 1} batches, " in summary.read_text()
    assert "aten::cos" not in names


def test_trace_ends_by_the_clock_with_the_batch_in_which_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    assert traced(Loop(40).profile(), tmp_path) == 1


def test_batch_that_takes_too_long_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CUT", 0.0)
    profile = Loop(40).profile()
    assert traced(profile, tmp_path) == 0
    assert "trace.json: 0 batches" in (tmp_path / "summary.txt").read_text()


def test_run_that_is_too_short_for_a_trace_has_a_summary_that_says_so(tmp_path):
    for num_batches in (1, 2):  # the second would be halfway, and warm up
        (summary,) = Loop(num_batches).profile().write(tmp_path / str(num_batches))
        assert summary.read_text().endswith("\n\nno trace: the run was too short for one\n")


def test_later_run_leaves_the_files_of_earlier_ones(tmp_path):
    written = [[path.name for path in Loop(10).profile().write(tmp_path)] for _ in range(3)]
    assert written == [["trace.json", "summary.txt"]] + [[f"trace-{i}.json", f"summary-{i}.txt"] for i in (2, 3)]
    assert traced(Loop(1_000).profile(), tmp_path / "x") == 100


def test_large_trace_is_compressed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_BYTES", 100_000)
    trace, _ = Loop(60, operators=40).profile().write(tmp_path)
    assert trace.name == "trace.json.gz"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.txt", "trace.json.gz"]
    assert trace.stat().st_size < 100_000
    assert sum(event["name"] == "aten::sin" for event in events(trace)) == 29 * 39


def test_profiler_says_nothing_and_leaves_the_environment_alone(tmp_path, capfd):
    before = dict(os.environ)
    traced(Loop(20).profile(), tmp_path)
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_error_ends_the_trace(tmp_path):
    loop = Loop(40)

    class Failing(Loop):
        def batch(self) -> None:
            super().batch()
            if self.updates == 25:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Failing(40).profile()
    assert traced(loop.profile(), tmp_path) == 19  # the profiler is free for another
