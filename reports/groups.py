"""Which runs share a line in a picture, and what it is called."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from ..configs import Tree, Value
from ..configs import load as load_tree
from ..runs.config import AnyRunConfig, run_config
from ..runs.session import CONFIG
from .records import AgentRecord, Array, Record, TaskRecord, short, source_of

# A run's name, where it runs and whom it tells: nothing of what is learnt.
_BOOKKEEPING = {"seed", "run_dir", "device", "threads", "tracker", "wandb", "checkpoint", "log"}

AnyOf = TypeVar("AnyOf", AgentRecord, TaskRecord, Record)


@dataclass(frozen=True)
class Group(Generic[AnyOf]):
    """Runs of one config, apart from the seed."""

    label: str
    records: tuple[AnyOf, ...]

    @property
    def title(self) -> str:
        """What a legend says of it."""
        size = len(self.records)
        return f"{self.label}: " + (f"mean and range of {size} seeds" if size > 1 else "1 seed")

    def curves(self, pick: Callable[[AnyOf], tuple[Array, Array]]) -> tuple[Array, Array]:
        """What `pick` gives of each run, x [E] and y [E], on one axis up to where the shortest run is: [E], [runs, E].

        An evaluation comes after the first batch past its period, so the steps of runs differ a little: interpolated.
        """
        picked = [pick(record) for record in self.records]
        if len(picked) == 1:
            return picked[0][0], picked[0][1][np.newaxis]
        start = max(x[0] for x, _ in picked)
        end = max(start, min(x[-1] for x, _ in picked))
        axis = np.linspace(start, end, max(int((x <= end).sum()) for x, _ in picked))
        return axis, np.stack([np.interp(axis, x, y) for x, y in picked])


def grouped(records: Sequence[AnyOf]) -> list[Group[AnyOf]]:
    """In the order of their first runs; configs that share a name are told apart by the fields that differ."""
    by_config: dict[str, list[AnyOf]] = {}
    for record in records:
        key = json.dumps([record.stage, _identity(record.config, record.run_dir)], sort_keys=True)
        by_config.setdefault(key, []).append(record)
    fields = [_fields(members[0]) for members in by_config.values()]
    names = [members[0].stage or members[0].name for members in by_config.values()]
    groups: dict[str, Group[AnyOf]] = {}
    for own, name, members in zip(fields, names, by_config.values(), strict=True):
        rivals = [other for other, rival in zip(fields, names, strict=True) if rival == name]
        differ = [field for field in own if any(other.get(field) != own[field] for other in rivals)]
        label = _label(name, {field: own[field] for field in differ}, groups)
        groups[label] = Group(label, tuple(members))
    return list(groups.values())


def _label(name: str, fields: Mapping[str, Value], taken: Collection[str]) -> str:
    """The name and as many of the fields as it takes to be none of those taken, three if there are so many."""
    told = [f"{field.removeprefix('agent.').removeprefix('task.')}={short(value)}" for field, value in fields.items()]
    labels = [", ".join([name, *told[:count]]) for count in range(min(3, len(told)), len(told) + 1)]
    # They may differ in nothing but in what they were grafted from.
    labels += [f"{labels[0]} ({number})" for number in range(2, len(taken) + 2)]
    return next(label for label in labels if label not in taken)


def _identity(config: AnyRunConfig, run_dir: Path, seen: tuple[Path, ...] = ()) -> Tree:
    """All that is learnt by, but for the seed: where an encoder was grafted, by what that one was trained."""
    tree: Tree = config.model_dump(mode="json", exclude=_BOOKKEEPING | {"graft"})
    tree["graft"] = config.graft.model_dump(mode="json", exclude={"run"})
    source = source_of(config, run_dir)
    if source is None or source in seen:
        return tree
    try:
        tree["origin"] = _identity(run_config(load_tree(source / CONFIG)), source, (*seen, source))
    except ValueError:  # it is gone, and two that are gone are the same if they were at the same place
        tree["origin"] = str(source)
    return tree


def _fields(record: Record) -> dict[str, Value]:
    """Values by dotted name; stages are called by their names, and of heads there is what is no default."""
    tree = record.config.model_dump(mode="json", exclude=_BOOKKEEPING)
    told: dict[str, Value] = {}
    if isinstance(record, TaskRecord):
        heads = record.config.task.heads.items()
        tree["task"]["heads"] = {name: head.model_dump(mode="json", exclude_defaults=True) for name, head in heads}
        told["task.heads"] = list(record.schema.heads)
    source = source_of(record.config, record.run_dir)
    if source is not None and record.stage is not None:
        tree["graft"]["run"] = source.name
    return told | _flat(tree)


def _flat(tree: Value, prefix: str = "") -> dict[str, Value]:
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: value for key, branch in tree.items() for name, value in _flat(branch, f"{prefix}{key}.").items()}
