"""What a user gives or a run directory says, as a config with every choice made; ValueError for what cannot be."""

import re
from collections.abc import Sequence
from pathlib import Path

from ..configs import Value, override, presets, suggest, validate
from ..configs import load as load_tree
from ..configs.yaml_text import one_line
from ..tasks import Schema
from .config import AnyRunConfig, RunConfig, TaskRunConfig, run_config
from .graft import with_encoder_of
from .parts import Objects
from .session import CONFIG, SCHEMA
from .stages import StagesConfig


def resolve(
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
    config = run_config(tree, label)
    _refuse_wrong_objects(config, objects)
    _refuse_missing_objects(config, objects, label)
    if config.graft.run is not None:
        _refuse_idle_encoder(overrides, config.graft.run)
    config = grafted(config.model_copy(update={"objects": objects.names}), objects)
    if isinstance(config, RunConfig) and config.seeds > 1:
        if objects.names:
            raise ValueError(f"seeds={config.seeds}: takes no {objects.names[0]} from Python; use seeds=1")
        name += f"-{config.seed}-to"
    last = config.all_seeds[-1] if isinstance(config, RunConfig) else config.seed
    directory = _directory(run_dir or config.run_dir, name, last)
    return config.model_copy(update={"run_dir": str(directory)}), directory


def recorded(
    run_dir: str | Path, overrides: Sequence[str], objects: Objects, *, learns: bool = True
) -> tuple[Path, AnyRunConfig]:
    """An existing run's directory and config, with the overrides; ValueError if it is none or lacks objects.

    learns: it needs its data again, if they were given.
    """
    directory, config = _read(run_dir, overrides)
    _refuse_wrong_objects(config, objects)
    _refuse_missing_objects(config, objects, str(directory), useless=() if learns else ("data",))
    return directory, config


def recorded_stages(run_dir: str | Path) -> StagesConfig | None:
    """The config of a run that has stages; None for any other."""
    path = Path(run_dir).expanduser() / CONFIG
    tree = load_tree(path) if path.is_file() else {}
    return validate(StagesConfig, tree, str(path)) if "stages" in tree else None


def grafted(config: AnyRunConfig, objects: Objects) -> AnyRunConfig:
    """The config with the encoder of the run that it grafts, if any."""
    run = config.graft.run
    if run is None:
        return config
    if objects.encoder is not None or objects.network is not None:
        raise ValueError(f"graft.run={run}: an encoder was given in Python too; choose one of them")
    try:
        directory, source = _read(run, ())
        schema = read_schema(directory / SCHEMA) if isinstance(source, TaskRunConfig) else None
    except ValueError as error:
        raise ValueError(f"graft.run={run}: {error}") from error
    if own := [name for name in source.objects if name != "data"]:
        raise ValueError(
            f"graft.run={run}: was built with its own {', '.join(own)}; in Python, in place of graft.run, give "
            f"encoder=load_encoder({run!r}, {', '.join(f'{name}=...' for name in own)})"
        )
    return with_encoder_of(config, source, schema)


def read_schema(path: Path) -> Schema:
    try:
        return Schema.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; it says what the model takes and tells") from error
    except ValueError as error:
        raise ValueError(f"{path}: tells no longer what the model takes and tells; the file was altered") from error


_KEPT = (
    *("seed", "seeds", "run_dir", "objects", "graft.run", "evaluation.patience"),
    *("env.id", "env.protocol", "env.backend"),  # results on two are not to be compared
    *("task.optimizer", "task.normalise", "task.initialisation"),
)
_KEPT_OF_DATA = ("name", "samples", "classes", "per_class", "validation", "test", "split_seed")  # else parts would mix


def refuse_another_run(recorded: AnyRunConfig, wanted: AnyRunConfig) -> None:
    """Raise ValueError for an override under which the files would tell of a run that never was."""
    for name in (*_KEPT, *(f"data.{field}" for field in _KEPT_OF_DATA)):
        before, after = _field(recorded, name), _field(wanted, name)
        if _is_other(name, before, after):
            raise ValueError(f"{name}={one_line(after)}: a run keeps its {name}, {one_line(before)}")


def _is_other(name: str, before: Value, after: Value) -> bool:
    """Whether a run with this field changed is another."""
    if name == "evaluation.patience":  # more is a longer run; some where there was none, or none any more, is another
        return (before is None) != (after is None)
    if name == "data.name" and str(before).endswith(".npz") and str(after).endswith(".npz"):
        return False  # a file may have been moved
    return before != after


def _field(config: AnyRunConfig, name: str) -> Value:
    """The value of a dotted field; None if such a run has none."""
    value: Value = config.model_dump(mode="json")
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


# What a run leaves that was killed before it wrote its config.
_BEFORE_CONFIG = {".lock", ".lock_held", f".{CONFIG}.tmp", SCHEMA, f".{SCHEMA}.tmp"}


def refuse_used(directory: Path) -> None:
    """Raise ValueError unless a run may begin in `directory`."""
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"run_dir={directory} exists and is no directory; name another")
    if directory.is_dir() and not {path.name for path in directory.iterdir()} <= _BEFORE_CONFIG:
        raise ValueError(f"run_dir={directory} exists; `graftwork resume {directory}` continues it, or name another")


