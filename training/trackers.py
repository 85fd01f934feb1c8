"""Where metrics go: local JSON lines always, and whatever else listens."""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..engine.stateful import StateDict, expect_keys
from .durable import sync_directory

METRICS, TIMINGS, EVALUATIONS = "metrics.jsonl", "timings.jsonl", "evaluations.jsonl"


class Tracker(Protocol):
    """Receives metrics by environment step, a step that only ever grows except after a resume."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def close(self, exit_code: int = 0) -> None:
        """Flush what is pending; `exit_code` is the process's, so that a listener can tell a crash from an end."""


class JsonlTracker:
    """The record of truth: one strict JSON object a line, whole lines only, the same bytes from identical runs.

    `metrics.jsonl` has every metric but `time/*`; those differ between identical runs and go to `timings.jsonl`. A
    value that is not finite is left out, because JSON has no such number and a missing key is what every reader takes
    as missing (an item of a list becomes null, to keep its place). `load_state_dict` cuts metrics and evaluations back
    to the checkpoint, so that a resumed run writes again, byte for byte, what a crash undid. `timings.jsonl` is left
    alone: that time was spent, though a step may then occur twice.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lines = {name: _Lines(run_dir / name) for name in (METRICS, TIMINGS, EVALUATIONS)}
        sync_directory(run_dir)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        values = {key: value if isinstance(value, int) else float(value) for key, value in metrics.items()}
        timings = {key: values.pop(key) for key in metrics if key.startswith("time/")}
        for name, row in ((METRICS, values), (TIMINGS, timings)):
            finite = {key: value for key, value in row.items() if math.isfinite(value)}
            if finite:
                self._lines[name].append({"step": step, **finite})

    def log_evaluation(self, record: Mapping[str, object]) -> None:
        """Append `record`, of plain values, to `evaluations.jsonl`."""
        self._lines[EVALUATIONS].append(_finite(record))

    def state_dict(self) -> StateDict:
        """The sizes in bytes of metrics and evaluations, which are on the disk by then."""
        return {name: self._lines[name].synced_size() for name in (METRICS, EVALUATIONS)}

    def load_state_dict(self, state: StateDict) -> None:
        """Raise ValueError that names a file shorter than the checkpoint saw; then neither file is changed."""
        expect_keys("the metrics files", state, {METRICS, EVALUATIONS})
        try:
            for name, size in state.items():
                self._lines[name].check_size(size)
        except ValueError:
            for lines in self._lines.values():
                lines.discard_if_new()
            raise
        for name, size in state.items():
            self._lines[name].truncate(size)

    def close(self, exit_code: int = 0) -> None:
        for lines in self._lines.values():
            lines.close()


class TensorboardTracker:
    """Scalars on the environment-step axis in `run_dir/tensorboard`.

    A resumed run passes the step it resumes from: points after it were undone, and TensorBoard then hides them. Raises
    ValueError when the extra `tensorboard` is not installed.
    """

    def __init__(self, run_dir: Path, resumed_from: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            extra = "pip install 'graftwork[tensorboard]'"
            raise ValueError(f"tracker=tensorboard needs a package that is missing: {extra} ({error})") from error
        purge_step = None if resumed_from is None else resumed_from + 1
        # A crash loses what is not flushed: ten seconds, not the default of two minutes.
        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=purge_step, flush_secs=10)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(key, value, step)

    def close(self, exit_code: int = 0) -> None:
        self._writer.close()


class Trackers:
    """One tracker of several: the local files, and listeners of which none can stop a run.

    A listener that raises is dropped, `warn` gets one line about it, and the run goes on. An error of the local files
    is raised: without them a run has no record.
    """

    def __init__(self, files: JsonlTracker, listeners: Sequence[Tracker] = (), *, warn: Callable[[str], None]) -> None:
        self._files, self._listeners, self._warn = files, list(listeners), warn

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self._files.log(metrics, step)
        self._tell(lambda listener: listener.log(metrics, step))

    def log_evaluation(self, record: Mapping[str, object]) -> None:
        """Append `record` to `evaluations.jsonl`; the listeners get an evaluation's metrics through `log`."""
        self._files.log_evaluation(record)

    def state_dict(self) -> StateDict:
        return self._files.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        self._files.load_state_dict(state)

    def close(self, exit_code: int = 0) -> None:
        self._files.close(exit_code)
        self._tell(lambda listener: listener.close(exit_code))

    def _tell(self, message: Callable[[Tracker], None]) -> None:
        for listener in tuple(self._listeners):
            try:
                message(listener)
            except Exception as error:
                self._listeners.remove(listener)
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                self._warn(f"{type(listener).__name__} is off from here, the local files are complete: {reason}")


def read(path: Path) -> list[dict[str, object]]:
    """The objects of a JSON-lines file, in order; a last line without its newline was torn by a crash and is skipped.

    Raises ValueError that names the file and the line which is not a JSON object.
    """
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    rows = []
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}: line {number} is not a JSON object; the file was altered or damaged")
        rows.append(row)
    return rows


class _Lines:
    """An append-only file of JSON lines; what a crash left of a last line is dropped when the next one is written."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that one line is one write: a killed process leaves it whole or not at all.
        self._is_new = not path.exists()
        self._path, self._file = path, path.open("ab+", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._torn = self._length_of_torn_line()

    def append(self, record: object) -> None:
        if self._torn:
            self.truncate(self._size - self._torn)
        line = json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"
        try:
            written = self._file.write(line)
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            self._file.truncate(self._size)  # A full disk must not leave half a line.
            raise
        self._size += len(line)

    def synced_size(self) -> int:
        os.fsync(self._file.fileno())
        return self._size - self._torn

    def check_size(self, size: int) -> None:
        if not isinstance(size, int) or size < 0:
            raise ValueError(f"{self._path}: its size in the checkpoint must be an integer of at least 0, got {size!r}")
        if size > self._size:
            raise ValueError(f"{self._path}: {self._size} bytes, but the checkpoint was saved when it had {size}")
        if size and self._byte(size - 1) != b"\n":
            raise ValueError(f"{self._path}: altered, no line ends at byte {size} where the checkpoint saw one end")

    def discard_if_new(self) -> None:
        if self._is_new:
            self._path.unlink()

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._size, self._torn = size, 0

    def close(self) -> None:
        self._file.close()

    def _byte(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(1)

    def _length_of_torn_line(self) -> int:
        length = 0
        while length < self._size and self._byte(self._size - 1 - length) != b"\n":
            length += 1
        return length


def _finite(value: object) -> object:
    """`value` without the numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items() if not _is_non_finite(item)}
    if isinstance(value, list | tuple):
        return [None if _is_non_finite(item) else _finite(item) for item in value]
    return value


def _is_non_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
