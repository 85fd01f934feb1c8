import io
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from graftwork.training.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawings(stream: io.StringIO) -> list[str]:
    """What a terminal was told to show, line by line, without colours and cursor moves."""
    return [line.strip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()))]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def test_plain_lines_come_first_every_ten_seconds_and_last(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(5000, stream=stream, clock=clock) as progress:
        for second in range(1, 26):  # 100 steps each
            clock.now += 1
            progress.update(100 * second)
    # The first update, 10 s and 20 s after it, and the end.
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == [
        "100/5,000",
        "1,100/5,000",
        "2,100/5,000",
        "2,500/5,000",
    ]


def test_a_line_has_speed_mean_return_and_time_left(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(9000, stream=stream, clock=clock) as progress:
        clock.now += 2
        progress.update(500, 10.0)
        clock.now += 2
        progress.update(1000, 25.0)
    # 1,000 steps in 4 s; 8,000 to go at 250 a second are 32 s; (10 + 25) / 2.
    assert stream.getvalue().splitlines()[-1] == "step 1,000/9,000  250 steps/s  return 17.5  0:00:32 left"


def test_the_speed_is_of_the_last_ten_seconds(clock: Clock) -> None:
    stream = io.StringIO()
    step = 0
    with Progress(10**6, stream=stream, clock=clock) as progress:
        for steps_per_second in [1000] * 20 + [50] * 15:
            clock.now += 1
            progress.update(step := step + steps_per_second)
    assert "  50 steps/s  " in stream.getvalue().splitlines()[-1]


def test_a_resumed_run_does_not_count_the_steps_before(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(5000, initial_step=3000, stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.update(3700)
    assert stream.getvalue() == "step 3,700/5,000  70 steps/s  0:00:19 left\n"  # 1,300 / 70 = 18.6


def test_the_end_says_how_long_it_took(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(7000, stream=stream, clock=clock) as progress:
        clock.now += 3700
        progress.update(7001)
    assert stream.getvalue() == "step 7,001/7,000  2 steps/s  took 1:01:40\n"


def test_only_recent_returns_are_shown(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(7000, stream=stream, clock=clock) as progress:
        for step in range(1, 31):
            progress.update(step, 0.0 if step <= 10 else 5.0)
    assert "return 5.0" in stream.getvalue().splitlines()[-1]


def test_nothing_is_shown_without_an_update(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress(7000, initial_step=500, stream=stream, clock=clock):
        pass
    assert stream.getvalue() == ""


def test_quiet_shows_only_what_line_is_given(clock: Clock) -> None:
    for stream in (io.StringIO(), Terminal()):
        with Progress(7000, stream=stream, quiet=True, clock=clock) as progress:
            clock.now += 20
            progress.update(500, 1.0)
            progress.line("W&B: no key")
        assert stream.getvalue() == "W&B: no key\n"


def test_a_terminal_gets_a_bar(clock: Clock) -> None:
    stream = Terminal()
    with Progress(5000, stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.update(2500, 12.5)
    shown = drawings(stream)
    assert any(
        re.fullmatch(r"50% \S+ step 2,500/5,000  250 steps/s  return 12.5  0:00:10 left", line) for line in shown
    ), shown


def test_a_line_is_printed_above_the_bar_as_it_is(clock: Clock) -> None:
    stream = Terminal()
    text = "[bold]C:\\runs[/bold] " + "x" * 150  # no markup, no wrapping
    with Progress(5000, stream=stream, clock=clock) as progress:
        progress.update(10)
        progress.line(text)
        clock.now += 1
        progress.update(20)
    shown = drawings(stream)
    assert text in shown
    assert any("step 20/5,000" in line for line in shown[shown.index(text) :])


def test_the_bar_is_drawn_at_most_ten_times_a_second(clock: Clock) -> None:
    stream = Terminal()
    with Progress(5000, stream=stream, clock=clock) as progress:
        progress.update(1)
        before = len(stream.getvalue())
        clock.now += 0.09
        progress.update(2)
        assert len(stream.getvalue()) == before
        clock.now += 0.02
        progress.update(3)
        assert len(stream.getvalue()) > before


def test_a_dumb_terminal_gets_plain_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with Progress(5000, stream=stream, clock=clock) as progress:
        progress.update(10)
    assert stream.getvalue() == "step 10/5,000\n"


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_a_stream_that_is_gone_does_not_end_the_run(kind: type[io.StringIO], clock: Clock) -> None:
    class Gone(kind):  # type: ignore[valid-type,misc]
        alive = True

        def write(self, text: str) -> int:
            if not self.alive:
                raise OSError(5, "Input/output error")
            return super().write(text)

    stream = Gone()
    with Progress(5000, stream=stream, clock=clock) as progress:
        progress.update(1)
        stream.alive = False
        for step in range(2, 10):
            clock.now += 11
            progress.update(step)
            progress.line("hello")


def test_prints_go_to_where_they_went_before() -> None:
    # On a terminal with standard output elsewhere, what a program prints must reach that file and not the terminal.
    code = (
        "from graftwork.training.progress import Progress\n"
        "with Progress(50) as progress:\n"
        "    progress.update(7)\n"
        "    print('result')\n"
    )
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=theirs, timeout=60, check=True, text=True
        )
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.stdout == "result\n"
    assert "step 7/50" in shown
    assert "result" not in shown


def test_an_update_that_draws_nothing_is_cheap() -> None:
    with Progress(5000, stream=io.StringIO()) as progress:
        progress.update(1)
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            for _ in range(10_000):
                progress.update(2, 3.0)
            seconds.append(time.perf_counter() - start)
    assert min(seconds) / 10_000 < 5e-6  # 0.2e-6 on an idle core


def test_rich_is_not_imported_for_plain_lines() -> None:
    code = (
        "import io, sys\n"
        "from graftwork.training.progress import Progress\n"
        "with Progress(50, stream=io.StringIO()) as progress:\n"
        "    progress.update(7)\n"
        "assert 'rich' not in sys.modules and 'wandb' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
