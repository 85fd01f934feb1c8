"""Learning curves of runs, finished or not, as a picture."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..configs import Value, validate
from ..configs import load as load_tree
from ..training.trackers import EVALUATIONS, METRICS, read
from .config import RunConfig
from .session import CONFIG

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

# A run's name, where it runs and whom it tells: nothing of what is learnt.
_BOOKKEEPING = {"seed", "run_dir", "device", "threads", "tracker", "wandb", "checkpoint", "log"}


@dataclass(frozen=True)
class Record:
    """How a run went. E evaluations, M rows of metrics."""

    run_dir: Path
    config: RunConfig
    evaluations: tuple[dict[str, Any], ...]  # as in evaluations.jsonl, at least one
    training: Array  # [M, 2] environment step, mean return of the training episodes since the row before

    @property
    def step(self) -> Array:
        """Environment steps of the evaluations, [E]."""
        return np.array([row["step"] for row in self.evaluations], float)

    @property
    def mean(self) -> Array:
        """Greedy return, [E]."""
        return np.array([row["mean"] for row in self.evaluations], float)

    @property
    def task(self) -> str:
        """The environment, with what changes it."""
        env = self.config.env
        changes = {"observe": env.observe, "max_episode_steps": env.max_episode_steps, "kwargs": env.kwargs}
        own = [f"own {name}" for name in self.config.objects if name in ("env", "wrapper")]
        return ", ".join([env.id, *(f"{name} {_short(value)}" for name, value in changes.items() if value), *own])

    @property
    def agent(self) -> str:
        """The algorithm and the network that it trains."""
        own = [name for name in self.config.objects if name in ("encoder", "network")]
        return f"{self.config.agent.kind} ({f'own {own[0]}' if own else self.config.agent.encoder.kind})"

    def summary(self) -> dict[str, str | int | float]:
        """Plain values: which run, and its newest evaluation."""
        newest = {name: self.evaluations[-1][name] for name in ("step", "mean", "std", "episodes")}
        return {"run_dir": str(self.run_dir), "env": self.task, "agent": self.agent, "seed": self.config.seed, **newest}


@dataclass(frozen=True)
class Group:
    """Runs of one config, apart from the seed."""

    label: str
    records: tuple[Record, ...]

    def curves(self) -> tuple[Array, Array]:
        """Steps up to where the shortest run is, [E], and each run's return there, [runs, E].

        An evaluation comes after the first batch past its period, so the steps of runs differ a little: interpolated.
        """
        if len(self.records) == 1:
            return self.records[0].step, self.records[0].mean[np.newaxis]
        start = max(record.step[0] for record in self.records)
        end = max(start, min(record.step[-1] for record in self.records))
        step = np.linspace(start, end, max(int((record.step <= end).sum()) for record in self.records))
        return step, np.stack([np.interp(step, record.step, record.mean) for record in self.records])


def read_runs(run_dirs: Sequence[str | Path]) -> list[Record]:
    """The records of runs, each once; ValueError names a directory that is no run, or has no evaluation yet."""
    paths: dict[Path, Path] = {}
    for path in map(Path, run_dirs):
        paths.setdefault(path.resolve(), path)
    return [_read_run(path) for path in paths.values()]


def draw(records: Sequence[Record], path: Path) -> None:
    """Write the picture whole or not at all, in the format that the file's name ends with.

    Greedy return against environment steps, a panel for each environment, a line for each config: the mean over seeds,
    in a band from the lowest to the highest. A single run's band is over the episodes of an evaluation, and its
    training episodes are shown too. ValueError if there can be no such file.
    """
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"{path}: {'is a directory' if path.is_dir() else f'there is no directory {path.parent}'}")
    # Figure, not pyplot: no window, and no state of the process's that a caller's own pictures could meet.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels: dict[str, list[Record]] = {}
    for record in records:
        panels.setdefault(record.task, []).append(record)
    columns = 2 if len(panels) == 4 else min(len(panels), _MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)  # inches, then shares
    size = (7.2 if columns == 1 else 5.4 * columns, 4.4 * rows)
    figure = Figure(figsize=size, facecolor="white", layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, (task, members) in zip(axes, panels.items(), strict=False):
        if len(records) == 1:
            _draw_run(axis, records[0])
        else:
            _draw_groups(axis, _groups(members))
        _finish(axis, task)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.align_ylabels()
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=200, format=path.suffix.removeprefix(".") or "png")
        os.replace(temporary, path)
    except ValueError as error:  # a format that does not exist
        raise ValueError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read_run(path: Path) -> Record:
    if not (path / CONFIG).is_file():
        raise ValueError(f"run directory {path} {f'has no {CONFIG}' if path.is_dir() else 'does not exist'}")
    config = validate(RunConfig, load_tree(path / CONFIG), str(path / CONFIG))
    evaluations = read(path / EVALUATIONS) if (path / EVALUATIONS).is_file() else []
    if not evaluations:
        raise ValueError(f"{path / EVALUATIONS}: no evaluation yet; the first comes after evaluation.period steps")
    for number, row in enumerate(evaluations, start=1):
        if missing := {"step", "mean", "std", "episodes", "returns"} - row.keys():
            raise ValueError(f"{path / EVALUATIONS}: line {number} has no {min(missing)}; the file was altered")
    metrics: list[dict[str, Any]] = read(path / METRICS) if (path / METRICS).is_file() else []
    training = [(row["step"], row["episode/return"]) for row in metrics if "episode/return" in row]
    return Record(path, config, tuple(evaluations), np.array(training, float).reshape(-1, 2))


def _groups(records: Sequence[Record]) -> list[Group]:
    """In the order of their first runs; configs that share a name are told apart by the fields that differ."""
    by_config: dict[str, list[Record]] = {}
    for record in records:
        key = json.dumps(record.config.model_dump(mode="json", exclude=_BOOKKEEPING), sort_keys=True)
        by_config.setdefault(key, []).append(record)
    fields = [_flat(json.loads(key)) for key in by_config]
    names = [members[0].agent for members in by_config.values()]
    groups = []
    for own, name, members in zip(fields, names, by_config.values(), strict=True):
        rivals = [other for other, rival in zip(fields, names, strict=True) if rival == name]
        differ = [field for field in own if any(other.get(field) != own[field] for other in rivals)]
        label = ", ".join([name, *(f"{field.removeprefix('agent.')}={_short(own[field])}" for field in differ[:3])])
        groups.append(Group(label, tuple(members)))
    return groups


def _flat(tree: Value, prefix: str = "") -> dict[str, Value]:
    """Values by dotted name."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: value for key, branch in tree.items() for name, value in _flat(branch, f"{prefix}{key}.").items()}


