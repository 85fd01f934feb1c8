import errno
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graftwork.training.trackers import JsonlTracker, TensorboardTracker, Trackers, read


@pytest.fixture
def files(tmp_path: Path) -> Iterator[JsonlTracker]:
    tracker = JsonlTracker(tmp_path)
    yield tracker
    tracker.close()


def reopened(run_dir: Path, act: Callable[[JsonlTracker], None]) -> None:
    tracker = JsonlTracker(run_dir)
    try:
        act(tracker)
    finally:
        tracker.close()


def write(run_dir: Path, steps: range) -> None:
    def act(tracker: JsonlTracker) -> None:
        for step in steps:
            tracker.log({"train/loss": 1.0 / (step + 1), "time/update": step * 0.1}, step)
            tracker.log_evaluation({"step": step, "returns": [1.0, float(step)]})

    reopened(run_dir, act)


class Listener:
    def __init__(self, fails_at: int | None = None) -> None:
        self.heard: list[tuple[int, dict[str, float]]] = []
        self.exit_codes: list[int] = []
        self.fails_at = fails_at

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if step == self.fails_at:
            raise RuntimeError("no\nanswer")
        self.heard.append((step, dict(metrics)))

    def close(self, exit_code: int = 0) -> None:
        if self.fails_at == -1:
            raise RuntimeError("cannot close")
        self.exit_codes.append(exit_code)


def test_a_line_has_sorted_keys_and_the_step(files: JsonlTracker, tmp_path: Path) -> None:
    files.log({"train/loss": 0.5, "episode/return": 21.0, "episode/count": 3}, 700)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (
        b'{"episode/count": 3, "episode/return": 21.0, "step": 700, "train/loss": 0.5}\n'
    )


def test_time_metrics_go_to_timings_alone(files: JsonlTracker, tmp_path: Path) -> None:
    files.log({"train/loss": 0.5, "time/update": 0.25}, 5)
    files.log({"time/update": 0.125}, 7)
    assert read(tmp_path / "metrics.jsonl") == [{"step": 5, "train/loss": 0.5}]
    assert read(tmp_path / "timings.jsonl") == [{"step": 5, "time/update": 0.25}, {"step": 7, "time/update": 0.125}]


def test_a_non_finite_value_is_left_out(files: JsonlTracker, tmp_path: Path) -> None:
    files.log({"a": math.nan, "b": math.inf, "c": 1.5}, 3)
    files.log({"a": math.nan}, 5)
    files.log_evaluation({"std": math.nan, "returns": [1.0, -math.inf], "best": {"x": math.inf, "y": 2}})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"c": 1.5, "step": 3}\n'
    assert (tmp_path / "evaluations.jsonl").read_text() == '{"best": {"y": 2}, "returns": [1.0, null]}\n'


def test_numpy_numbers_are_written_as_numbers(files: JsonlTracker, tmp_path: Path) -> None:
    files.log({"a": np.float32(0.5), "b": np.int64(7)}, 3)  # type: ignore[dict-item]
    assert read(tmp_path / "metrics.jsonl") == [{"a": 0.5, "b": 7.0, "step": 3}]


