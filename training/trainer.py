"""The loop that every run goes through: next batch, learn, log, evaluate, checkpoint."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from ..engine import accelerate
from ..engine.phases import BATCHES, CHECKPOINTS, EVALUATION, LEARNING, TRACKING
from ..engine.stateful import StateDict, Stateful, expect_keys
from ..envs.contract import Episode
from .evaluate import Interrupted
from .interrupt import Abandoned, StopRequest
from .progress import Progress
from .schedules import crossed
from .trackers import Trackers

BatchOut = TypeVar("BatchOut", covariant=True)
BatchIn = TypeVar("BatchIn", contravariant=True)
Batch = TypeVar("Batch")
VerdictOut = TypeVar("VerdictOut", bound="Verdict", covariant=True)
AnyVerdict = TypeVar("AnyVerdict", bound="Verdict")

_PARTS = {"learner", "source", "trackers", "loop"}
_EVALUATOR = "evaluator"  # a part only of runs whose evaluator has something to remember


class Source(Stateful, Protocol[BatchOut]):
    """Where batches come from: a Collector, or a data set."""

    @property
    def num_steps(self) -> int:
        """Environment steps, or samples of a data set, handed out so far."""

    def next(self) -> BatchOut: ...

    def finished(self) -> list[Episode]: ...


class Learner(Stateful, Protocol[BatchIn]):
    """What learns from batches; metrics stay on the device until they are logged."""

    def learn(self, batch: BatchIn) -> Mapping[str, Tensor]: ...

    def examine(self, wanted: bool) -> None:
        """Whether the metrics of the next update should tell of each layer's activations and gradients."""

    @property
    def num_updates(self) -> int:
        """Gradient updates since it was built; 0 of a learner that does not count them."""


class Verdict(Protocol):
    """What an evaluation came to."""

    def record(self) -> Mapping[str, object]:
        """Plain values, for `evaluations.jsonl`."""

    def metrics(self) -> Mapping[str, float]:
        """What is tracked, such as evaluation/return."""

    def __str__(self) -> str:
        """In a few words, for the terminal."""


class Evaluator(Stateful, Protocol[VerdictOut]):
    """How good the learner is by now; asked at every evaluation period, and at the end."""

    @property
    def is_over(self) -> bool:
        """The run should end here, before its last step: it gets no better."""

    def __call__(self, step: int, stop: Callable[[], bool]) -> VerdictOut:
        """Raises Interrupted soon after `stop()` turns true; then nothing was concluded."""


@dataclass(frozen=True)
class Periods:
    """Steps of the source between two of each; 0 is never. What falls inside a batch happens after it."""

    log: int
    evaluation: int
    checkpoint: int


