"""One process's share of a run: its parts, put together, and run to an end."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from ..configs import dump
from ..engine import Agent, NonFiniteError, PriorityError, StateDict
from ..engine.accelerate import Accelerator, accelerated, cache_directory
from ..engine.phases import Stopwatch
from ..envs import EnvironmentFailure, NonFiniteEnvError
from ..networks import Encoder
from ..tasks import Model, Schema
from ..training import checkpoint
from ..training.durable import write_text
from ..training.interrupt import StopRequest
from ..training.profile import Profile
from ..training.progress import Progress
from ..training.trackers import JsonlTracker, TensorboardTracker, Tracker, Trackers
from ..training.trainer import Trainer, Verdict
from ..training.wandb_tracker import WandbTracker
from .build import build_run, device_of, numerics, threads_for
from .build_task import build_task
from .config import AnyRunConfig, RunConfig
from .machine import machine_of
from .parts import Objects, Parts
from .receipt import RECEIPT, Recorder, recorder

CONFIG, SCHEMA, CHECKPOINTS, FAILURE = "config.yaml", "schema.json", "checkpoints", "failure"
PROFILE = "profile"


@dataclass(frozen=True)
class Run:
    """A run that ended, or was stopped by a signal."""

    config: AnyRunConfig
    run_dir: Path
    learner: Agent | Model  # what it is all for
    step: int  # environment steps, or samples, of the newest checkpoint
    evaluation: Verdict | None  # the last of this process
    signal: int | None  # that stopped it before its end
    late_signal: int | None = None  # that came after its end, and stopped nothing
    stages: Mapping[str, "Run"] = field(default_factory=dict)  # by name, of a run that has some
    stopped_early: bool = False  # by the validation loss, before all of its epochs

    @property
    def agent(self) -> Agent:
        """What was trained; TypeError if it is no agent but a model."""
        if isinstance(self.learner, Model):
            raise TypeError(f"{self.run_dir} trained a model on labelled data: use run.model")
        return self.learner

    @property
    def model(self) -> Model:
        """What was trained; TypeError if it is no model but an agent."""
        if not isinstance(self.learner, Model):
            raise TypeError(f"{self.run_dir} trained an agent: use run.agent")
        return self.learner


class Session:
    """Everything a run needs, built without writing anything; leaving it ends the environments."""

    def __init__(
        self,
        config: AnyRunConfig,
        objects: Objects,
        source: Encoder | None,
        *,
        quiet: bool,
        profile: bool = False,
    ) -> None:
        """source: of weights to begin with, where the config grafts one; None where a checkpoint has them.

        profile: write a Profile in the end.
        """
        if config.tracker == "tensorboard" and find_spec("tensorboard") is None:
            # The tracker says so too, but only once there is a run directory.
            raise ValueError(f"tracker={config.tracker}: not installed; pip install 'graftwork[tensorboard]'")
        self._config, self._quiet, self._profiles = config, quiet, profile
        self._device = device_of(config)
        self._parts = build(config, objects, source)
        self._threads = threads_for(config, self._parts.learner.network)

    @property
    def encoder(self) -> Encoder:
        """That learns, or of an ensemble the first."""
        encoder = self._parts.learner.network.encoder
        assert isinstance(encoder, Encoder)
        return encoder

    @property
    def schema(self) -> Schema | None:
        """Of a task."""
        return self._parts.schema

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._parts.close()

    def run(self, directory: Path, loaded: checkpoint.Loaded | None) -> Run:
        """Train in `directory`, from `loaded` or from the beginning, to the end or a signal.

        Changes no file if `loaded` is already the end.
        """
        config, parts, start = self._config, self._parts, 0 if loaded is None else loaded.step
        meta: dict[str, checkpoint.Scalar] = {
            "torch": str(torch.__version__),
            "threads": self._threads,
            "device": str(self._device),
        }
        with (
            numerics(self._threads),
            StopRequest() as stop,
            Progress(parts.steps, initial_step=start, quiet=self._quiet) as progress,
        ):
            for line in self._opening(directory, loaded, meta):
                progress.line(line)
            if loaded is None:
                self._write(directory)  # first of all: from here on a killed run can be resumed
            elif Trainer.would_be_finished(self._as_of_now(loaded), loaded.step, parts.steps):
                return self._ended(directory, loaded, progress)
            listeners = self._listeners(directory, loaded, progress)
            trackers = Trackers(JsonlTracker(directory), listeners, warn=progress.line)

            receipt: Recorder | None = None

            def save(step: int, state: StateDict) -> None:
                if receipt is not None:
                    receipt.save(step)
                checkpoint.save(directory / CHECKPOINTS, step, state, config.checkpoint.keep, meta)

            trainer: Trainer[Any, Any] = Trainer(
                parts.source,
                parts.learner,
                trackers,
                progress,
                steps=parts.steps,
                periods=parts.periods,
                evaluator=parts.evaluator,
                save=save,
                examines=config.log.layers,
            )
            stopwatch = self._profile(trainer, start) if self._profiles else Stopwatch()
            accelerator = Accelerator(cache_directory(), progress.line) if config.accelerate else None
            exit_code = 1
            try:
                if loaded is not None:
                    with fitting(loaded):
                        trainer.load_state_dict(loaded.state)
                    loaded.release()
                machine = machine_of(config, self._device, self._threads)
                path, resumed_from = directory / RECEIPT, None if loaded is None else loaded.step
                receipt = recorder(path, parts.learner, config, machine, resumed_from, progress.line)
                if loaded is not None:
                    self._write(directory)  # not before: one that does not fit must not replace one that does
                with accelerated(accelerator), stopwatch:
                    trainer.run(stop, None if receipt is None else receipt.note)
                # A signal that comes during the last save has stopped nothing.
                signal, late_signal = (None, stop.signal) if trainer.is_finished else (stop.signal, None)
                exit_code = 0 if signal is None else 128 + signal
                times, speed = stopwatch.times, (trainer.step - start) / stopwatch.times.total
                trackers.log({"time/run/steps_per_second": speed, **times.record("time/run")}, trainer.step)
                progress.line(f"time: {times} of {times.total:.1f} s; {speed:,.0f} steps/s")
                if isinstance(stopwatch, Profile):
                    progress.line(f"profile: {', '.join(map(str, stopwatch.write(directory / PROFILE)))}")
            except (NonFiniteError, NonFiniteEnvError, PriorityError, EnvironmentFailure) as error:
                # The batch is half done, so this is no state to resume from: the weights alone, beside the checkpoints.
                state = {"learner": {"network": parts.learner.network.state_dict()}}
                path = checkpoint.save(directory / FAILURE, trainer.step, state, keep=1, meta=meta)
                where = f"step {trainer.step:,}"
                if isinstance(error, NonFiniteError) and error.group is not None:
                    where += f", seed {config.seed + error.group}"
                raise type(error)(f"{where}: {error} (last finite weights: {path})") from error
            finally:
                trackers.close(exit_code)
        state = {"learner": parts.learner.state_dict(), "evaluator": parts.evaluator.state_dict()}
        result = parts.result(state)
        is_early = trainer.is_finished and trainer.step < parts.steps
        return Run(
            config,
            directory,
            result,
            trainer.saved_step,
            trainer.evaluation,
            signal,
            late_signal,
            stopped_early=is_early,
        )

    def _profile(self, trainer: Trainer[Any, Any], start: int) -> Profile:
        """Of what a trainer does from the step `start` on."""
        learner, steps = self._parts.learner, self._parts.steps
        return Profile(
            lambda: (learner.num_updates, (trainer.step - start) / max(steps - start, 1)), device=self._device
        )

    def _ended(self, directory: Path, loaded: checkpoint.Loaded, progress: Progress) -> Run:
        """The run as it was left, at its end."""
        config, parts, is_early = self._config, self._parts, loaded.step < self._parts.steps
        with fitting(loaded):
            parts.learner.load_state_dict(loaded.state["learner"])
        longer = "steps" if isinstance(config, RunConfig) else "epochs"
        reason = f"all {parts.steps:,} steps are done; a larger {longer}=... goes on"
        if is_early:
            reason = f"it stopped early, at step {loaded.step:,} of {parts.steps:,}; "
            reason += "a larger evaluation.patience=... goes on"
        progress.line(f"nothing left to do: {reason}")
        return Run(config, directory, parts.result(loaded.state), loaded.step, None, None, stopped_early=is_early)

    def _as_of_now(self, loaded: checkpoint.Loaded) -> StateDict:
        """The state, over only if it is by the patience that the config has now."""
        if "evaluator" not in loaded.state:
            return loaded.state
        with fitting(loaded):
            self._parts.evaluator.load_state_dict(loaded.state["evaluator"])
        return {**loaded.state, "evaluator": {"is_over": self._parts.evaluator.is_over}}

    def _write(self, directory: Path) -> None:
        """What loads the run again: its config, and for a task what its model takes and tells."""
        if self._parts.schema is not None:
            write_text(directory / SCHEMA, self._parts.schema.model_dump_json(indent=1) + "\n")
        write_text(directory / CONFIG, dump(self._config))

    def _opening(
        self, directory: Path, loaded: checkpoint.Loaded | None, meta: Mapping[str, checkpoint.Scalar]
    ) -> Iterator[str]:
        """What a user should know before it starts."""
        config = self._config
        yield f"{directory}: {self._parts.title}"
        reason = "" if config.threads is not None else ", chosen by the network's size (set threads to change)"
        yield f"device {self._device}, {self._threads} thread{'s' if self._threads > 1 else ''}{reason}"
        yield from self._parts.notes
        if config.graft.run is not None and loaded is None:
            yield f"begins with the encoder of {config.graft.run}"
        if config.objects:
            yield f"built with {', '.join(config.objects)} given in Python: the config alone cannot rebuild this run"
        if loaded is not None:
            yield from (f"passed over: {problem}" for problem in loaded.problems)
            yield f"resuming {loaded.path} at step {loaded.step:,}"
            for key, value in meta.items():
                if loaded.meta.get(key) != value:
                    yield f"{key} was {loaded.meta.get(key)}, is {value}: the run goes on, but not bit for bit"

    def _listeners(self, directory: Path, loaded: checkpoint.Loaded | None, progress: Progress) -> list[Tracker]:
        config = self._config
        if config.tracker == "tensorboard":
            return [TensorboardTracker(directory, resumed_from=None if loaded is None else loaded.step)]
        if config.tracker == "wandb":
            settings, plain = config.wandb, config.model_dump(mode="json")
            return [
                WandbTracker(
                    plain,
                    directory,
                    project=settings.project,
                    entity=settings.entity,
                    mode=settings.mode,
                    name=directory.name,
                    warn=progress.line,
                )
            ]
        return []


def build(config: AnyRunConfig, objects: Objects, source: Encoder | None) -> Parts:
    """The parts of a run; source: as of Session."""
    # On one thread: orthogonal weights, and a data set's units, come to other bits on more, and how many the process
    # has is not the run's affair.
    with numerics(1):
        if isinstance(config, RunConfig):
            return build_run(config, objects, source)
        return build_task(config, objects, source)


@contextmanager
def fitting(loaded: checkpoint.Loaded) -> Iterator[None]:
    """A state that does not fit what it is loaded into is the checkpoint's error, by name."""
    try:
        yield
    except ValueError as error:
        raise checkpoint.CheckpointError(f"checkpoint {loaded.path} does not fit this run: {error}") from error
