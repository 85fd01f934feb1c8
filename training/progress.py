"""How far a run has got: a bar on a terminal, a line every ten seconds anywhere else."""

import os
import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    import rich.progress

_BAR_PERIOD = 0.1  # seconds between two drawings of the bar, and two measurements of the step
_LINE_PERIOD = 10.0  # seconds between two plain lines
_WINDOW = 10.0  # seconds over which the speed is measured
_NUM_RETURNS = 20  # whose mean is shown


class Progress:
    """Shows step, steps per second, mean return and time left; `update` is all but free when nothing is to be drawn.

    A terminal gets a bar, any other stream plain lines: at the first update, then at most one in ten seconds, and a
    last one. `quiet` shows nothing but what `line` is given. A stream that can no longer be written to (a terminal that
    was closed), or a process without one, ends the showing, not the run.
    """

    def __init__(
        self,
        total_steps: int,
        initial_step: int = 0,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """stream: sys.stderr unless given; clock: returns seconds."""
        self._total, self._step = total_steps, initial_step
        self._stream = sys.stderr if stream is None else stream
        self._quiet, self._clock = quiet, clock
        self._bar: rich.progress.Progress | None = None
        self._returns: deque[float] = deque(maxlen=_NUM_RETURNS)
        self._marks: deque[tuple[float, int]] = deque()  # (time, step), over the window
        self._start = 0.0
        self._next_mark = self._next_line = float("-inf")
        self._drawn_step = initial_step

    def __enter__(self) -> Self:
        self._start = self._clock()
        self._marks.append((self._start, self._step))
        is_terminal = self._stream is not None and self._stream.isatty()
        if not self._quiet and is_terminal and os.environ.get("TERM") != "dumb":
            self._bar = _make_bar(self._stream, self._total, self._step)
        return self

    def update(self, step: int, return_: float | None = None) -> None:
        """Note the step now reached, and the return of an episode, or the mean of several, that ended since."""
        self._step = step
        if return_ is not None:
            self._returns.append(return_)
        now = self._clock()
        if now >= self._next_mark:
            self._next_mark = now + _BAR_PERIOD
            self._mark(now)
            if self._bar is not None or now >= self._next_line:
                self._next_line = now + _LINE_PERIOD
                self._draw()

    def line(self, text: str) -> None:
        """Print `text` on a line of its own, above the bar if there is one; any thread may call this."""
        try:
            if self._bar is not None:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            elif self._stream is not None:
                self._stream.write(text + "\n")
                self._stream.flush()
        except OSError:
            self._quiet = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._step != self._drawn_step:
            self._mark(self._clock())
            self._draw()
        if self._bar is not None:
            bar, self._bar = self._bar, None
            try:
                bar.stop()
            except OSError:
                self._quiet = True

    def _mark(self, now: float) -> None:
        self._marks.append((now, self._step))
        # The oldest mark that stays is the last one outside the window, so that the window is always spanned.
        while len(self._marks) > 2 and self._marks[1][0] <= now - _WINDOW:
            self._marks.popleft()

    def _draw(self) -> None:
        self._drawn_step = self._step
        if self._quiet:
            return
        text = self._text()
        if self._bar is None:
            self.line(text)
            return
        try:
            self._bar.update(self._bar.task_ids[0], completed=self._step, text=text, refresh=True)
        except OSError:
            self._quiet = True

    def _text(self) -> str:
        (first_time, first_step), (last_time, last_step) = self._marks[0], self._marks[-1]
        speed = (last_step - first_step) / (last_time - first_time) if last_time > first_time else 0.0
        parts = [f"step {self._step:,}/{self._total:,}"]
        if speed > 0:
            parts.append(f"{speed:,.0f} steps/s")
        if self._returns:
            parts.append(f"return {sum(self._returns) / len(self._returns):.1f}")
        if self._step >= self._total:
            parts.append(f"took {_duration(last_time - self._start)}")
        elif speed > 0:
            parts.append(f"{_duration((self._total - self._step) / speed)} left")
        return "  ".join(parts)


def _make_bar(stream: TextIO, total: int, step: int) -> "rich.progress.Progress":
    """A started bar; rich is imported here because plain lines and `import graftwork` do without it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    bar = Progress(
        TaskProgressColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(file=stream, force_terminal=True),
        auto_refresh=False,  # no thread: it draws when the run reports
        expand=True,
        # Other prints to this terminal go above the bar; a standard output that goes elsewhere is left alone.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=stream is sys.stderr,
    )
    bar.add_task("", total=total, completed=step, text="")
    bar.start()
    return bar


def _duration(seconds: float) -> str:
    """`h:mm:ss`."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
