"""Which classes are taken for which, as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tasks import ClassScores
from .records import Array
from .style import GREY, INK, blank, heat_colours, plain, save, wrapped, write_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_NUMBERS = 40  # classes that there is room to write numbers for
_MAX_NAME = 21  # characters of a class's name


def draw_confusion(scores: ClassScores, title: str, path: Path) -> None:
    """Write the picture whole or not at all: rows are what samples are, columns what they were taken for.

    Cells have counts, coloured by their share of the row; recall ends each row, and precision each column. More than
    40 classes are too many for numbers. ValueError if there can be no such file.
    """
    names = [_short(name) for name in scores.classes]
    size, longest = len(names), max(map(len, names))
    has_numbers = size <= _MAX_NUMBERS
    cell = max(2.2 / size, min(0.09 * longest, 4.5 / size), min(0.46, 14.0 / size))  # inches
    width, margin = cell * size + 0.6, 0.9 + 0.08 * max(longest, 9)
    figure = blank(width + margin + 0.9, width + margin)
    axis = figure.subplots()
    cells = np.array(scores.confusion, float)
    shares = cells / np.maximum(cells.sum(1, keepdims=True), 1)
    image = axis.imshow(shares, cmap=heat_colours(), vmin=0, vmax=1)
    step = -(-size // _MAX_NUMBERS)
    ticks = dict(zip(range(0, size, step), names[::step], strict=True))
    edge = size - 0.5 + 0.35 / cell  # where the margins' numbers are
    if has_numbers:
        _write_numbers(axis, scores, shares, edge, 8.5 if size > 9 else 10.0)
        axis.set(xlim=(-0.5, edge + 0.25 / cell), ylim=(edge + 0.25 / cell, -0.5))
    margins = {edge: "recall"}, {edge: "precision"}
    for set_ticks, own in zip((axis.set_xticks, axis.set_yticks), margins, strict=True):
        shown = ticks | (own if has_numbers else {})
        set_ticks([*shown], [*shown.values()])
    axis.tick_params(length=0, labelsize=9, labelcolor=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
    if longest * 0.085 > cell * step:
        axis.tick_params(axis="x", labelrotation=90)
    axis.set_xlabel("predicted class", fontsize=10.5, color=GREY)
    axis.xaxis.set_label_position("top")
    axis.set_ylabel("true class", fontsize=10.5, color=GREY)
    axis.spines[:].set_visible(False)
    text = wrapped(f"{title}\naccuracy {scores.accuracy:.3f}", int(figure.get_figwidth() / 0.125))
    figure.suptitle(text, x=0.02, ha="left", fontsize=13, fontweight="bold", color=INK)
    write_bar(figure, image, axis, "share of the true class")
    save(figure, path)


def _write_numbers(axis: "Axes", scores: ClassScores, shares: Array, edge: float, font: float) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": font}
    for i, row in enumerate(scores.confusion):
        for j, number in enumerate(row):
            if number:
                axis.text(j, i, f"{number}", color="white" if shares[i, j] > 0.5 else INK, **style)
    for i, (recall, precision) in enumerate(zip(scores.recall, scores.precision, strict=True)):
        axis.text(edge, i, f"{recall:.2f}", color=GREY, **style)
        axis.text(i, edge, f"{precision:.2f}", color=GREY, **style)


def _short(name: str) -> str:
    """Both ends of it, as names that begin alike may end differently."""
    end = _MAX_NAME // 2
    return plain(name if len(name) <= _MAX_NAME else f"{name[:end]}…{name[-end:]}")
