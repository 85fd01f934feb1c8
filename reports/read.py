"""The records of runs, out of their directories."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ..configs import Tree, validate
from ..configs import load as load_tree
from ..runs.config import RunConfig, run_config
from ..runs.resolve import read_schema
from ..runs.session import CONFIG, SCHEMA
from ..runs.stages import StagesConfig
from ..training.trackers import EVALUATIONS, METRICS, read
from .records import AgentRecord, AnyRecord, Played, Record, Scored, StagesRecord, TaskRecord


def read_runs(run_dirs: Sequence[str | Path]) -> list[AnyRecord]:
    """The records of runs, each once; ValueError names a directory that is no run, or has no evaluation yet."""
    paths: dict[Path, Path] = {}
    for path in (Path(run_dir).expanduser() for run_dir in run_dirs):
        paths.setdefault(path.resolve(), path)
    return [_read_run(path) for path in paths.values()]


def _read_run(path: Path) -> AnyRecord:
    if not (path / CONFIG).is_file():
        raise ValueError(f"run directory {path} {f'has no {CONFIG}' if path.is_dir() else 'does not exist'}")
    tree = load_tree(path / CONFIG)
    return _read_stages(path, tree) if "stages" in tree else _read_plain(path, tree)


def _read_stages(path: Path, tree: Tree) -> StagesRecord:
    config = validate(StagesConfig, tree, str(path / CONFIG))
    begun = [name for name in config.stages if _has_evaluations(path / name)]
    if not begun:
        raise ValueError(f"{path}: none of its stages has an evaluation yet")
    records = {name: _read_plain(path / name, load_tree(path / name / CONFIG)) for name in begun}
    return StagesRecord(path, config, {name: replace(record, stage=name) for name, record in records.items()})


def _has_evaluations(path: Path) -> bool:
    return (path / CONFIG).is_file() and (path / EVALUATIONS).is_file() and bool(read(path / EVALUATIONS))


def _read_plain(path: Path, tree: Tree) -> Record:
    config = run_config(tree, str(path / CONFIG))
    if isinstance(config, RunConfig):
        return AgentRecord(path, config, _rows(path, Played, "steps"), _metrics(path))
    evaluations, schema = _rows(path, Scored, "epochs"), read_schema(path / SCHEMA)
    for number, row in enumerate(evaluations, start=1):
        if missing := schema.heads.keys() - row.heads.keys():
            raise _altered(path, number, f"has no heads.{min(missing)}")
    return TaskRecord(path, config, schema, evaluations, _metrics(path))


Row = TypeVar("Row", Played, Scored)


def _rows(path: Path, kind: type[Row], unit: str) -> tuple[Row, ...]:
    evaluations = read(path / EVALUATIONS) if (path / EVALUATIONS).is_file() else []
    if not evaluations:
        raise ValueError(f"{path / EVALUATIONS}: no evaluation yet; the first comes after evaluation.period {unit}")
    rows = []
    for number, row in enumerate(evaluations, start=1):
        try:
            rows.append(kind.model_validate(row))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            problem = f"has no {name}" if first["type"] == "missing" else f"has no valid {name}"
            raise _altered(path, number, problem) from error
    return tuple(rows)


def _altered(path: Path, number: int, problem: str) -> ValueError:
    return ValueError(f"{path / EVALUATIONS}: line {number} {problem}; the file was altered")


def _metrics(path: Path) -> tuple[dict[str, float], ...]:
    rows = read(path / METRICS) if (path / METRICS).is_file() else []
    numbers = tuple(
        {name: float(value) for name, value in row.items() if isinstance(value, int | float)} for row in rows
    )
    for line, row in enumerate(numbers, start=1):
        if "step" not in row:
            raise ValueError(f"{path / METRICS}: line {line} has no step; the file was altered")
    return numbers