def _short(value: object) -> str:
    return json.dumps(value).replace('"', "")


_COLOURS = ("#2463eb", "#e0621a", "#0e9373", "#a336b8", "#b3861b", "#4b5563")
_INK, _GREY, _PALE = "#1f2430", "#5f6673", "#e6e8ec"
_MAX_COLUMNS, _MAX_MARKERS = 3, 60


def _draw_run(axis: "Axes", record: Record) -> None:
    worst, best = (np.array([pick(row["returns"]) for row in record.evaluations], float) for pick in (min, max))
    episodes = record.evaluations[-1]["episodes"]
    label = f"{record.agent}, seed {record.config.seed}: mean and range of {episodes} greedy episodes"
    curve = _plot(axis, record.step, worst, record.mean, best, _COLOURS[0])
    training = axis.plot(*record.training.T, color="#a8aeb9", linewidth=1.0)
    _legend(axis, {label: curve, "training, with exploration": tuple(training)})


def _draw_groups(axis: "Axes", groups: Sequence[Group]) -> None:
    curves = {}
    for group, colour in zip(groups, _COLOURS * len(groups), strict=False):
        step, returns = group.curves()
        count = len(group.records)
        label = f"{group.label}: " + (f"mean and range of {count} seeds" if count > 1 else "1 seed")
        curves[label] = _plot(axis, step, returns.min(0), returns.mean(0), returns.max(0), colour)
        if step[-1] < 0.9 * max(record.step[-1] for record in group.records):
            shortest = min(group.records, key=lambda record: record.step[-1])
            warnings.warn(f"{shortest.run_dir} ends at step {step[-1]:,.0f}, and with it the curve", stacklevel=3)
    _legend(axis, curves)


def _plot(axis: "Axes", step: Array, low: Array, mean: Array, high: Array, colour: str) -> tuple["Artist", ...]:
    band = axis.fill_between(step, low, high, color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(step) <= _MAX_MARKERS else ""
    return (band, *axis.plot(step, mean, color=colour, linewidth=2.0, marker=marker, markersize=4.0, zorder=3))


def _legend(axis: "Axes", curves: Mapping[str, tuple["Artist", ...]]) -> None:
    axis.legend(
        list(curves.values()),
        list(curves),
        loc="upper left",
        bbox_to_anchor=(0, -0.165),
        borderpad=0,
        borderaxespad=0,
        frameon=False,
        fontsize=9.5,
        labelcolor=_INK,
    )


def _finish(axis: "Axes", task: str) -> None:
    axis.set_facecolor("white")
    axis.set_title(task, loc="left", pad=12, fontsize=13, fontweight="bold", color=_INK)
    axis.set_xlabel("environment steps", fontsize=10.5, color=_GREY)
    axis.set_ylabel("return (sum of an episode's rewards)", fontsize=10.5, color=_GREY)
    axis.set_xlim(left=0)
    axis.locator_params(nbins=6)
    axis.xaxis.set_major_formatter(lambda step, _: _count(step))
    axis.tick_params(length=0, labelsize=10.5, labelcolor=_GREY)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=_PALE)
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.spines["bottom"].set_color(_PALE)


def _count(step: float) -> str:
    """`50k`, `1.5M`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
