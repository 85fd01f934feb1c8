"""Where the time goes: a stopwatch that tells the phases of a run apart."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from types import TracebackType
from typing import Self

OTHER = "other"  # what is in no phase


class Phase:
    """`with ACTING: ...` counts as acting for the Stopwatch of this thread; without one it does nothing.

    A phase inside another interrupts it, so no time counts twice. On a GPU, where work is queued, a phase is how long
    the host was in it, which need not be where the device was busy.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        if (stopwatch := _current.get()) is not None:
            stopwatch.enter(self.name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if (stopwatch := _current.get()) is not None:
            stopwatch.leave()


ACTING = Phase("acting")  # the agent's choice of actions
ENVIRONMENT = Phase("environment")  # steps and resets
BATCHES = Phase("batches")  # rows put together to rollouts; of a task, samples fetched and augmented
SAMPLING = Phase("sampling")  # storing in a replay and drawing from it
LEARNING = Phase("learning")
EVALUATION = Phase("evaluation")
TRACKING = Phase("tracking")  # metrics, logs, the receipt, the progress shown
CHECKPOINTS = Phase("checkpoints")


@dataclass(frozen=True)
class Times:
    """What a Stopwatch measured."""

    seconds: Mapping[str, float]  # by phase, OTHER included; they add up to all that was measured
    entries: Mapping[str, int]  # how often each was entered

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.seconds.values())

    def __str__(self) -> str:
        """Shares, the largest first; last of all the rest, of which what rounds to no percent is a part."""
        percent = {name: 100 * each / self.total for name, each in self.seconds.items() if name != OTHER and each}
        told = {name: each for name, each in sorted(percent.items(), key=lambda item: -item[1]) if each >= 0.5}
        rest = 100 - sum(told.values())
        return ", ".join(
            f"{name} {each:.0f}%" for name, each in (told | ({OTHER: rest} if rest >= 0.5 else {})).items()
        )

    def record(self, prefix: str) -> dict[str, float]:
        """Seconds, in all and by phase, for a file."""
        return {f"{prefix}/seconds": self.total, **{f"{prefix}/{name}": each for name, each in self.seconds.items()}}

    def table(self) -> str:
        """A line for each phase, the longest first."""
        rows = [f"{'phase':<12} {'seconds':>10} {'share':>6} {'entries':>10} {'us each':>10}"]
        for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            share = f"{seconds / max(self.total, 1e-9):6.1%}"
            entries = self.entries[name]
            each = f"{entries:>10,} {1e6 * seconds / entries:>10,.1f}" if entries else ""
            rows.append(f"{name:<12} {seconds:>10.3f} {share} {each}".rstrip())
        return "\n".join(rows)


class Stopwatch:
    """While entered, measures the phases of its thread; other threads' count for nothing.

    One that is entered inside another measures in its place.
    """

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        """clock: returns nanoseconds."""
        self._clock = clock
        self._spent: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])  # nanoseconds and entries
        self._open = [self._spent[OTHER]]  # the phases that are under way, the innermost last
        self._since = 0
        self._token: Token[Stopwatch | None] | None = None

    def __enter__(self) -> Self:
        self._since = self._clock()
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self._open[-1][0] += self._clock() - self._since

    def enter(self, name: str) -> None:
        """Begin a phase inside that under way; see Phase, which calls this."""
        now = self._clock()
        self._open[-1][0] += now - self._since
        self._open.append(self._spent[name])
        self._since = now

    def leave(self) -> None:
        """End the innermost phase."""
        now = self._clock()
        spent = self._open.pop()
        spent[0] += now - self._since
        spent[1] += 1
        self._since = now

    @property
    def times(self) -> Times:
        """As of the last change of phases, or of the end."""
        seconds = {name: spent[0] / 1e9 for name, spent in self._spent.items()}
        return Times(seconds, {name: spent[1] for name, spent in self._spent.items()})


# Each thread has its own, and nested ones give it back.
_current: ContextVar[Stopwatch | None] = ContextVar("stopwatch", default=None)
