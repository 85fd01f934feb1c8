"""Learning curves of runs of any kind, in one picture."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .groups import Group, grouped
from .panels import task_panels
from .records import AgentRecord, AnyRecord, Record, StagesRecord, TaskRecord
from .style import COLOURS, Panel, blank, check_target, frame, plot_band, save, write_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .style import Drawn

_MAX_COLUMNS = 3


def draw_curves(records: Sequence[AnyRecord], path: Path) -> None:
    """Write the picture whole or not at all, in the format that the file's name ends with.

    A line for each config, or each stage: the mean over seeds, in a band from the lowest to the highest. Of agents the
    greedy return against environment steps; a single run's band is over the episodes of an evaluation, and its training
    episodes are shown too. Of tasks loss and main scores against epochs, and where early stopping took the weights.
    Stages are compared by what they came to, so there is no loss of them. ValueError if there can be no such file.
    """
    check_target(path)
    single = len(records) == 1 and not isinstance(records[0], StagesRecord)
    flat: list[Record] = []
    for record in records:
        flat += record.stages.values() if isinstance(record, StagesRecord) else [record]
    agents = [record for record in flat if isinstance(record, AgentRecord)]
    tasks = [record for record in flat if isinstance(record, TaskRecord)]
    panels = [*_agent_panels(agents, single=single), *task_panels(tasks, single=single)]
    columns = 2 if len(panels) == 4 else min(len(panels), _MAX_COLUMNS)
    rows = -(-len(panels) // columns)
    figure = blank(7.2 if columns == 1 else 5.4 * columns, 4.4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, panel in zip(axes, panels, strict=False):
        panel.draw(axis)
        frame(axis, panel)
    for axis in axes[len(panels) :]:
        axis.remove()
    figure.align_ylabels()
    save(figure, path)


def _agent_panels(records: Sequence[AgentRecord], *, single: bool) -> list[Panel]:
    """Greedy return against environment steps.

    single: of the one run there is, shown with the range of its episodes, and those of its training.
    """
    by_env: dict[str, list[AgentRecord]] = {}
    for record in records:
        by_env.setdefault(record.task, []).append(record)

    def panel(env: str, members: list[AgentRecord]) -> Panel:
        def draw(axis: "Axes") -> None:
            if single:
                _draw_agent(axis, members[0])
            else:
                _draw_agents(axis, grouped(members))

        return Panel(env, "environment steps", "return (sum of an episode's rewards)", draw)

    return [panel(env, members) for env, members in by_env.items()]


def _draw_agent(axis: "Axes", record: AgentRecord) -> None:
    worst, best = (np.array([pick(row.returns) for row in record.evaluations], float) for pick in (min, max))
    episodes = record.evaluations[-1].episodes
    label = f"{record.name}, {record.config.seed_text}: mean and range of {episodes} greedy episodes"
    curve = plot_band(axis, record.step, record.mean[np.newaxis], COLOURS[0], (worst, best))
    training = axis.plot(*record.training.T, color="#a8aeb9", linewidth=1.0)
    write_legend(axis, {label: curve, "training, with exploration": tuple(training)})


def _draw_agents(axis: "Axes", groups: Sequence[Group[AgentRecord]]) -> None:
    curves: Drawn = {}
    for group, colour in zip(groups, COLOURS * len(groups), strict=False):
        step, returns = group.curves(lambda record: (record.step, record.mean))
        curves[group.title] = plot_band(axis, step, returns, colour)
        if step[-1] < 0.9 * max(record.step[-1] for record in group.records):
            shortest = min(group.records, key=lambda record: record.step[-1])
            warnings.warn(f"{shortest.run_dir} ends at step {step[-1]:,.0f}, and with it the curve", stacklevel=3)
    write_legend(axis, curves)
