"""train, resume, load and evaluate: what a user calls."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..configs import dump
from ..engine import Agent, load_weights
from ..envs import FRESH
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..tasks import Data, Model, Schema, Scores, Supervised, as_dataset, score
from ..training import checkpoint
from ..training.durable import write_text
from ..training.evaluate import Evaluation
from ..training.evaluate import evaluate as play
from ..training.lock import RunLock
from ..training.seeding import Seeds
from ..training.trackers import METRICS
from .build import build_agent, build_envs, numerics, seeds_of, threads_for
from .build_task import check_form, chosen_model, parts_of, read_feeds
from .config import AnyRunConfig, RunConfig, TaskRunConfig
from .graft import with_encoder_of
from .parts import Objects
from .resolve import grafted, read_schema, recorded, recorded_stages, refuse_another_run, refuse_used, resolve
from .session import CHECKPOINTS, CONFIG, SCHEMA, Run, Session, fitting
from .stages import StagesConfig, naming


@dataclass(frozen=True, kw_only=True)
class FreshEvaluation(Evaluation):
    """An evaluation on episodes that the run never saw."""

    seed: int  # that the episodes follow from
    step: int  # environment steps of the checkpoint

    def record(self) -> dict[str, object]:
        return {**super().record(), "seed": self.seed, "step": self.step}


def train(
    config: str | Path | AnyRunConfig,
    *overrides: str,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    data: Data | None = None,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Train from the beginning, everything saved under a new run directory.

    config: a preset's name, a YAML file, or a config; overrides: "agent.discount=0.995" and the like. `env` makes
    one gymnasium environment, `wrapper` wraps one; `encoder` or `network` is trained on from the weights it has; `data`
    is what a task learns from: a Dataset, arrays (inputs, targets), or a torch data set of such pairs. A run with such
    objects needs them again to be resumed or loaded; data not to be loaded, but to be evaluated. SIGINT and SIGTERM end
    it after the current update, saved. profile: a trace of some batches, and a summary, go into the folder `profile`.

    Raises ValueError in one line, before anything is written, for whatever is wrong.
    """
    objects = Objects(env, wrapper, encoder, network, None if data is None else as_dataset(data))
    resolved, directory = resolve(config, overrides, seed, run_dir, objects)
    refuse_used(directory)
    if isinstance(resolved, StagesConfig):
        _check_stages(resolved, directory, str(config))
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / CONFIG, dump(resolved))
        return _run_stages(resolved, directory, quiet=quiet, profile=profile)
    with Session(resolved, objects, source_of(resolved, objects), quiet=quiet, profile=profile) as session:
        directory.mkdir(parents=True, exist_ok=True)
        with RunLock(directory):
            refuse_used(directory)  # again, now that nobody else can begin in it
            return session.run(directory, None)


def resume(
    run_dir: str | Path,
    *overrides: str,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    data: Data | None = None,
    quiet: bool = False,
    profile: bool = False,
) -> Run:
    """Continue from the newest good checkpoint, bit for bit as if the run had never stopped.

    overrides: "steps=200000", or "epochs=60", trains longer. A damaged checkpoint is passed over, named, and kept. A
    run that has reached its end is left as it is. profile: as of `train`.
    """
    objects = Objects(env, wrapper, encoder, network, None if data is None else as_dataset(data))
    if (stages := recorded_stages(run_dir)) is not None:
        if overrides or objects.names:
            raise ValueError(f"{run_dir} has stages: resume one of them, such as {run_dir}/{next(iter(stages.stages))}")
        return _run_stages(stages, Path(run_dir).expanduser(), quiet=quiet, profile=profile)
    directory, config = recorded(run_dir, overrides, objects)
    refuse_another_run(recorded(run_dir, (), objects)[1], config)
    config = config.model_copy(update={"objects": objects.names})
    with RunLock(directory):
        try:
            loaded = checkpoint.load_newest(directory / CHECKPOINTS)
        except checkpoint.NoCheckpointError as error:
            metrics = directory / METRICS
            if metrics.is_file() and metrics.stat().st_size:
                raise checkpoint.NoCheckpointError(f"{error}, but {metrics} has rows: put one back") from error
            loaded = None  # killed before its first checkpoint: it begins again
        source = source_of(config, objects) if loaded is None else None
        with Session(config, objects, source, quiet=quiet, profile=profile) as session:
            return session.run(directory, loaded)