def _directory(given: str | Path | None, name: str, seed: int) -> Path:
    return Path(given or Path("runs") / f"{name.replace('/', '-')}-{seed}").expanduser()


def _read(run_dir: str | Path, overrides: Sequence[str]) -> tuple[Path, AnyRunConfig]:
    """An existing run's directory and config, with the overrides; ValueError if it is none."""
    directory = Path(run_dir).expanduser()
    if not (directory / CONFIG).is_file():
        raise ValueError(f"run directory {directory} {'has no ' + CONFIG if directory.is_dir() else 'does not exist'}")
    if (stages := recorded_stages(directory)) is not None:
        names = ", ".join(str(directory / name) for name in stages.stages)
        raise ValueError(f"{directory} has stages, each a run of its own: {names}")
    return directory, run_config(load_tree(directory / CONFIG, overrides), str(directory / CONFIG))


def _refuse_new_stages(config: StagesConfig, label: str, overrides: Sequence[str]) -> None:
    """Raise ValueError for an override of a stage that the preset has not, which would make one."""
    known = load_tree(label).get("stages")
    for name in config.stages:
        if isinstance(known, dict) and name not in known:
            wrong = next((each for each in overrides if each.startswith(f"stages.{name}")), f"stages.{name}")
            hint = suggest(name, known) or f"; there are {', '.join(known)}"
            raise ValueError(f"{wrong}: {label} has no stage {name}{hint}")


def _refuse_wrong_objects(config: AnyRunConfig, objects: Objects) -> None:
    """Raise ValueError for an object that such a run has no use for."""
    useless = {"data"} if isinstance(config, RunConfig) else {"env", "wrapper", "network"}
    for name in objects.names:
        if name in useless:
            kind = "an agent's run" if isinstance(config, RunConfig) else "a task"
            raise ValueError(f"{name}: was given in Python, but {kind} has no use for it")


def _refuse_missing_objects(config: AnyRunConfig, objects: Objects, label: str, *, useless: Sequence[str] = ()) -> None:
    """Raise ValueError unless what the config was built with is there again: in its place stood something else."""
    missing = [name for name in config.objects if name not in (*objects.names, *useless)]
    if missing:
        raise ValueError(f"{label} was built with its own {', '.join(missing)}: pass {missing[0]}=... again")


def _refuse_idle_encoder(overrides: Sequence[str], run: str) -> None:
    """Raise ValueError for an override of the encoder, which a graft brings along."""
    for each in overrides:
        if re.match(r"(agent\.encoder|task\.encoder|task\.normalise)\b", each.strip()):
            raise ValueError(f"{each}: the encoder is that of graft.run={run}, as it was trained; leave this out")
