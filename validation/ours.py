"""Our side of a comparison: an ordinary run, whose training time is taken without its evaluations."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pydantic import PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from ..engine import StateDict
from ..runs import RunConfig, evaluate
from ..runs.parts import Objects
from ..runs.session import CHECKPOINTS, Run, Session
from ..training import checkpoint
from ..training.durable import write_text
from ..training.evaluate import Evaluation
from ..training.lock import RunLock
from ..training.trackers import EVALUATIONS, read
from ..training.trainer import Evaluator, Verdict
from .job import Job, Trained, peak_megabytes

_RUN, _TIMES = "run", "times.json"


class Signalled(Exception):
    """The run was stopped by a signal, saved."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def train(job: Job, directory: Path) -> Trained:
    """The run of `job` in `directory`/run, gone on with if it is there; raises Signalled if it was stopped."""
    times = _read_times(directory / _TIMES)
    run, steps, seconds = _trained(job.config, directory / _RUN)
    if steps == 0 and not times:  # it had ended, but who took its time was killed: it is trained again
        shutil.rmtree(directory / _RUN)
        run, steps, seconds = _trained(job.config, directory / _RUN)
    if steps:
        times.append((steps, seconds))
        write_text(directory / _TIMES, json.dumps(times))
    if run.signal is not None:
        raise Signalled(run.signal)
    peak = peak_megabytes()
    fresh = evaluate(run.run_dir, episodes=job.episodes)
    assert isinstance(fresh, Evaluation)
    curve = [(int(str(row["step"])), float(str(row["mean"]))) for row in read(run.run_dir / EVALUATIONS)]
    # What a kill undid was done twice, so the speed is what was measured, and the time follows from it.
    speed = sum(steps for steps, _ in times) / sum(seconds for _, seconds in times)
    return Trained(
        steps=run.step,
        curve=tuple(curve),
        final=fresh.mean,
        seconds=run.step / speed,
        steps_per_second=speed,
        peak_megabytes=peak,
    )


def _trained(config: RunConfig, directory: Path) -> tuple[Run, int, float]:
    """The run as far as it came; steps taken and seconds spent by this process, evaluations left out."""
    directory.mkdir(parents=True, exist_ok=True)
    with RunLock(directory), _TimedSession(config) as session:
        try:
            loaded = checkpoint.load_newest(directory / CHECKPOINTS)
        except checkpoint.NoCheckpointError:
            loaded = None
        begun = time.perf_counter()
        run = session.run(directory, loaded)
        seconds = time.perf_counter() - begun - session.evaluating
    return run, run.step - (0 if loaded is None else loaded.step), seconds


class _TimedSession(Session):
    """A session that knows how long it has been evaluating."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config, Objects(), None, quiet=True)
        self._timed = _TimedEvaluator(self._parts.evaluator)
        self._parts = replace(self._parts, evaluator=self._timed)

    @property
    def evaluating(self) -> float:
        """Seconds so far."""
        return self._timed.seconds


class _TimedEvaluator:
    """An evaluator, and the seconds it took."""

    def __init__(self, inner: Evaluator[Verdict]) -> None:
        self._inner, self.seconds = inner, 0.0

    @property
    def is_over(self) -> bool:
        return self._inner.is_over

    def __call__(self, step: int, stop: Callable[[], bool]) -> Verdict:
        begun = time.perf_counter()
        try:
            return self._inner(step, stop)
        finally:
            self.seconds += time.perf_counter() - begun

    def state_dict(self) -> StateDict:
        return self._inner.state_dict()

    def load_state_dict(self, state: StateDict) -> None:
        self._inner.load_state_dict(state)


def _read_times(path: Path) -> list[tuple[int, float]]:
    """Steps and seconds of each process that trained it."""
    if not path.is_file():
        return []
    try:
        return TypeAdapter(list[tuple[PositiveInt, PositiveFloat]]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: is damaged; delete it, and that seed's time is taken again") from error
