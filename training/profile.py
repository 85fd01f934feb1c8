"""What a run spends its time on, operator by operator: a trace of a few batches, for a look inside the phases."""

import gzip
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch.autograd.profiler import record_function

from ..engine.phases import BATCHES, CHECKPOINTS, EVALUATION, Stopwatch
from .durable import write_text

if TYPE_CHECKING:  # imported by those who ask for a trace alone
    from torch.profiler import ProfilerAction, profile

_WARM, _LATEST = 200, 400  # updates after which the trace may begin, and begins
_BATCHES, _SECONDS = 100, 0.25  # it ends with the batch in which either is reached
_CUT = 2.0  # seconds after which a batch is not waited for
_MAX_BYTES = 50_000_000  # of a trace that is not compressed
_ROWS = 30  # of a table of operators


class Profile(Stopwatch):
    """A Stopwatch that also has torch's profiler trace some batches of a Trainer; it changes no result.

    There is one trace, of batches as most of them will be: after 200 updates, from an evaluation or a checkpoint on; or
    else after 400, or halfway through a short run. It ends before an evaluation or a checkpoint, which would fill it.
    """

    def __init__(self, progress: Callable[[], tuple[int, float]], device: torch.device) -> None:
        """progress: the updates that this process has made, and the share of its steps that it has taken."""
        super().__init__()
        self._progress, self._device = progress, device
        self._running = ExitStack()  # holds the profiler from its warm-up, of one batch, to its end
        self._profile: profile | None = None
        self._begun: float | None = None  # when the first batch was, by the clock
        self._is_tracing = self._is_over = False
        self._is_fresh = False  # nothing was learnt since an evaluation or a checkpoint
        self._ranges: list[AbstractContextManager[object]] = []  # of the phases under way
        self._num_batches = 0  # whole ones

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        super().__exit__(kind, error, traceback)

    def enter(self, name: str) -> None:
        if name == BATCHES.name:
            self._next_batch()
        elif name in (EVALUATION.name, CHECKPOINTS.name):
            self._is_fresh = True
            if self._is_tracing:
                self._num_batches += 1
                self._end()
        elif self._is_tracing and self._age > _CUT:
            self._end()
        super().enter(name)
        range_: AbstractContextManager[object] = record_function(name) if self._is_tracing else nullcontext()
        range_.__enter__()
        self._ranges.append(range_)

    def leave(self) -> None:
        self._ranges.pop().__exit__(None, None, None)
        super().leave()

    def write(self, directory: Path) -> list[Path]:
        """New files in `directory`: summary.txt and, unless the run was too short, trace.json; then trace-2.json etc.

        A trace of more than 50 MB, as of batches that take very many operators, is compressed: trace.json.gz.
        """
        directory.mkdir(exist_ok=True)
        trace, summary = _unused(directory)
        if self._profile is None or self._begun is None:
            write_text(summary, f"{self.times.table()}\n\nno trace: the run was too short for one\n")
            return [summary]
        self._profile.export_chrome_trace(str(trace))
        if trace.stat().st_size > _MAX_BYTES:
            trace = _compressed(trace)
        told = f"{trace.name}: {self._num_batches} batch{'' if self._num_batches == 1 else 'es'}"
        write_text(summary, f"{self.times.table()}\n\n{told}, slower than without a trace\n{self._operators()}")
        return [trace, summary]

    @property
    def _age(self) -> float:
        """Of the trace, in seconds."""
        return 0.0 if self._begun is None else time.perf_counter() - self._begun

    def _next_batch(self) -> None:
        is_fresh, self._is_fresh = self._is_fresh, False
        if self._is_over:
            return
        if self._profile is None:
            updates, share = self._progress()
            if updates >= _LATEST or share >= 0.5 or (is_fresh and updates >= _WARM):
                self._begin()
            return
        if self._is_tracing:
            self._num_batches += 1
            if self._num_batches == _BATCHES or self._age > _SECONDS:
                self._end()
                return
        self._profile.step()
        if self._begun is None:
            self._begun, self._is_tracing = time.perf_counter(), True

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device.type == "cuda" else [])]
        super().enter("profiling")
        with _silence():
            self._profile = self._running.enter_context(profile(activities=activities, schedule=_action))
        super().leave()

    def _end(self) -> None:
        """Of the trace, if there is one under way."""
        if self._profile is None or self._is_over:
            return
        self._is_tracing, self._is_over = False, True
        super().enter("profiling")
        self._running.close()
        super().leave()

    def _operators(self) -> str:
        """Tables of those that took most time."""
        assert self._profile is not None
        averages = self._profile.key_averages()
        orders = ["self_cpu_time_total", *(["self_device_time_total"] if self._device.type == "cuda" else [])]
        return "\n".join(averages.table(sort_by=order, row_limit=_ROWS, max_name_column_width=60) for order in orders)


def _action(step: int) -> "ProfilerAction":
    """At one batch warm up, then trace until told to end."""
    from torch.profiler import ProfilerAction

    return ProfilerAction.RECORD if step else ProfilerAction.WARMUP


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps the profiler from telling of its comings and goings on stderr; it looks this up once in a process."""
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "99"
    try:
        yield
    finally:
        del os.environ[name]


def _unused(directory: Path) -> tuple[Path, Path]:
    """Names for a trace and its summary that no earlier process has taken."""
    for number in count(1):
        end = "" if number == 1 else f"-{number}"
        trace, summary = directory / f"trace{end}.json", directory / f"summary{end}.txt"
        if not summary.exists() and not trace.exists():
            break
    return trace, summary


def _compressed(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    with path.open("rb") as plain, gzip.open(packed, "wb") as file:
        shutil.copyfileobj(plain, file)
    path.unlink()
    return packed
