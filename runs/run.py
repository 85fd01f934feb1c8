"""train, resume, load and evaluate: what a user calls."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..configs import Value, dump, override, presets, suggest, validate
from ..configs import load as load_tree
from ..configs.yaml_text import one_line
from ..engine import Agent, load_weights
from ..envs import FRESH
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..tasks import Data, Model, Schema, Scores, Supervised, as_dataset, score
from ..training import checkpoint
from ..training.evaluate import Evaluation
from ..training.evaluate import evaluate as play
from ..training.lock import RunLock
from ..training.seeding import Seeds
from ..training.trackers import METRICS
from .build import build_agent, build_envs, numerics, threads_for
from .build_task import check_form, chosen_model, parts_of, read_feeds
from .config import AnyRunConfig, RunConfig, TaskRunConfig, run_config
from .graft import with_encoder_of
from .parts import Objects
from .session import CHECKPOINTS, CONFIG, SCHEMA, Run, Session, fitting, write
from .stages import StagesConfig, naming


@dataclass(frozen=True)
class FreshEvaluation(Evaluation):
    """An evaluation on episodes that the run never saw."""

    seed: int  # that the episodes follow from
    step: int  # environment steps of the checkpoint

    def record(self) -> dict[str, float | int | list[float] | list[int]]:
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
) -> Run:
    """Train from the beginning, everything saved under a new run directory.

    config: a preset's name, a YAML file, or a config; overrides: "agent.discount=0.995" and the like. `env` makes
    one gymnasium environment, `wrapper` wraps one; `encoder` or `network` is trained on from the weights it has; `data`
    is what a task learns from: a Dataset, arrays (inputs, targets), or a torch data set of such pairs. A run with such
    objects needs them again to be resumed or loaded; data not to be loaded, but to be evaluated. SIGINT and SIGTERM end
    it after the current update, saved.

    Raises ValueError in one line, before anything is written, for whatever is wrong.
    """
    objects = Objects(env, wrapper, encoder, network, None if data is None else as_dataset(data))
    resolved, directory = _resolve(config, overrides, seed, run_dir, objects)
    _refuse_used(directory)
    if isinstance(resolved, StagesConfig):
        _check_stages(resolved, directory, str(config))
        directory.mkdir(parents=True, exist_ok=True)
        write(directory / CONFIG, dump(resolved))
        return _run_stages(resolved, directory, quiet=quiet)
    with Session(resolved, objects, _source(resolved, objects), quiet=quiet) as session:
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
    data: Data | None = None,
    quiet: bool = False,
) -> Run:
    """Continue from the newest good checkpoint, bit for bit as if the run had never stopped.

    overrides: "steps=200000", or "epochs=60", trains longer. A damaged checkpoint is passed over, named, and kept. A
    run that has reached its end is left as it is.
    """
    objects = Objects(env, wrapper, encoder, network, None if data is None else as_dataset(data))
    if (stages := _recorded_stages(run_dir)) is not None:
        if overrides or objects.names:
            raise ValueError(f"{run_dir} has stages: resume one of them, such as {run_dir}/{next(iter(stages.stages))}")
        return _run_stages(stages, Path(run_dir).expanduser(), quiet=quiet)
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
        source = _source(config, objects) if loaded is None else None
        with Session(config, objects, source, quiet=quiet) as session:
            return session.run(directory, loaded)


def load(
    run_dir: str | Path,
    *,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Agent | Model:
    """The agent of a run with the weights of its newest good checkpoint, its replay empty; or the model of a task.

    A model that was stopped early has the weights of the lowest validation loss; it needs no data to be loaded.
    """
    objects = Objects(env, wrapper, encoder, network)
    return _load(run_dir, objects, learns=False)[1]


def load_encoder(
    run_dir: str | Path,
    *,
    env: Callable[[], AnyEnv] | None = None,
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None,
    encoder: Encoder | None = None,
    network: Network[Any] | None = None,
) -> Encoder:
    """The trained encoder of a run, in eval mode: observation [T, B, *obs] -> features [T, B, F].

    Of a task's run it includes what takes the units off its inputs; of an ensemble's it is the first member's.
    """
    trained: Encoder = load(run_dir, env=env, wrapper=wrapper, encoder=encoder, network=network).network.encoder
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
    same episodes. A task has no use for `episodes` and `seed`.
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
    config = config if seed is None else config.model_copy(update={"seed": seed})
    num_envs = min(config.evaluation.num_envs, episodes)
    envs = build_envs(config, objects, num_envs=num_envs, stream=FRESH, autoreset=False, asynchronous=False)
    try:
        with numerics(threads_for(config, agent.network)):
            played = play(agent, envs, episodes)
            return FreshEvaluation(played.returns, played.lengths, config.seed, step)
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
    """Config, agent or model, and step of the newest good checkpoint. learns: as of _recorded."""
    directory, config = _recorded(run_dir, (), objects, learns=learns)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        config = config.model_copy(update={"device": "cpu"})  # trained on another machine; to act needs no GPU
    loaded = checkpoint.load_newest(directory / CHECKPOINTS)
    for problem in loaded.problems:
        warnings.warn(f"passed over: {problem}", stacklevel=3)
    if isinstance(config, TaskRunConfig):
        schema = _schema(directory / SCHEMA)
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


def _schema(path: Path) -> Schema:
    try:
        return Schema.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; it says what the model takes and tells") from error
    except ValueError as error:
        raise ValueError(f"{path}: tells no longer what the model takes and tells; the file was altered") from error


def _source(config: AnyRunConfig, objects: Objects) -> Encoder | None:
    """The encoder that the config grafts, if any."""
    if config.graft.run is None or objects.encoder is not None:
        return None
    try:
        return load_encoder(config.graft.run)
    except ValueError as error:
        raise ValueError(f"graft.run={config.graft.run}: {error}") from error


def _grafted(config: AnyRunConfig, objects: Objects) -> AnyRunConfig:
    """The config with the encoder of the run that it grafts, if any."""
    run = config.graft.run
    if run is None:
        return config
    if objects.encoder is not None or objects.network is not None:
        raise ValueError(f"graft.run={run}: an encoder was given in Python too; choose one of them")
    try:
        directory, source = _read(run, ())
        schema = _schema(directory / SCHEMA) if isinstance(source, TaskRunConfig) else None
    except ValueError as error:
        raise ValueError(f"graft.run={run}: {error}") from error
    if own := [name for name in source.objects if name != "data"]:
        raise ValueError(
            f"graft.run={run}: was built with its own {', '.join(own)}; in Python, in place of graft.run, give "
            f"encoder=load_encoder({run!r}, {', '.join(f'{name}=...' for name in own)})"
        )
    return with_encoder_of(config, source, schema)


def _resolve(
    source: str | Path | AnyRunConfig,
    overrides: Sequence[str],
    seed: int | None,
    run_dir: str | Path | None,
    objects: Objects,
) -> tuple[AnyRunConfig | StagesConfig, Path]:
    """The config with every choice made, and the directory that it goes into."""
    overrides = [*overrides, *([] if seed is None else [f"seed={seed}"])]
    if isinstance(source, RunConfig | TaskRunConfig):
        label = "config"
        if isinstance(source, RunConfig):
            name = f"{source.agent.kind}-{source.env.id}"
        else:
            name = f"{source.task.kind}-{Path(source.data.name).stem.replace(':', '-')}"
        tree = override(source.model_dump(mode="json"), overrides)
    else:
        label = str(source)
        name = label if label in presets() else Path(source).stem
        tree = load_tree(source, overrides)
    if "stages" in tree:
        if objects.names:
            raise ValueError(f"{label} has stages, which take no {objects.names[0]} from Python")
        stages = validate(StagesConfig, tree, label)
        _refuse_new_stages(stages, label, overrides)
        directory = _directory(run_dir or stages.run_dir, name, stages.seed)
        return stages.model_copy(update={"run_dir": str(directory)}), directory
    config = run_config({**tree, "objects": list(objects.names)}, label)
    _refuse_wrong_objects(config, objects)
    config = _grafted(config, objects)
    directory = _directory(run_dir or config.run_dir, name, config.seed)
    return config.model_copy(update={"run_dir": str(directory)}), directory


def _directory(given: str | Path | None, name: str, seed: int) -> Path:
    return Path(given or Path("runs") / f"{name.replace('/', '-')}-{seed}").expanduser()


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
                resolved = _grafted(stage, Objects())
                encoder = _source(resolved, Objects())
            with Session(resolved, Objects(), encoder, quiet=True) as session:
                built[str(directory / name)] = (resolved, session.schema, session.encoder)


def _run_stages(config: StagesConfig, directory: Path, *, quiet: bool) -> Run:
    """Every stage to its end, or up to a signal; those that are done already are left as they are."""
    runs: dict[str, Run] = {}
    for name, stage in config.resolved(directory, str(directory / CONFIG)).items():
        own = directory / name
        runs[name] = resume(own, quiet=quiet) if (own / CONFIG).is_file() else train(stage, run_dir=own, quiet=quiet)
        if runs[name].signal is not None or runs[name].late_signal is not None:
            break
    last = runs[name]
    # What comes too late for a stage still stops those after it.
    signal = last.signal if len(runs) == len(config.stages) else last.signal or last.late_signal
    return Run(last.config, directory, last.learner, last.step, last.evaluation, signal, stages=runs)


def _refuse_new_stages(config: StagesConfig, label: str, overrides: Sequence[str]) -> None:
    """Raise ValueError for an override of a stage that the preset has not, which would make one."""
    known = load_tree(label).get("stages")
    for name in config.stages:
        if isinstance(known, dict) and name not in known:
            wrong = next((each for each in overrides if each.startswith(f"stages.{name}")), f"stages.{name}")
            hint = suggest(name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"{wrong}: {label} has no stage {name}{hint}")


def _recorded_stages(run_dir: str | Path) -> StagesConfig | None:
    """The config of a run that has stages; None for any other."""
    path = Path(run_dir).expanduser() / CONFIG
    tree = load_tree(path) if path.is_file() else {}
    return validate(StagesConfig, tree, str(path)) if "stages" in tree else None


def _refuse_wrong_objects(config: AnyRunConfig, objects: Objects) -> None:
    """Raise ValueError for an object that such a run has no use for."""
    useless = {"data"} if isinstance(config, RunConfig) else {"env", "wrapper", "network"}
    for name in objects.names:
        if name in useless:
            kind = "an agent's run" if isinstance(config, RunConfig) else "a task"
            raise ValueError(f"{name}: was given in Python, but {kind} has no use for it")


def _recorded(
    run_dir: str | Path, overrides: Sequence[str], objects: Objects, *, learns: bool = True
) -> tuple[Path, AnyRunConfig]:
    """An existing run's directory and config, with the overrides; ValueError if it is none or lacks objects.

    learns: it needs its data again, if they were given.
    """
    directory, config = _read(run_dir, overrides)
    _refuse_wrong_objects(config, objects)
    missing = [name for name in config.objects if name not in objects.names and (learns or name != "data")]
    if missing:
        raise ValueError(f"{directory} was built with its own {', '.join(missing)}: pass {missing[0]}=... again")
    return directory, config


def _read(run_dir: str | Path, overrides: Sequence[str]) -> tuple[Path, AnyRunConfig]:
    """An existing run's directory and config, with the overrides; ValueError if it is none."""
    directory = Path(run_dir).expanduser()
    if not (directory / CONFIG).is_file():
        raise ValueError(f"run directory {directory} {'has no ' + CONFIG if directory.is_dir() else 'does not exist'}")
    if (stages := _recorded_stages(directory)) is not None:
        names = ", ".join(str(directory / name) for name in stages.stages)
        raise ValueError(f"{directory} has stages, each a run of its own: {names}")
    return directory, run_config(load_tree(directory / CONFIG, overrides), str(directory / CONFIG))


