"""The pictures of docs/benchmarks.md, from records. Matplotlib is imported only here, when one is drawn."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .records import Record, median
from .sweeps import CPU_SWEEPS
from .table import cost_of
from .workloads import OURS, WORKLOADS

_OURS, _OTHERS, _YARDSTICK = "#2563eb", "#9ca3af", "#374151"
_SERIES = ("#2563eb", "#dc2626", "#059669", "#d97706")


def draw(folder: Path, records: Mapping[str, Record]) -> dict[str, Path]:
    """Writes those that there is something to draw for; by what shows them."""
    import matplotlib as mpl

    mpl.use("Agg")
    found = {}
    for name, drawn in (("overview", _overview(records)), ("scaling", _scaling(records)), ("gpu", _gpu(records))):
        if drawn is not None:
            found[name] = folder / f"{name}.png"
            folder.mkdir(parents=True, exist_ok=True)
            # Without the version of matplotlib, so that the same numbers make the same file.
            drawn.savefig(found[name], dpi=110, bbox_inches="tight", metadata={"Software": None})
    return found


def _overview(records: Mapping[str, Record]) -> Any:
    """Bars of steps a second, or of seconds, a panel a workload."""
    names = [name for name in WORKLOADS if name in records and name != "replay" and records[name].runs]
    if not names:
        return None
    most = max(len(records[name].runs) for name in names)
    figure, panels = _grid(len(names), 2, 2.3)
    for panel, name in zip(panels, names, strict=True):
        record = records[name]
        metric, unit = {
            "rate": ("steps_per_second", "steps/s with learning"),
            "solved": ("solved_seconds", "seconds to solved"),
            "start": ("first_step_seconds", "seconds to the first step"),
        }[record.goal]
        sides = list(record.runs)
        values = [median(record.runs[side], metric) or 0.0 for side in sides]
        colours = [_OURS if _is_ours(side, record) else _OTHERS for side in sides]
        bars = panel.barh(sides, values, color=colours, height=0.7)
        labels = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value else "never" for value in values]
        panel.bar_label(bars, labels, padding=3, fontsize=8)
        panel.set_title(f"{record.title}\n{unit}", fontsize=9, loc="left")
        panel.set_xlim(0, max(*values, 1e-9) * 1.18)
        panel.set_ylim(most - 0.5, -0.5)  # bars alike in all panels
        panel.tick_params(labelsize=8)
        panel.xaxis.set_visible(False)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


def _is_ours(side: str, record: Record) -> bool:
    """Whose name it bears, or whose settings only we have."""
    others = ("Stable", "Tianshou", "TorchRL", "CleanRL", "JAX", "a plain")
    return side.startswith(OURS) or not side.startswith(others)


def _scaling(records: Mapping[str, Record]) -> Any:
    """Microseconds against a size, both on scales of powers, a panel a size."""
    names = [name for name in CPU_SWEEPS if name in records and records[name].runs]
    if not names:
        return None
    figure, panels = _grid(len(names), 2, 2.8)
    for panel, name in zip(panels, names, strict=True):
        record = records[name]
        rate, unit = cost_of(record)
        for colour, (series, points) in zip(_SERIES, _curves(record, rate).items(), strict=False):
            xs, rates = zip(*points, strict=True)
            panel.plot(xs, [1e6 / rate for rate in rates], "o-", color=colour, label=series, markersize=4)
        _on_powers(panel, record)
        panel.set_ylabel(unit, fontsize=8)
    return figure


def _gpu(records: Mapping[str, Record]) -> Any:
    names = [name for name in ("gpu-cartpole", "gpu-breakout") if name in records and records[name].runs]
    if not names:
        return None
    figure, panels = _grid(len(names), 2, 3.2)
    for panel, name in zip(panels, names, strict=True):
        record = records[name]
        for place, (series, points) in enumerate(_curves(record, "steps_per_second").items()):
            is_other = series.startswith("JAX")
            colour = _YARDSTICK if is_other else _SERIES[place % len(_SERIES)]
            xs, rates = zip(*points, strict=True)
            panel.plot(xs, rates, "s--" if is_other else "o-", color=colour, label=series, markersize=4)
        _on_powers(panel, record)
        panel.set_ylabel("steps/s with learning", fontsize=8)
    return figure


def _curves(record: Record, metric: str) -> dict[str, list[tuple[int, float]]]:
    """(x, median) of each series, by x."""
    found: dict[str, list[tuple[int, float]]] = {}
    for side, runs in record.runs.items():
        series, x = record.points[side]
        value = median(runs, metric)
        if value:
            found.setdefault(series, []).append((x, value))
    return {series: sorted(points) for series, points in found.items()}


def _on_powers(panel: Any, record: Record) -> None:
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_title(record.title, fontsize=9, loc="left")
    panel.set_xlabel(record.axis, fontsize=8)
    panel.tick_params(labelsize=8, which="both")
    panel.grid(alpha=0.3, which="both", linewidth=0.4)
    panel.legend(fontsize=7, frameon=False)
    panel.spines[["top", "right"]].set_visible(False)


def _grid(count: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    figure = Figure(figsize=(10.0, height * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]
