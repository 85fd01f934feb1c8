"""One process's share of a run: its parts, put together, and run to an end."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ..configs import dump
from ..engine import Agent, Collector, NonFiniteError, StateDict
from ..envs import EVALUATION, TRAINING, EnvironmentFailure, NonFiniteEnvError
from ..training import checkpoint
from ..training.evaluate import Evaluation, evaluate
from ..training.interrupt import StopRequest
from ..training.progress import Progress
from ..training.trackers import JsonlTracker, TensorboardTracker, Tracker, Trackers
from ..training.trainer import Periods, Trainer
from ..training.wandb_tracker import WandbTracker
from .build import Objects, build_agent, build_envs, device_of, numerics, threads_for
from .config import RunConfig

CONFIG, CHECKPOINTS, FAILURE = "config.yaml", "checkpoints", "failure"


@dataclass(frozen=True)
class Run:
    """A run that ended, or was stopped by a signal."""

    config: RunConfig
    run_dir: Path
    agent: Agent
    step: int  # environment steps of the newest checkpoint
    evaluation: Evaluation | None  # the last of this process
    signal: int | None  # that stopped it before its end


class Session:
    """Everything a run needs, built without writing anything; leaving it ends the environments."""

    def __init__(self, config: RunConfig, objects: Objects, *, quiet: bool) -> None:
        if config.tracker == "tensorboard" and find_spec("tensorboard") is None:
            # The tracker says so too, but only once there is a run directory.
            raise ValueError(f"tracker={config.tracker}: not installed; pip install 'graftwork[tensorboard]'")
        self._config, self._quiet = config, quiet
        self._device = device_of(config)
        self._envs = build_envs(
            config,
            objects,
            num_envs=config.env.num_envs,
            stream=TRAINING,
            autoreset=config.agent.rollout_rows is not None,
            asynchronous=config.env.asynchronous,
        )
        try:
            self._agent = build_agent(config, self._envs, objects)
            episodes = config.evaluation.episodes
            num_envs = min(config.evaluation.num_envs, episodes)
            self._evaluation_envs = build_envs(
                config, objects, num_envs=num_envs, stream=EVALUATION, autoreset=False, asynchronous=False
            )
        except BaseException:
            self._envs.close()
            raise
        self._threads = threads_for(config, self._agent.network)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._envs.close()
        self._evaluation_envs.close()

    def run(self, directory: Path, loaded: checkpoint.Loaded | None) -> Run:
        """Train in `directory`, from `loaded` or from the beginning, to the end or a signal.

        Changes no file if `loaded` is already the end.
        """
        config, agent, start = self._config, self._agent, 0 if loaded is None else loaded.step
        meta: dict[str, checkpoint.Scalar] = {
            "torch": str(torch.__version__),
            "threads": self._threads,
            "device": str(self._device),
        }
        with (
            numerics(self._threads),
            StopRequest() as stop,
            Progress(config.steps, initial_step=start, quiet=self._quiet) as progress,
        ):
            for line in self._opening(directory, loaded, meta):
                progress.line(line)
            if loaded is None:
                write_config(directory, config)  # first of all: from here on a killed run can be resumed
            elif Trainer.would_be_finished(loaded.state, loaded.step, config.steps):
                with fitting(loaded):
                    agent.load_state_dict(loaded.state["learner"])
                progress.line(f"nothing left to do: all {config.steps:,} steps are done; a larger steps=... goes on")
                return Run(config, directory, agent, loaded.step, None, None)
            listeners = self._listeners(directory, loaded, progress)
            trackers = Trackers(JsonlTracker(directory), listeners, warn=progress.line)

            def save(step: int, state: StateDict) -> None:
                checkpoint.save(directory / CHECKPOINTS, step, state, config.checkpoint.keep, meta)

            trainer = Trainer(
                Collector(self._envs, agent, agent.rollout_rows),
                agent,
                trackers,
                progress,
                steps=config.steps,
                periods=Periods(config.log.period, config.evaluation.period, config.checkpoint.period),
                evaluate=lambda stop: evaluate(agent, self._evaluation_envs, config.evaluation.episodes, stop=stop),
                save=save,
            )
            exit_code = 1
            try:
                if loaded is not None:
                    with fitting(loaded):
                        trainer.load_state_dict(loaded.state)
                    write_config(directory, config)  # not before: one that does not fit must not replace one that does
                trainer.run(stop)
                # A signal that comes during the last save has stopped nothing.
                signal = None if trainer.is_finished else stop.signal
                exit_code = 0 if signal is None else 128 + signal
            except (NonFiniteError, NonFiniteEnvError, EnvironmentFailure) as error:
                # The batch is half done, so this is no state to resume from: the weights alone, beside the checkpoints.
                state = {"learner": {"network": agent.network.state_dict()}}
                path = checkpoint.save(directory / FAILURE, trainer.step, state, keep=1, meta=meta)
                raise type(error)(f"step {trainer.step:,}: {error} (last finite weights: {path})") from error
            finally:
                trackers.close(exit_code)
        return Run(config, directory, agent, trainer.saved_step, trainer.evaluation, signal)

    def _opening(
        self, directory: Path, loaded: checkpoint.Loaded | None, meta: Mapping[str, checkpoint.Scalar]
    ) -> Iterator[str]:
        """What a user should know before it starts."""
        config = self._config
        yield f"{directory}: {config.agent.kind} on {self._envs.spec.id}, seed {config.seed}, {config.steps:,} steps"
        reason = "" if config.threads is not None else ", chosen by the network's size (set threads to change)"
        yield f"device {self._device}, {self._threads} thread{'s' if self._threads > 1 else ''}{reason}"
        yield from self._agent.notes()
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


def write_config(directory: Path, config: RunConfig) -> None:
    """Whole or not at all."""
    temporary = directory / f".{CONFIG}.tmp"
    temporary.write_text(dump(config), encoding="utf-8")
    os.replace(temporary, directory / CONFIG)


@contextmanager
def fitting(loaded: checkpoint.Loaded) -> Iterator[None]:
    """A state that does not fit what it is loaded into is the checkpoint's error, by name."""
    try:
        yield
    except ValueError as error:
        raise checkpoint.CheckpointError(f"checkpoint {loaded.path} does not fit this run: {error}") from error