_KEPT = ("seed", "run_dir", "objects", "graft.run", "task.optimizer", "evaluation.patience")
_KEPT_OF_DATA = ("samples", "classes", "per_class", "validation", "test", "split_seed")  # else parts would mix


def _refuse_another_run(recorded: AnyRunConfig, wanted: AnyRunConfig) -> None:
    """Raise ValueError for an override under which the files would tell of a run that never was."""
    for name in (*_KEPT, *(f"data.{field}" for field in _KEPT_OF_DATA)):
        before, after = _field(recorded, name), _field(wanted, name)
        # More patience is a longer run; some where there was none, or none any more, is another.
        is_other = (before is None) != (after is None) if name == "evaluation.patience" else before != after
        if is_other:
            raise ValueError(f"{name}={one_line(after)}: a run keeps its {name}, {one_line(before)}")


def _field(config: AnyRunConfig, name: str) -> Value:
    """The value of a dotted field; None if such a run has none."""
    value: Value = config.model_dump(mode="json")
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# What a run leaves that was killed before it wrote its config.
_BEFORE_CONFIG = {".lock", ".lock_held", f".{CONFIG}.tmp", SCHEMA, f".{SCHEMA}.tmp"}


def _refuse_used(directory: Path) -> None:
    """Raise ValueError unless a run may begin in `directory`."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"run_dir={directory} exists and is no directory; name another")
    if directory.is_dir() and not {path.name for path in directory.iterdir()} <= _BEFORE_CONFIG:
        raise ValueError(f"run_dir={directory} exists; `graftwork resume {directory}` continues it, or name another")