def load(
    run_dir: str | Path,
    *,
    seed: int | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Agent | Model:
    """The agent of a run with the weights of its newest good checkpoint, its replay empty; or the model of a task.

    seed: whose, needed of a run that trained many seeds at once. A model that was stopped early has the weights of the
    lowest validation loss; it needs no data to be loaded.
    """
    objects = Objects(env, wrapper, encoder, network)
    config, loaded, step = _load(run_dir, objects, learns=False)
    seeds = config.all_seeds if isinstance(config, RunConfig) else range(config.seed, config.seed + 1)
    trained = f"{run_dir} trained {config.seed_text}"
    if len(seeds) > 1 and seed is None:
        raise ValueError(f"{trained} at once: load one of them, seed={seeds[0]}")
    if seed is not None and seed not in seeds:
        raise ValueError(f"seed={seed}: {trained}")
    if isinstance(loaded, Model) or len(seeds) == 1:
        return loaded
    assert isinstance(config, RunConfig)
    assert seed is not None
    lone = config.model_copy(update={"seed": seed, "seeds": 1})
    envs = build_envs(lone, objects, num_envs=1, stream=FRESH, autoreset=False, asynchronous=False)
    agent = build_agent(lone, envs, Objects(network=loaded.network.unstacked(seed - config.seed)))
    agent.step = step
    return agent


def load_encoder(
    run_dir: str | Path,
    *,
    seed: int | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Encoder:
    """The trained encoder of a run, in eval mode: observation [T, B, *obs] -> features [T, B, F].

    Of a task's run it includes what takes the units off its inputs; of an ensemble's it is the first member's. seed: as
    of `load`.
    """
    trained: Encoder = load(
        run_dir, seed=seed, env=env, wrapper=wrapper, encoder=encoder, network=network
    ).network.encoder
    return trained.requires_grad_(True)


def evaluate(
    run_dir: str | Path,
    *,
    episodes: int = 100,
    seed: int | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    data: Data | None = None,
) -> FreshEvaluation | Scores:
    """Greedy returns of the newest good checkpoint on fresh episodes; of a task, its model's scores on the test part.

    None of the episodes was seen in training or in its evaluations. seed: None takes the run's; the same seed gives the
    same episodes. Of many seeds at once each agent plays so many, with None those of its own seed. A task has no use
    for `episodes` and `seed`; its `data` are divided as in training, and the test part of them is scored.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: must be at least 1")
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed}: must be at least 0")
    objects = Objects(env, wrapper, encoder, network, None if data is None else as_dataset(data))
    config, agent, step = _load(run_dir, objects, learns=True)
    if isinstance(config, TaskRunConfig) and isinstance(agent, Model):
        return _test(config, agent, objects, step)
    assert isinstance(config, RunConfig)
    assert not isinstance(agent, Model)
    num_envs = min(config.evaluation.num_envs, episodes)
    envs = build_envs(config, objects, num_envs=num_envs, stream=FRESH, autoreset=False, asynchronous=False, seed=seed)
    try:
        with numerics(threads_for(config, agent.network)):
            played = play(agent, envs, episodes, seeds=seeds_of(config))
            own = config.seed if seed is None else seed
            return FreshEvaluation(played.returns, played.lengths, played.seeds, seed=own, step=step)
    finally:
        envs.close()


def _test(config: TaskRunConfig, model: Model, objects: Objects, step: int) -> Scores:
    """Scores on the test part."""
    feeds, schema = read_feeds(config, objects.data)
    check_form(model.schema, schema)
    epoch = max(len(feed.splits.train) for feed in feeds)
    parts = parts_of(feeds, "test")
    learner = Supervised(model.network, config.task, [feed.heads for feed in feeds], epoch, Seeds(config.seed))
    with numerics(threads_for(config, model.network)):
        return score(learner, parts, "test", step / epoch)


def _load(run_dir: str | Path, objects: Objects, *, learns: bool) -> tuple[AnyRunConfig, Agent | Model, int]:
    """Config, agent or model, and step of the newest good checkpoint. learns: as of `recorded`."""
    directory, config = recorded(run_dir, (), objects, learns=learns)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        config = config.model_copy(update={"device": "cpu"})  # trained on another machine; to act needs no GPU
    # Of an agent only the network is wanted: what has been played, perhaps gigabytes of it, is not read.
    loaded = checkpoint.load_newest(directory / CHECKPOINTS, verify_histories=False)
    for problem in loaded.problems:
        warnings.warn(f"passed over: {problem}", stacklevel=3)
    if isinstance(config, TaskRunConfig):
        schema = read_schema(directory / SCHEMA)
        with fitting(loaded):
            return config, chosen_model(config, schema, objects, loaded.state), loaded.step
    # For its spaces alone.
    envs = build_envs(config, objects, num_envs=1, stream=FRESH, autoreset=False, asynchronous=False)
    try:
        agent = build_agent(config, envs, objects)
    finally:
        envs.close()
    with fitting(loaded):
        load_weights("network", agent.network, loaded.state["learner"]["network"])
    agent.step = loaded.step  # what schedules go by, if it is asked to explore
    return config, agent, loaded.step


def source_of(config: AnyRunConfig, objects: Objects) -> Encoder | None:
    """The encoder that the config grafts, if any."""
    if config.graft.run is None or objects.encoder is not None:
        return None
    try:
        return load_encoder(config.graft.run)
    except ValueError as error:
        raise ValueError(f"graft.run={config.graft.run}: {error}") from error


def _check_stages(config: StagesConfig, directory: Path, label: str) -> None:
    """Build every stage and let go of it, so that whatever is wrong with one is said before anything is written."""
    built: dict[str, tuple[AnyRunConfig, Schema | None, Encoder]] = {}  # by the directory that they will have
    encoder: Encoder | None
    for name, stage in config.resolved(directory, label).items():
        with naming(name):
            if stage.graft.run in built:
                source_config, schema, source = built[stage.graft.run]
                resolved, encoder = with_encoder_of(stage, source_config, schema), source
            else:
                resolved = grafted(stage, Objects())
                encoder = source_of(resolved, Objects())
            with Session(resolved, Objects(), encoder, quiet=True) as session:
                built[str(directory / name)] = (resolved, session.schema, session.encoder)


def _run_stages(config: StagesConfig, directory: Path, *, quiet: bool, profile: bool) -> Run:
    """Every stage to its end, or up to a signal; those that are done already are left as they are."""
    runs: dict[str, Run] = {}
    for name, stage in config.resolved(directory, str(directory / CONFIG)).items():
        own = directory / name
        if (own / CONFIG).is_file():
            runs[name] = resume(own, quiet=quiet, profile=profile)
        else:
            runs[name] = train(stage, run_dir=own, quiet=quiet, profile=profile)
        if runs[name].signal is not None or runs[name].late_signal is not None:
            break
    last = runs[name]
    # What comes too late for a stage still stops those after it.
    signal = last.signal if len(runs) == len(config.stages) else last.signal or last.late_signal
    return Run(last.config, directory, last.learner, last.step, last.evaluation, signal, stages=runs)
