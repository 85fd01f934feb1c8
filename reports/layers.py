"""What the layers of a network do over a run, as a picture."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .records import Array, Record, TaskRecord
from .style import GREY, INK, PALE, blank, count, heat_colours, plain, save, signed_colours, write_bar, write_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PREFIX = "train/"
_MEAN, _STD, _ZEROS, _GRADIENT = "activation_mean/", "activation_std/", "activation_zeros/", "gradient_norm/"
_MAX_LABELS = 60
# Sub-modules that do not come in the order of their names: those before all others, and those after.
_FIRST = ("encoder", "images", "embedding", "stem", "encoders", "inner")
_LAST = ("shortcut", "activation", "hidden", "dropout", "head", "log_variance")


def has_layers(record: Record) -> bool:
    """Whether the run was asked to tell of its layers (log.layers), and has."""
    return any(map(_tells, record.metrics))


def draw_layers(record: Record, path: Path) -> None:
    """Write the picture whole or not at all: over time, layers from the input down, and what was measured of each.

    Mean and deviation of their outputs, the share of outputs that are zero, and the norm of the gradient by all of a
    layer's parameters. What was not measured is left grey. ValueError if there can be no such file.
    """
    rows = [row for row in record.metrics if _tells(row)]
    mean, std, zeros, norms = (_by_layer(rows, _PREFIX + what) for what in (_MEAN, _STD, _ZEROS, _GRADIENT))
    maps = {
        "mean of outputs": mean,
        "standard deviation of outputs": std,
        "share of outputs that are 0": zeros,
        "gradient norm": _joined(norms),
    }
    maps = {name: values for name, values in maps.items() if values}  # of an ensemble, gradients alone
    layers = in_order([*dict.fromkeys(layer for values in maps.values() for layer in values)])
    edges, time = np.array([0.0, *(row["step"] for row in rows)]), "environment steps"
    if isinstance(record, TaskRecord):
        edges, time = edges * record.evaluations[-1].epoch / record.evaluations[-1].step, "epochs"
    height = float(np.clip(0.2 * len(layers), 1.6, 13.0))
    figure = blank(4.2 * len(maps) + 0.075 * max(map(len, layers)), height + 1.2)
    axes = figure.subplots(1, len(maps), sharey=True, squeeze=False)[0]
    for axis, (name, values) in zip(axes, maps.items(), strict=True):
        grid = np.stack([values.get(layer, np.full(len(rows), np.nan)) for layer in layers])
        _draw_map(figure, axis, edges, grid, is_share=values is zeros, is_signed=values is mean)
        write_title(axis, name)
        axis.set_xlabel(time, fontsize=10.5, color=GREY)
    every = -(-len(layers) // _MAX_LABELS)
    axes[0].set_yticks(np.arange(0, len(layers), every) + 0.5, [*map(plain, layers[::every])], color=INK, fontsize=8.5)
    axes[0].set_ylim(len(layers), 0)
    save(figure, path)


def _tells(row: Mapping[str, float]) -> bool:
    """Whether a row of metrics is about layers: each of them has a gradient, and some an output."""
    return any(name.startswith((_PREFIX + _STD, _PREFIX + _GRADIENT)) for name in row)


def _draw_map(figure: "Figure", axis: "Axes", edges: Array, grid: Array, *, is_share: bool, is_signed: bool) -> None:
    """edges: [M + 1], of time; grid: [layers, M], a share or a signed number as it is, others by their logarithm."""
    is_log10 = not (is_share or is_signed)
    values = np.ma.masked_invalid(_logarithms(grid) if is_log10 else grid)
    axis.set_facecolor(PALE)
    most = (float(np.abs(values).max()) or 1.0) if is_signed else 1.0
    low, high = (None, None) if is_log10 else (-most if is_signed else 0.0, most)
    heights, colours = np.arange(len(grid) + 1), signed_colours() if is_signed else heat_colours()
    image = axis.pcolormesh(edges, heights, values, cmap=colours, vmin=low, vmax=high)
    write_bar(figure, image, axis, is_log10=is_log10)
    axis.xaxis.set_major_formatter(lambda value, _: count(value))
    axis.locator_params(axis="x", nbins=5, integer=True)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=9, labelcolor=GREY)


def in_order(layers: Sequence[str]) -> list[str]:
    """From the input down, as far as names tell: rows are sorted by name, so they do not."""
    return sorted(layers, key=_depth)


def _depth(layer: str) -> list[tuple[int, float, str]]:
    places: list[tuple[int, float, str]] = []
    for part in layer.split("."):
        rank = 1 + _FIRST.index(part) if part in _FIRST else 50 + (_LAST.index(part) + 1 if part in _LAST else 0)
        number = re.search(r"\d+$", part)
        places.append((rank, float(number[0]) if number else -1.0, part))
    return [*places, (99, 0.0, "")]  # a module gives its output after what is inside it


def _by_layer(rows: Sequence[Mapping[str, float]], prefix: str) -> dict[str, Array]:
    """Values over time, [M] each, NaN where there is none."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(prefix))
    return {name.removeprefix(prefix): np.array([row.get(name, np.nan) for row in rows]) for name in names}


def _joined(norms: Mapping[str, Array]) -> dict[str, Array]:
    """Of each layer, the norm over all of its parameters."""
    squares: dict[str, Array] = {}
    for name, norm in norms.items():
        layer = name.replace("__", ".").rpartition(".")[0] or name  # an ensemble's parameters have no dots
        squares[layer] = squares.get(layer, 0.0) + norm**2
    return {layer: np.sqrt(square) for layer, square in squares.items()}


def _logarithms(values: Array) -> Array:
    """Base 10; zeros become the lowest of the others, where colours end."""
    positive = values[values > 0]
    lowest = positive.min() if len(positive) else 1.0
    return np.log10(np.where(values <= 0, lowest, values))