class Trainer(Generic[Batch, AnyVerdict]):
    """Trains a learner on a source until `steps` of the source's, at the first end of a batch at or past them.

    Everything is decided by the step alone, so an interrupted run that is restored does what it would have done.
    """

    def __init__(
        self,
        source: Source[Batch],
        learner: Learner[Batch],
        trackers: Trackers,
        progress: Progress,
        *,
        steps: int,
        periods: Periods,
        evaluator: Evaluator[AnyVerdict],
        save: Callable[[int, StateDict], None],
        examines: bool = False,
    ) -> None:
        """save: given the step and the state; examines: each log tells of the layers, see Learner.examine."""
        self._source, self._learner = source, learner
        self._trackers, self._progress = trackers, progress
        self._steps, self._periods = steps, periods
        self._evaluator, self._save, self._examines = evaluator, save, examines
        self.evaluation: AnyVerdict | None = None  # the newest of this process
        self._evaluated_at = 0
        self.saved_step = 0  # of the newest checkpoint
        self._episodes: list[Episode] = []  # finished since the last log
        self._sums: dict[str, Tensor] = {}  # of metrics since the last log
        self._counts: dict[str, int] = {}  # of calls to learn that gave them

    @property
    def step(self) -> int:
        """Of the source, so far."""
        return self._source.num_steps

    @property
    def is_finished(self) -> bool:
        """Every step is taken, or the evaluator has seen enough, and the last evaluation done."""
        return self._is_at_end and self._evaluated_at == self.step

    @property
    def _is_at_end(self) -> bool:
        return self.step >= self._steps or self._evaluator.is_over

    @staticmethod
    def would_be_finished(state: StateDict, step: int, steps: int) -> bool:
        """Whether a trainer with this state, at `step`, has nothing left to do."""
        expect_keys("trainer", state, _PARTS | (state.keys() & {_EVALUATOR}))
        is_over = bool(state.get(_EVALUATOR, {}).get("is_over"))
        return is_over or (step >= steps and bool(state["loop"]["evaluated_at"] == step))

    def run(self, stop: StopRequest, watch: Callable[[int, Mapping[str, Tensor]], bool] | None = None) -> None:
        """Train to the end, or until `stop`; either way everything up to the last update is saved.

        An error in a batch, and one that does not end soon after `stop`, leaves the last checkpoint as it is. watch:
        given the step and the metrics after each call to learn, until it returns False.
        """
        clock, clock_step = time.perf_counter(), self.step
        if self.step == 0:
            self._checkpoint()  # a run killed before its first period resumes as exactly as any
        before = self.step
        while True:
            self._evaluate_if_due(stop)
            ends = self._is_at_end or stop()
            if ends or crossed(self._periods.checkpoint, before, self.step):
                self._checkpoint()
            if ends:
                return
            before = self.step
            try:
                with stop.abandonable(), BATCHES:
                    batch = self._source.next()
            except Abandoned:
                self._progress.line("the batch under way does not end: it is given up")
                return
            is_logged = crossed(self._periods.log, before, self.step)
            if self._examines:
                self._learner.examine(is_logged)
            with LEARNING:
                metrics = self._learner.learn(batch)
            with TRACKING:
                if watch is not None and not watch(self.step, metrics):
                    watch = None
                self._note(metrics)
                if is_logged:
                    now = time.perf_counter()
                    speed = (self.step - clock_step) / (now - clock)
                    self._log({"time/steps_per_second": speed})
                    if (accelerator := accelerate.current()) is not None:
                        accelerator.poll((self._steps - self.step) / speed)
                    clock, clock_step = now, self.step

    def state_dict(self) -> StateDict:
        evaluator = self._evaluator.state_dict()
        return {
            **({_EVALUATOR: evaluator} if evaluator else {}),
            "learner": self._learner.state_dict(),
            "source": self._source.state_dict(),
            "trackers": self._trackers.state_dict(),
            "loop": {
                "evaluated_at": self._evaluated_at,
                "episodes": [[episode.return_, episode.length] for episode in self._episodes],
                "sums": {_escaped(name): value for name, value in self._sums.items()},
                "counts": {_escaped(name): count for name, count in self._counts.items()},
            },
        }

    def load_state_dict(self, state: StateDict) -> None:
        remembers = bool(self._evaluator.state_dict())
        expect_keys("trainer", state, _PARTS | ({_EVALUATOR} if remembers else set()))
        expect_keys("loop", state["loop"], {"evaluated_at", "episodes", "sums", "counts"})
        if remembers:
            self._evaluator.load_state_dict(state[_EVALUATOR])
        self._learner.load_state_dict(state["learner"])
        self._source.load_state_dict(state["source"])
        self._trackers.load_state_dict(state["trackers"])
        loop = state["loop"]
        self._evaluated_at, self.saved_step = loop["evaluated_at"], self.step
        self._episodes = [Episode(return_, length) for return_, length in loop["episodes"]]
        self._sums = {_plain(name): value for name, value in loop["sums"].items()}
        self._counts = {_plain(name): count for name, count in loop["counts"].items()}

    def _checkpoint(self) -> None:
        with CHECKPOINTS:
            self._save(self.step, self.state_dict())
        self.saved_step = self.step

    def _evaluate_if_due(self, stop: StopRequest) -> None:
        at_end = self._is_at_end and self._evaluated_at < self.step
        if stop() or not (crossed(self._periods.evaluation, self._evaluated_at, self.step) or at_end):
            return
        try:
            with stop.abandonable(), EVALUATION:
                evaluation = self._evaluator(self.step, stop)
        except (Interrupted, Abandoned):
            return  # not done, so due again after a resume
        self._evaluated_at = self.step
        self.evaluation = evaluation
        with TRACKING:
            self._trackers.log_evaluation({"step": self.step, **evaluation.record()})
            self._trackers.log(evaluation.metrics(), self.step)
            self._progress.line(f"step {self.step:,}: {evaluation}")

    def _note(self, metrics: Mapping[str, Tensor]) -> None:
        """Add to what the next log says."""
        for name, value in metrics.items():
            self._sums[name] = value + self._sums.get(name, 0.0)
            self._counts[name] = self._counts.get(name, 0) + 1
        episodes = self._source.finished()
        self._episodes += episodes
        self._progress.update(self.step, episodes[-1].return_ if episodes else None)

    def _log(self, times: Mapping[str, float]) -> None:
        metrics = {f"train/{name}": value.item() / self._counts[name] for name, value in self._sums.items()}
        if self._episodes:
            metrics["episode/return"] = sum(e.return_ for e in self._episodes) / len(self._episodes)
            metrics["episode/length"] = sum(e.length for e in self._episodes) / len(self._episodes)
            metrics["episode/count"] = len(self._episodes)
        self._trackers.log({**metrics, **times}, self.step)
        self._episodes, self._sums, self._counts = [], {}, {}


def _escaped(name: str) -> str:
    """A metric's name as a key of a state, which may hold no slash (as in JSON pointers, RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def _plain(key: str) -> str:
    return key.replace("~1", "/").replace("~0", "~")
