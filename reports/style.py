"""How every picture looks, and how it gets into its file."""

import os
import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from .records import Array

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    Drawn: TypeAlias = dict[str, Artist | tuple[Artist, ...]]  # by what a legend says of it

COLOURS = ("#2463eb", "#e0621a", "#0e9373", "#a336b8", "#b3861b", "#4b5563")
INK, GREY, PALE = "#1f2430", "#5f6673", "#e6e8ec"
_HEAT = ("#f7faff", "#c9dafc", "#7ba3f5", "#2463eb", "#143a94", "#0a1c4a")  # from low to high


@dataclass(frozen=True)
class Panel:
    title: str
    x: str
    y: str
    draw: "Callable[[Axes], None]"


def blank(width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    # Figure, not pyplot: no window, and no state of the process's that a caller's own pictures could meet.
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.06)  # inches, then shares
    return Figure(figsize=(width, height), facecolor="white", layout=layout)


def check_target(path: Path) -> None:
    """Raise ValueError if there can be no file of that name."""
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"{path}: {'is a directory' if path.is_dir() else f'there is no directory {path.parent}'}")


def save(figure: "Figure", path: Path) -> None:
    """Write the picture whole or not at all, in the format that the file's name ends with.

    ValueError if there can be no such file.
    """
    check_target(path)
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        figure.savefig(temporary, dpi=200, format=path.suffix.removeprefix(".") or "png")
        os.replace(temporary, path)
    except ValueError as error:  # a format that does not exist
        raise ValueError(f"{path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def frame(axis: "Axes", panel: Panel) -> None:
    """Title, names of the axes, and a grid that stays behind what it is for."""
    axis.set_facecolor("white")
    write_title(axis, panel.title)
    axis.set_xlabel(panel.x, fontsize=10.5, color=GREY)
    axis.set_ylabel(panel.y, fontsize=10.5, color=GREY)
    axis.set_xlim(left=0)
    axis.locator_params(axis="x", nbins=6, integer=True)
    axis.xaxis.set_major_formatter(lambda step, _: count(step))
    if axis.get_yscale() == "log":
        _place_decades(axis)
    else:
        axis.locator_params(axis="y", nbins=6)
    axis.tick_params(length=0, labelsize=10.5, labelcolor=GREY)
    axis.set_axisbelow(True)
    axis.grid(axis="y", color=PALE)
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.spines["bottom"].set_color(PALE)


def _place_decades(axis: "Axes") -> None:
    from matplotlib.ticker import LogLocator

    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1e3 * low else (1.0,)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.minorticks_off()


def plot_band(
    axis: "Axes", x: Array, values: Array, colour: str, bounds: tuple[Array, Array] | None = None, max_markers: int = 60
) -> "tuple[Artist, ...]":
    """The mean of lines, x [E] and values [runs, E], in a band over their range, or between `bounds`, [E] each."""
    low, high = bounds or (values.min(0), values.max(0))
    band = axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    marker = "o" if len(x) <= max_markers else ""
    return (band, *axis.plot(x, values.mean(0), color=colour, linewidth=2.0, marker=marker, markersize=4.0, zorder=3))


def write_title(axis: "Axes", title: str, width: int = 42) -> None:
    """width: characters that a line has room for."""
    axis.set_title(wrapped(title, width), loc="left", pad=12, fontsize=13, fontweight="bold", color=INK)


# Not one of those in braces, which are of an environment's arguments.
_COLON = re.compile(r": (?![^{]*\})")


def wrapped(title: str, width: int) -> str:
    """In lines of so many characters; one that is too long is broken after its colon first."""
    lines = (line if len(line) <= width else _COLON.sub(":\n", line, count=1) for line in title.splitlines())
    return plain("\n".join(textwrap.fill(part, width) for line in lines for part in line.splitlines()))


def plain(name: str) -> str:
    """To be drawn as it is: in what a user named, dollars are no mathematics, and what begins with _ is not hidden."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def write_legend(axis: "Axes", curves: "Drawn", width: int = 58) -> None:
    """Below the axis, so that it hides nothing. width: characters of a line; longer ones would narrow the axis."""
    from matplotlib.transforms import ScaledTranslation

    inches_below = ScaledTranslation(0, -0.55, axis.figure.dpi_scale_trans)
    axis.legend(
        list(curves.values()),
        [plain(textwrap.fill(label, width)) for label in curves],
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axis.transAxes + inches_below,
        borderpad=0,
        borderaxespad=0,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
    )


def heat_colours() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", _HEAT)


def signed_colours() -> "Colormap":
    """White at zero, in the middle."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", (COLOURS[1], "#ffffff", COLOURS[0]))


def write_bar(
    figure: "Figure", image: "ScalarMappable", axis: "Axes", label: str = "", *, is_log10: bool = False
) -> None:
    """What the colours of a heat map stand for, beside it."""
    height = min(0.8, 3.0 / figure.get_figheight())  # three inches at most
    bar = figure.colorbar(image, ax=axis, aspect=20, shrink=height, anchor=(0, 1), pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label, fontsize=9.5, color=GREY)
    if is_log10:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{10**value:.2g}")
    bar.ax.tick_params(length=0, labelsize=9, labelcolor=GREY)


def count(step: float) -> str:
    """`50k`, `1.5M`."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if step >= size:
            return f"{step / size:g}{unit}"
    return f"{step:g}"
