"""Configurations as text: packaged presets, YAML files, and dotted overrides from a command line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from .config import Config
from .suggest import suggest
from .yaml_text import ConfigError, Tree, Value, one_line, parse, parse_argument, render


@dataclass(frozen=True)
class Preset:
    """A packaged configuration: `dqn/cartpole` is configs/presets/dqn/cartpole.yaml."""

    name: str
    description: str  # the file's first line, which is a comment
    text: str


def presets() -> dict[str, Preset]:
    """Every packaged preset by name, sorted."""
    found = dict(_yaml_files(files(__package__ or __name__) / "presets", ""))
    return {name: Preset(name, _first_comment(found[name]), found[name]) for name in sorted(found)}


def load(source: str | Path, overrides: Sequence[str] = ()) -> Tree:
    """The tree of a preset or a YAML file with the overrides `a.b.c=value` applied; not yet validated.

    `source` is a file when it is a Path, ends in .yaml or .yml, or exists as a file; otherwise a preset's name. An
    override is applied before those inside it, and `x.kind=...` before its neighbours: a changed kind resets `x`, whose
    other fields belonged to the old kind. Of two values for one field the last counts.

    Raises ConfigError.
    """
    tree = parse(*_read(source))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: must be a mapping of fields, got {one_line(tree)}")
    return override(tree, overrides)


def override(tree: Tree, overrides: Sequence[str]) -> Tree:
    """The tree with `a.b.c=value` applied, as in `load`."""
    settings = dict(_split(override) for override in overrides)
    for path in sorted(settings, key=lambda path: (len(path), path[-1] != "kind")):
        tree = _replaced(tree, path, settings[path], ".".join(path))
    return tree


def dump(config: Config) -> str:
    """The resolved configuration, every default written out, as YAML that loads to an equal one."""
    return render(config.model_dump(mode="json"))


def _yaml_files(folder: Traversable, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _yaml_files(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".yaml"):
            yield prefix + entry.name.removesuffix(".yaml"), entry.read_text(encoding="utf-8")


def _first_comment(text: str) -> str:
    return next((line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")), "")


def _read(source: str | Path) -> tuple[str, str]:
    """The text and the name that errors call it."""
    path = Path(source)
    available = presets()
    if not (isinstance(source, Path) or path.suffix in (".yaml", ".yml") or path.is_file()):
        if source not in available:
            hint = suggest(source, available) or f"; presets: {', '.join(available)}"
            raise ConfigError(f"{source}: no such preset or file{hint}")
        return available[source].text, f"preset {source}"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{suggest(str(path), available)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file") from None
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _split(override: str) -> tuple[tuple[str, ...], Value]:
    name, equals, text = override.partition("=")
    path = tuple(name.strip().split("."))
    if not equals or not all(path) or any(part.strip() != part for part in path):
        raise ConfigError(f"{override}: an override is field=value, such as agent.discount=0.99")
    return path, parse_argument(text, override)


def _replaced(tree: Tree, path: tuple[str, ...], value: Value, name: str) -> Tree:
    """A copy with the value at `path`: YAML aliases make parts of a tree shared, so none is changed in place."""
    key, *rest = path
    if not rest:
        changes_kind = key == "kind" and "kind" in tree and tree["kind"] != value
        return {"kind": value} if changes_kind else {**tree, key: value}
    branch = tree.get(key)
    if branch is None or (rest == ["kind"] and not isinstance(branch, dict | list)):
        branch = {}  # a number in place of a schedule goes when the schedule gets a kind
    if not isinstance(branch, dict):
        raise ConfigError(f"{name}={one_line(value)}: {key} is {one_line(branch)}, which has no fields")
    return {**tree, key: _replaced(branch, tuple(rest), value, name)}
