"""What comparisons came to, as pictures: curves and performance profile of each, and all of them beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..reports.style import COLOURS, GREY, INK, PALE, Panel, blank, frame, plain, save, write_legend
from .record import ComparisonRecord, Interval, SideName
from .statistics import FEWEST_SEEDS, Array, Verdict, band, performance_profile

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from ..reports.style import Drawn

ROLES: Mapping[SideName, str] = {  # in the order that they are told in
    "equal": "graftwork, same settings",
    "preset": "graftwork, its preset",
    "sb3": "Stable-Baselines3",
}
VERDICT_COLOURS: Mapping[Verdict, str] = {
    "equivalent": COLOURS[2],
    "better": COLOURS[0],
    "worse": "#c8321f",
    "undecided": COLOURS[4],
}
_SIDE_COLOURS: Mapping[SideName, str] = {"equal": COLOURS[0], "preset": COLOURS[3], "sb3": "#6b7280"}
_FAINT = "#a8aeb9"
_REPLICATES, _BOUNDS_SEED = 4_000, 0  # fixed, so that the same data make the same picture


def sides_of(record: ComparisonRecord) -> list[SideName]:
    """Those that were compared, ours first."""
    return [side for side in ROLES if side in record.sides]


def draw_curves(record: ComparisonRecord, path: Path) -> None:
    """Write the returns along the way: of each side the interquartile mean over seeds, in its 95% interval.

    Of too few seeds for an interval it is the mean, and each seed is a thin line.
    """

    def draw(axis: "Axes") -> None:
        curves: Drawn = {}
        for level, name in zip(record.range, ("random", "best"), strict=True):
            axis.axhline(level, color=_FAINT, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
            axis.text(1.015, level, name, transform=axis.get_yaxis_transform(), fontsize=9.5, color=GREY, va="center")
        for side in reversed(sides_of(record)):  # ours are drawn over theirs
            steps, returns = _curves(record, side)
            if len(returns):
                seeds = f"{len(returns)} seeds" if len(returns) > 1 else "1 seed"
                curves[f"{ROLES[side]}, {seeds}"] = _draw_side(axis, steps, returns, _SIDE_COLOURS[side])
        write_legend(axis, dict(reversed(curves.items())))

    told = "IQM, 95% interval" if len(record.seeds) >= FEWEST_SEEDS else "mean over seeds"
    _draw(Panel("Returns along the way", "environment steps", f"return, {told}", draw), path, height=4.9)


def draw_profile(record: ComparisonRecord, path: Path) -> None:
    """Write the performance profile: for each return the share of seeds whose final one is above it."""
    finals = {side: scores for side in sides_of(record) if (scores := _finals(record, side)).size}
    every = np.concatenate([np.array(record.range), *(scores.ravel() for scores in finals.values())])
    room = 0.03 * float(np.ptp(every))
    ends = float(every.min()) - room, float(every.max()) + room

    def draw(axis: "Axes") -> None:
        # From wide to narrow, so that lines which coincide all stay visible.
        for width, side in zip((6.5, 4.2, 1.6)[3 - len(finals) :], reversed(finals), strict=True):
            thresholds = np.array([ends[0], *np.unique(finals[side]), ends[1]])
            share = performance_profile(finals[side], thresholds)
            axis.plot(thresholds, share, color=_SIDE_COLOURS[side], linewidth=width, drawstyle="steps-post")
        axis.set_ylim(-0.05, 1.05)

    _draw(Panel("Final returns", "return", "share of seeds above", draw), path, height=2.7, ends=ends)


def draw_comparisons(records: Sequence[ComparisonRecord], path: Path) -> None:
    """Write every comparison that has intervals: scores of both sides, and ours less those of SB3.

    Scores are shares of the range from random to best. The margin of equivalence is shaded.
    """
    rows = [(record, side) for record in records for side in sides_of(record) if side in record.against_sb3]

    def draw_scores(axis: "Axes") -> None:
        axis.update_datalim([(0, 0), (1, 0)])  # all of the range, so that a near miss does not look far
        for place, (record, side) in enumerate(rows):
            for shift, each, colour in ((-0.13, side, _colour(record, side)), (0.13, "sb3", _SIDE_COLOURS["sb3"])):
                value, low, high = record.results[each].iqm
                scores = record.score(value), record.score(low), record.score(high)
                _draw_interval(axis, scores, place + shift, colour)

    def draw_differences(axis: "Axes") -> None:
        axis.axvline(0, color=_FAINT, linewidth=1.0, zorder=1)
        for place, (record, side) in enumerate(rows):
            found, colour = record.against_sb3[side], _colour(record, side)
            height = np.array([place - 0.5, place + 0.5])
            axis.fill_betweenx(height, -record.margin, record.margin, color="#dfe3ea", linewidth=0, zorder=0)
            _draw_interval(axis, found.difference, place, colour)
            text = axis.text(1.03, place, found.verdict, transform=axis.get_yaxis_transform(), color=colour)
            text.set(fontsize=10.5, fontweight="bold", verticalalignment="center_baseline")

    panels = (
        Panel("Score", "IQM, 95% interval; grey: SB3", "", draw_scores),
        Panel("Score less SB3's", "90% interval; shaded: the margin", "", draw_differences),
    )
    figure = blank(10.4, 1.5 + 0.44 * len(rows))
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.1))
    for axis, panel in zip(axes, panels, strict=True):
        panel.draw(axis)
        ends = axis.get_xlim()
        frame(axis, panel)
        _free(axis, ends)
        axis.grid(axis="x", color=PALE)
        axis.grid(visible=False, axis="y")
    labels = [plain(f"{record.name}, {ROLES[side].split(', ')[1]}") for record, side in rows]
    axes[0].set_yticks(range(len(rows)), labels, color=INK)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    save(figure, path)


def _draw(panel: Panel, path: Path, height: float, ends: tuple[float, float] | None = None) -> None:
    """ends: of an axis that does not begin at 0."""
    figure = blank(6.4, height)
    axis = figure.subplots()
    panel.draw(axis)
    frame(axis, panel)
    if ends is not None:
        _free(axis, ends)
    save(figure, path)


def _free(axis: "Axes", ends: tuple[float, float]) -> None:
    """Numbers along it are of any kind."""
    axis.locator_params(axis="x", nbins=6, integer=False)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "\N{MINUS SIGN}"))
    axis.set_xlim(ends)


def _draw_side(axis: "Axes", steps: Array, returns: Array, colour: str) -> "tuple[Artist, ...]":
    if len(returns) < FEWEST_SEEDS:
        if len(returns) > 1:
            axis.plot(steps, returns.T, color=colour, linewidth=0.8, alpha=0.6)
        return tuple(axis.plot(steps, returns.mean(0), color=colour, linewidth=2.0))
    middle, low, high = band(returns, replicates=_REPLICATES, generator=np.random.default_rng(_BOUNDS_SEED))
    area = axis.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
    return (area, *axis.plot(steps, middle, color=colour, linewidth=2.0, zorder=3))


def _draw_interval(axis: "Axes", interval: Interval, place: float, colour: str) -> None:
    value, low, high = interval
    axis.plot([low, high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt", zorder=2)
    axis.plot(value, place, color=colour, marker="o", markersize=6.0, markeredgecolor="white", zorder=3)


def _colour(record: ComparisonRecord, side: SideName) -> str:
    return VERDICT_COLOURS[record.against_sb3[side].verdict]


def _finals(record: ComparisonRecord, side: SideName) -> Array:
    """[S, 1]."""
    return np.array([[row.final] for row in record.rows if row.side == side], float)


def _curves(record: ComparisonRecord, side: SideName) -> tuple[Array, Array]:
    """Steps [K] and the returns of each seed [S, K] there, as far as the shortest goes.

    An evaluation comes after the first batch past its period, so the steps of seeds differ a little: interpolated.
    """
    seeds: dict[int, list[tuple[int, float]]] = {}
    for point in record.points:
        if point.side == side:
            seeds.setdefault(point.seed, []).append((point.step, point.return_))
    curves = [np.array(sorted(points), float).T for points in seeds.values()]
    if not curves:
        return np.empty(0), np.empty((0, 0))
    start = max(steps[0] for steps, _ in curves)
    end = max(start, min(steps[-1] for steps, _ in curves))
    axis = np.linspace(start, end, max(int((steps <= end).sum()) for steps, _ in curves))
    return axis, np.stack([np.interp(axis, steps, returns) for steps, returns in curves])
