"""train, resume, load and evaluate: what a user calls."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..configs import load as load_tree
from ..configs import override, presets, validate
from ..engine import Agent, load_weights
from ..envs import FRESH
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..training import checkpoint
from ..training.evaluate import Evaluation
from ..training.evaluate import evaluate as play
from ..training.lock import RunLock
from ..training.trackers import METRICS
from .build import Objects, build_agent, build_envs, numerics, threads_for
from .config import RunConfig
from .session import CHECKPOINTS, CONFIG, Run, Session, fitting


@dataclass(frozen=True)
class FreshEvaluation(Evaluation):
    """An evaluation on episodes that the run never saw."""

    seed: int  # that the episodes follow from
    step: int  # environment steps of the checkpoint

    def record(self) -> dict[str, float | int | list[float] | list[int]]:
        return {**super().record(), "seed": self.seed, "step": self.step}


def train(
    config: str | Path | RunConfig,
    *overrides: str,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Train from the beginning, everything saved under a new run directory.

    config: a preset's name, a YAML file, or a RunConfig; overrides: "agent.discount=0.995" and the like. `env` makes
    one gymnasium environment, `wrapper` wraps one; `encoder` or `network` is trained on from the weights it has. A run
    with such objects needs them again to be resumed or loaded. SIGINT and SIGTERM end it after the current update,
    saved.

    Raises ValueError in one line, before anything is written, for whatever is wrong.
    """
    objects = Objects(env, wrapper, encoder, network)
    resolved, directory = _resolve(config, overrides, seed, run_dir, objects)
    _refuse_used(directory)
    with Session(resolved, objects, quiet=quiet) as session:
        directory.mkdir(parents=True, exist_ok=True)
        with RunLock(directory):
            _refuse_used(directory)  # again, now that nobody else can begin in it
            return session.run(directory, None)


def resume(
    run_dir: str | Path,
    *overrides: str,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
    quiet: bool = False,
) -> Run:
    """Continue from the newest good checkpoint, bit for bit as if the run had never stopped.

    overrides: "steps=200000" trains longer. A damaged checkpoint is passed over, named, and kept. A run that has
    reached its end is left as it is.
    """
    objects = Objects(env, wrapper, encoder, network)
    directory, config = _recorded(run_dir, overrides, objects)
    _refuse_another_run(_recorded(run_dir, (), objects)[1], config)
    config = config.model_copy(update={"objects": objects.names})
    with RunLock(directory):
        try:
            loaded = checkpoint.load_newest(directory / CHECKPOINTS)
        except checkpoint.NoCheckpointError as error:
            metrics = directory / METRICS
            if metrics.is_file() and metrics.stat().st_size:
                raise checkpoint.NoCheckpointError(f"{error}, but {metrics} has rows: put one back") from error
            loaded = None  # killed before its first checkpoint: it begins again
        with Session(config, objects, quiet=quiet) as session:
            return session.run(directory, loaded)


