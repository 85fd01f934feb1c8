"""What is measured of a side, from within its process, in the same way whichever library it is."""

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

Goal: TypeAlias = Literal["rate", "start", "solved"]
Metrics: TypeAlias = dict[str, float | None]
Mark: TypeAlias = tuple[float, float, int]  # seconds, seconds of CPU, environment steps

SOLVED, IN_A_ROW = 475.0, 3  # evaluations of such a return, as crossing it once is chance
EVALUATION_PERIOD, EPISODES = 2_500, 10


class Enough(Exception):
    """What was to be measured has been."""


class Clock:
    """Marks of one run, in seconds since the process began, with evaluations taken out."""

    def __init__(self, started: float, goal: Goal, skip: int) -> None:
        """started: time.time() of whoever started the process; skip: environment steps before learning begins."""
        self.goal, self._started, self._skip = goal, started, skip
        self.first_step: float | None = None
        self._first_step_cpu = 0.0
        self._before: Mark | None = None  # of the last iteration without learning
        self._begun: Mark | None = None
        self._ended: Mark | None = None
        self._paused = self._paused_cpu = 0.0
        self._good = 0  # evaluations in a row
        self.last_return: float | None = None
        self.solved: float | None = None

    def watch(self, env_class: type[Any]) -> None:
        """Notice the first step of any environment of a class, and when learning begins; then the class is as before.

        The same for every library, and free once learning has begun.
        """
        original, count = env_class.step, 0

        @functools.wraps(original)
        def step(env: Any, action: Any) -> Any:
            nonlocal count
            if count == 0:
                self.step_seen()
            if count == self._skip:
                self.begin(count)
                env_class.step = original
            count += 1
            return original(env, action)

        env_class.step = step

    def watch_progress(self, progress: type[Any]) -> None:
        """As `watch`, for environments without a class to watch: from what is told after each iteration.

        The first step is therefore seen late, and learning begins with the iteration that is the first to learn, so
        that what it takes to compile counts.
        """
        enter, original = progress.__enter__, progress.update

        @functools.wraps(enter)
        def entered(shown: Any) -> Any:
            self._before = (self._now(), self._cpu(), 0)
            return enter(shown)

        @functools.wraps(original)
        def update(shown: Any, step: int, *others: Any) -> None:
            self.step_seen()
            if self._begun is None:
                if step >= self._skip:
                    self._begun = self._before
                self._before = (self._now(), self._cpu(), step)
            original(shown, step, *others)

        progress.__enter__, progress.update = entered, update

    def step_seen(self) -> None:
        """An environment is about to be stepped, or has been."""
        if self.first_step is None:
            self.first_step, self._first_step_cpu = self._now(), self._cpu()
            if self.goal == "start":
                self.print_and_exit({**self._start(), **self._memory()})

    def begin(self, steps: int) -> None:
        """So many environment steps have been made, and learning begins."""
        self._begun = (self._now(), self._cpu(), steps)

    def stop(self, steps: int) -> None:
        """Training has ended after so many environment steps; only the first call counts."""
        if self._ended is None:
            self._ended = (self._now(), self._cpu(), steps)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside takes no time."""
        seconds, cpu = time.time(), time.process_time()
        try:
            yield
        finally:
            self._paused += time.time() - seconds
            self._paused_cpu += time.process_time() - cpu

    def evaluated(self, mean: float) -> None:
        """A greedy return has been measured; Enough once the goal is reached."""
        self.last_return = mean
        self._good = self._good + 1 if mean >= SOLVED else 0
        if self._good >= IN_A_ROW and self.solved is None:
            self.solved = self._now()
            if self.goal == "solved":
                raise Enough

    def report(self, updates: float | None) -> Metrics:
        """updates: gradient updates since learning began."""
        assert self.first_step is not None, "no environment was stepped"
        if self.goal == "solved":
            total = self._ended[0] if self._ended is not None else self._now()
            return {
                **self._start(),
                "solved_seconds": self.solved,
                "total_seconds": total,
                "final_return": self.last_return,
                **self._memory(),
            }
        assert self._begun is not None, "learning never began"
        assert self._ended is not None
        seconds, cpu, steps = (after - before for after, before in zip(self._ended, self._begun, strict=True))
        return {
            "steps_per_second": steps / seconds,
            "steps_per_cpu_second": steps / cpu,
            "updates_per_second": None if updates is None else updates / seconds,
            **self._start(),
            "total_seconds": self._ended[0],
            "final_return": self.last_return,
            **self._memory(),
        }

    def print_and_exit(self, metrics: Metrics) -> None:
        """Without the library's own clean-up, which may take longer than what was measured."""
        print(json.dumps(metrics))
        sys.stdout.flush()
        os._exit(0)

    def _now(self) -> float:
        return time.time() - self._started - self._paused

    def _cpu(self) -> float:
        return time.process_time() - self._paused_cpu

    def _start(self) -> Metrics:
        return {"first_step_seconds": self.first_step, "first_step_cpu_seconds": self._first_step_cpu}

    @staticmethod
    def _memory() -> Metrics:
        return {"peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
