"""Learning curves of tasks: by data, a panel for the loss and one for each head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .groups import Group, grouped
from .records import Array, TaskRecord
from .style import COLOURS, GREY, Panel, plot_band, write_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Drawn

_TAIL: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.7}
_MARK: dict[str, Any] = {"marker": "D", "markersize": 7.0, "markeredgecolor": "white", "linestyle": "none"}
_DASHED: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 2))}


@dataclass(frozen=True)
class Line:
    group: Group[TaskRecord]
    label: str
    colour: str


def task_panels(records: Sequence[TaskRecord], *, single: bool) -> list[Panel]:
    """Loss and main scores against epochs; stages are compared by scores alone. single: of the one run there is."""
    by_data: dict[str, list[TaskRecord]] = {}
    for record in records:
        for data in dict.fromkeys(map(record.data, record.schema.heads)):
            by_data.setdefault(data, []).append(record)
    return [panel for data, members in by_data.items() for panel in _panels(data, grouped(members), single=single)]


def _panels(data: str, groups: Sequence[Group[TaskRecord]], *, single: bool) -> list[Panel]:
    """Losses of different heads are different things, so each set of heads has its own."""
    losses: dict[tuple[str, ...], list[Line]] = {}
    scores: dict[tuple[str, str], list[Line]] = {}  # by head and metric
    for group, colour in zip(groups, COLOURS * len(groups), strict=False):
        first = group.records[0]
        line = Line(group, f"{first.name}, {first.config.seed_text}" if single else group.title, colour)
        heads = tuple(first.schema.heads)
        if first.stage is None and first.data(heads[0]) == data:  # of heads on several data it is one loss
            losses.setdefault(heads, []).append(line)
        for head in heads:
            if first.data(head) == data:
                scores.setdefault((head, first.metric(head)), []).append(line)
    titles = {heads: "loss" if len(losses) == 1 else f"loss of {', '.join(heads)}" for heads in losses}
    return [
        *(_loss_panel(f"{data}: {titles[heads]}", members) for heads, members in losses.items()),
        *(_score_panel(data, head, metric, members) for (head, metric), members in scores.items()),
    ]


def _loss_panel(title: str, lines: Sequence[Line]) -> Panel:
    def draw(axis: "Axes") -> None:
        from matplotlib.lines import Line2D

        curves = _draw_lines(axis, lines, lambda record: record.loss)
        for line in lines:
            if all(len(record.training) for record in line.group.records):
                epoch, loss = line.group.curves(lambda record: (record.training[:, 0], record.training[:, 1]))
                axis.plot(epoch, loss.mean(0), color=line.colour, **_DASHED)
                curves["dashed: training, the mean since the row before"] = Line2D([], [], color=GREY, **_DASHED)
        write_legend(axis, curves)
        if _spans_decades(axis):
            axis.set_yscale("log")

    return Panel(title, "epochs", f"{_part(lines)}loss", draw)


def _score_panel(data: str, head: str, metric: str, lines: Sequence[Line]) -> Panel:
    def draw(axis: "Axes") -> None:
        write_legend(axis, _draw_lines(axis, lines, lambda record: record.scores(head)))
        if metric == "R²":
            ends = [record.scores(head)[-1] for line in lines for record in line.group.records]
            low = min(-1.0, 1.1 * np.nanmin([0.0, *ends]))
            if axis.get_ylim()[0] < low:  # what began far worse than telling the mean: how far tells nothing
                axis.set_ylim(bottom=low, top=max(axis.get_ylim()[1], 0.1))

    return Panel(f"{data}: {metric} of {head}", "epochs", f"{_part(lines)}{metric}", draw)


def _draw_lines(axis: "Axes", lines: Sequence[Line], pick: Callable[[TaskRecord], Array]) -> "Drawn":
    """What was drawn, as a legend tells it: where seeds stopped at different epochs, each goes on in a thin line."""
    from matplotlib.lines import Line2D

    curves: Drawn = {}
    notes: Drawn = {}
    for line in lines:
        epoch, values = line.group.curves(lambda record: (record.epoch, pick(record)))
        curves[line.label] = plot_band(axis, epoch, values, line.colour, max_markers=30)
        for record in line.group.records:
            later, chosen = record.epoch >= epoch[-1], record.chosen
            if later.sum() > 1:
                axis.plot(record.epoch[later], pick(record)[later], color=line.colour, **_TAIL)
                notes["thin: seeds that went on where others end"] = Line2D([], [], color=GREY, **_TAIL)
            if record.config.evaluation.patience is not None:
                axis.plot(record.epoch[chosen], pick(record)[chosen], color=line.colour, zorder=4, **_MARK)
                notes["the epoch of the lowest loss, whose weights are kept"] = Line2D([], [], color=GREY, **_MARK)
    return curves | notes


def _part(lines: Sequence[Line]) -> str:
    """Of the data that is evaluated, if it is the same for all."""
    parts = {row.part for line in lines for record in line.group.records for row in record.evaluations}
    return f"{parts.pop()} " if len(parts) == 1 else ""


def _spans_decades(axis: "Axes") -> bool:
    """Whether all that is drawn is above zero, and the highest more than ten times the lowest."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.get_lines()])
    values = values[np.isfinite(values)]
    return bool(len(values)) and values.min() > 0 and values.max() > 10 * values.min()