def load(
    run_dir: str | Path,
    *,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Agent:
    """The agent of a run with the weights of its newest good checkpoint; its replay is empty."""
    objects = Objects(env, wrapper, encoder, network)
    return _load(run_dir, objects)[1]


def load_encoder(
    run_dir: str | Path,
    *,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Encoder:
    """The trained encoder of a run, in eval mode: observation [T, B, *obs] -> features [T, B, F]."""
    trained: Encoder = load(run_dir, env=env, wrapper=wrapper, encoder=encoder, network=network).network.encoder
    return trained


def evaluate(
    run_dir: str | Path,
    *,
    episodes: int = 100,
    seed: int | None = None,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> FreshEvaluation:
    """Greedy returns of the newest good checkpoint on fresh episodes.

    None of the episodes was seen in training or in its evaluations. seed: None takes the run's; the same seed gives the
    same episodes.
    """
    if episodes < 1:
        raise ValueError(f"episodes={episodes}: must be at least 1")
    if seed is not None and seed < 0:
        raise ValueError(f"seed={seed}: must be at least 0")
    objects = Objects(env, wrapper, encoder, network)
    config, agent, step = _load(run_dir, objects)
    config = config if seed is None else config.model_copy(update={"seed": seed})
    num_envs = min(config.evaluation.num_envs, episodes)
    envs = build_envs(config, objects, num_envs=num_envs, stream=FRESH, autoreset=False, asynchronous=False)
    try:
        with numerics(threads_for(config, agent.network)):
            played = play(agent, envs, episodes)
            return FreshEvaluation(played.returns, played.lengths, config.seed, step)
    finally:
        envs.close()


def _load(run_dir: str | Path, objects: Objects) -> tuple[RunConfig, Agent, int]:
    """Config, agent and step of the newest good checkpoint."""
    directory, config = _recorded(run_dir, (), objects)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        config = config.model_copy(update={"device": "cpu"})  # trained on another machine; to act needs no GPU
    loaded = checkpoint.load_newest(directory / CHECKPOINTS)
    # For its spaces alone.
    envs = build_envs(config, objects, num_envs=1, stream=FRESH, autoreset=False, asynchronous=False)
    try:
        agent = build_agent(config, envs, objects)
    finally:
        envs.close()
    for problem in loaded.problems:
        warnings.warn(f"passed over: {problem}", stacklevel=3)
    with fitting(loaded):
        load_weights("network", agent.network, loaded.state["learner"]["network"])
    agent.step = loaded.step  # what schedules go by, if it is asked to explore
    return config, agent, loaded.step


def _resolve(
    source: str | Path | RunConfig,
    overrides: Sequence[str],
    seed: int | None,
    run_dir: str | Path | None,
    objects: Objects,
) -> tuple[RunConfig, Path]:
    """The config with every choice made, and the directory that it goes into."""
    overrides = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    if isinstance(source, RunConfig):
        label, name = "config", f"{source.agent.kind}-{source.env.id}"
        tree = override(source.model_dump(mode="json"), overrides)
    else:
        label = str(source)
        name = label if label in presets() else Path(source).stem
        tree = load_tree(source, overrides)
    config = validate(RunConfig, {**tree, "objects": list(objects.names)}, label)
    default = Path("runs") / f"{name.replace('/', '-')}-{config.seed}"
    directory = Path(run_dir or config.run_dir or default).expanduser()
    return config.model_copy(update={"run_dir": str(directory)}), directory


def _recorded(run_dir: str | Path, overrides: Sequence[str], objects: Objects) -> tuple[Path, RunConfig]:
    """An existing run's directory and config, with the overrides; ValueError if it is none or lacks objects."""
    directory = Path(run_dir).expanduser()
    if not (directory / CONFIG).is_file():
        raise ValueError(f"run directory {directory} {'has no ' + CONFIG if directory.is_dir() else 'does not exist'}")
    config = validate(RunConfig, load_tree(directory / CONFIG, overrides), str(directory / CONFIG))
    missing = [name for name in config.objects if name not in objects.names]
    if missing:
        raise ValueError(f"{directory} was built with its own {', '.join(missing)}: pass {missing[0]}=... again")
    return directory, config


def _refuse_another_run(recorded: RunConfig, wanted: RunConfig) -> None:
    """Raise ValueError for an override under which the files would tell of a run that never was."""
    for name in ("seed", "run_dir", "objects"):
        if getattr(wanted, name) != getattr(recorded, name):
            raise ValueError(f"{name}={getattr(wanted, name)}: a run keeps its {name}, {getattr(recorded, name)}")


_BEFORE_CONFIG = {".lock", ".lock_held", f".{CONFIG}.tmp"}  # what a run killed before it wrote its config leaves


def _refuse_used(directory: Path) -> None:
    """Raise ValueError unless a run may begin in `directory`."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"run_dir={directory} exists and is no directory; name another")
    if directory.is_dir() and not {path.name for path in directory.iterdir()} <= _BEFORE_CONFIG:
        raise ValueError(f"run_dir={directory} exists; `graftwork resume {directory}` continues it, or name another")