def test_lines_are_in_the_file_before_log_returns(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from graftwork.training.trackers import JsonlTracker\n"
        "tracker = JsonlTracker(pathlib.Path(sys.argv[1]))\n"
        "tracker.log({'x': 1.0}, 3); tracker.log_evaluation({'step': 3})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read(tmp_path / "metrics.jsonl") == [{"step": 3, "x": 1.0}]
    assert read(tmp_path / "evaluations.jsonl") == [{"step": 3}]


def test_a_torn_last_line_is_skipped_by_read_and_dropped_once_the_run_goes_on(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    metrics = tmp_path / "metrics.jsonl"
    whole = metrics.read_bytes()
    for torn in (b'{"step": 3, "tra', b"\0" * 9, b'{"step": 3}'):
        metrics.write_bytes(whole + torn)
        assert [row["step"] for row in read(metrics)] == [0, 1, 2]
        reopened(tmp_path, lambda tracker: None)
        assert metrics.read_bytes() == whole + torn  # nobody has said yet that the run goes on
        reopened(tmp_path, lambda tracker: tracker.load_state_dict(tracker.state_dict()))
        assert metrics.read_bytes() == whole
        metrics.write_bytes(whole + torn)
        reopened(tmp_path, lambda tracker: tracker.log({"x": 1.0}, 3))
        assert metrics.read_bytes().startswith(whole + b'{"step": 3')
        assert [row["step"] for row in read(metrics)] == [0, 1, 2, 3]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"st')
    assert read(tmp_path / "metrics.jsonl") == []
    write(tmp_path, range(1))
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [0]


def test_read_names_the_line_that_is_not_an_object(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for bad in ("{", "[1]", ""):
        path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
        with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2 is not a JSON object"):
            read(path)


def test_an_uninterrupted_run_and_a_resumed_one_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("straight", "resumed"):
        (tmp_path / name).mkdir()
    write(tmp_path / "straight", range(7))

    write(tmp_path / "resumed", range(3))
    states: list[dict[str, object]] = []
    reopened(tmp_path / "resumed", lambda tracker: states.append(tracker.state_dict()))
    write(tmp_path / "resumed", range(3, 5))  # undone by a crash
    reopened(tmp_path / "resumed", lambda tracker: tracker.load_state_dict(json.loads(json.dumps(states[0]))))
    write(tmp_path / "resumed", range(3, 7))

    for name in ("metrics.jsonl", "evaluations.jsonl"):
        assert (tmp_path / "resumed" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert [row["step"] for row in read(tmp_path / "resumed" / "timings.jsonl")] == [0, 1, 2, 3, 4, 3, 4, 5, 6]


def test_a_file_shorter_than_the_checkpoint_is_named_and_nothing_is_cut(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    states: list[dict[str, object]] = []
    reopened(tmp_path, lambda tracker: states.append(tracker.state_dict()))
    write(tmp_path, range(3, 5))
    (tmp_path / "evaluations.jsonl").write_bytes(b'{"step": 0}\n')
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"evaluations\.jsonl: 12 bytes, but the checkpoint .* had \d+$") as caught:
        reopened(tmp_path, lambda tracker: tracker.load_state_dict(states[0]))
    assert "\n" not in str(caught.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_that_ends_inside_a_line_means_an_altered_file(files: JsonlTracker) -> None:
    files.log({"x": 1.0}, 3)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: altered, no line ends at byte 5"):
        files.load_state_dict({"metrics.jsonl": 5, "evaluations.jsonl": 0})


def test_a_state_with_a_missing_key_is_named(files: JsonlTracker) -> None:
    with pytest.raises(ValueError, match=r"evaluations\.jsonl"):
        files.load_state_dict({"metrics.jsonl": 0})
    with pytest.raises(ValueError, match=r"metrics\.jsonl: its size in the checkpoint must be an integer"):
        files.load_state_dict({"metrics.jsonl": "0", "evaluations.jsonl": 0})


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, files: JsonlTracker) -> None:
    files.log({"x": 1.0}, 3)
    lines = files._lines["metrics.jsonl"]
    real = lines._file

    class Full:
        """Takes seven bytes of the line, then no more."""

        def write(self, data: bytes) -> int:
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real.write(data[:-7])

        def truncate(self, size: int) -> int:
            return real.truncate(size)

    lines._file = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        files.log({"x": 2.0}, 5)
    lines._file = real
    files.log({"x": 2.0}, 7)
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [3, 7]


@given(rows=st.lists(st.dictionaries(st.text(), st.floats() | st.integers(), max_size=4), max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_finite(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    (tmp_path / "evaluations.jsonl").unlink(missing_ok=True)
    reopened(tmp_path, lambda tracker: [tracker.log_evaluation(row) for row in rows] and None)
    expected = [{key: value for key, value in row.items() if math.isfinite(value)} for row in rows]
    assert read(tmp_path / "evaluations.jsonl") == expected


def test_a_listener_that_raises_is_dropped_and_said_once(files: JsonlTracker, tmp_path: Path) -> None:
    bad, good, said = Listener(fails_at=5), Listener(), []
    trackers = Trackers(files, [bad, good], warn=said.append)
    for step in (3, 5, 7):
        trackers.log({"x": 1.0}, step)
    trackers.close(2)
    assert said == ["Listener is off from here, the local files are complete: RuntimeError: no answer"]
    assert [step for step, _ in bad.heard] == [3]
    assert [step for step, _ in good.heard] == [3, 5, 7]
    assert (bad.exit_codes, good.exit_codes) == ([], [2])
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [3, 5, 7]


def test_a_listener_that_cannot_close_does_not_stop_the_next(files: JsonlTracker) -> None:
    bad, good, said = Listener(fails_at=-1), Listener(), []
    Trackers(files, [bad, good], warn=said.append).close(3)
    assert len(said) == 1
    assert good.exit_codes == [3]


def test_an_error_of_the_local_files_is_raised(tmp_path: Path) -> None:
    files = JsonlTracker(tmp_path)
    trackers = Trackers(files, warn=pytest.fail)
    files.close()
    with pytest.raises(ValueError, match="closed"):
        trackers.log({"x": 1.0}, 3)


def test_the_state_of_all_trackers_is_that_of_the_files(files: JsonlTracker, tmp_path: Path) -> None:
    trackers = Trackers(files, [Listener()], warn=pytest.fail)
    trackers.log({"x": 1.0}, 3)
    state = trackers.state_dict()
    assert state == {"metrics.jsonl": len('{"step": 3, "x": 1.0}\n'), "evaluations.jsonl": 0}
    trackers.log({"x": 1.0}, 5)
    trackers.log_evaluation({"step": 5})
    trackers.load_state_dict(state)
    assert [row["step"] for row in read(tmp_path / "metrics.jsonl")] == [3]
    assert read(tmp_path / "evaluations.jsonl") == []


def scalars(run_dir: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard_scalars_lie_on_the_environment_step(tmp_path: Path) -> None:
    tracker = TensorboardTracker(tmp_path)
    tracker.log({"train/loss": 0.5, "episode/return": 7.0}, 300)
    tracker.log({"train/loss": 0.25}, 500)
    tracker.close()
    assert scalars(tmp_path, "train/loss") == [(300, 0.5), (500, 0.25)]
    assert scalars(tmp_path, "episode/return") == [(300, 7.0)]


def test_tensorboard_forgets_the_points_that_a_resume_undid(tmp_path: Path) -> None:
    tracker = TensorboardTracker(tmp_path)
    for step in (100, 200, 300):
        tracker.log({"x": 1.0}, step)
    tracker.close()
    tracker = TensorboardTracker(tmp_path, resumed_from=200)
    tracker.log({"x": 2.0}, 250)
    tracker.close()
    assert scalars(tmp_path, "x") == [(100, 1.0), (200, 1.0), (250, 2.0)]


def test_tensorboard_that_is_not_installed_is_one_line_that_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'graftwork\[tensorboard\]'") as caught:
        TensorboardTracker(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "tensorboard").exists()


def test_a_state_that_is_refused_leaves_no_file_where_none_was(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: 0 bytes, but the checkpoint was saved when it had 5"):
        tracker.load_state_dict({"metrics.jsonl": 5, "evaluations.jsonl": 0})
    tracker.close()
    assert not list(tmp_path.iterdir())
