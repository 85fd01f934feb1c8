"""`graftwork validate`: parity and returns against Stable-Baselines3."""

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .record import AgainstSB3, ComparisonRecord

app = typer.Typer(
    help="Compare with Stable-Baselines3 (extra sb3).",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


class Against(StrEnum):
    """Libraries that returns are compared with."""

    sb3 = "sb3"


# Whatever imports torch, which takes seconds, is imported inside a command: --help is instant.


@app.command()
def parity(
    seeds: Annotated[int, typer.Option(help="Seeds 0 and up.")] = 3,
    steps: Annotated[int, typer.Option(help="Environment steps of each run of DQN.")] = 20_000,
    out: Annotated[
        Path | None, typer.Option(help="Directory that parity.csv is written to; none if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train both sides from equal weights on equal random numbers: the weights must end equal, bit for bit.

    The exit status is 1 where they do not.
    """
    from .parity import run

    report = run(seeds, steps, out, _say)
    print(json.dumps(report.record()) if as_json else report)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def returns(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="As `list` names it, or a declared comparison.")],
    seeds: Annotated[
        int | None,
        typer.Option(help="How many, 3 at least; as many as were declared if not given."),
    ] = None,
    against: Annotated[Against, typer.Option(help="The other library.")] = Against.sb3,
    jobs: Annotated[int | None, typer.Option(help="Processes at a time; all cores if not given.")] = None,
    runs: Annotated[Path, typer.Option(help="Where the runs go, and are found again.")] = Path("runs/validation"),
    out: Annotated[Path, typer.Option(help="Where returns/NAME.csv and .json go.")] = Path("docs/validation"),
    range_: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="RANDOM BEST", help="Returns that count as 0 and 1, where none are declared."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train both sides on many seeds and compare their final returns; the exit status is 1 if ours are worse.

    Runs of this command that were interrupted go on where they stopped.
    """
    from ..configs import validate
    from .comparison import ScoreRange, find
    from .returns import run

    bounds = None if range_ is None else validate(ScoreRange, {"random": range_[0], "best": range_[1]}, "--range")
    comparison = find(preset, bounds)
    span = "" if range_ is None else f" --range {range_[0]!r} {range_[1]!r}"
    record = run(
        comparison,
        comparison.seeds if seeds is None else seeds,
        jobs=jobs,
        runs=runs,
        out=out / "returns",
        command=f"graftwork validate returns {shlex.quote(preset)} --against {against.value}{span}",
        say=_say,
    )
    print(json.dumps(record.model_dump(mode="json", by_alias=True)) if as_json else table(record))
    if any(each.verdict == "worse" for each in record.against_sb3.values()):
        raise typer.Exit(1)


def table(record: "ComparisonRecord") -> str:
    """A row for each side, and what was compared above it."""
    header = ("", "seeds", "IQM [95% interval]", "mean", "failed", "area", "steps/s", "MB", "P(better)", "verdict")
    rows = [header]
    for name, result in record.results.items():
        found = record.against_sb3.get(name)
        value, low, high = result.iqm
        chance = "" if found is None else f"{found.probability_of_improvement[0]:.2f}"
        rows.append(
            (
                record.sides[name].title,
                record.seeds_told(result.seeds),
                f"{value:.1f} [{low:.1f}, {high:.1f}]",
                f"{result.mean:.1f}",
                f"{result.failure_rate:.0%}",
                f"{result.area:.1f}",
                f"{result.steps_per_second:,.0f}",
                f"{result.peak_megabytes:.0f}",
                chance,
                "" if found is None else _verdict(found),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    random, best = record.range
    title = f"{record.env}, {record.steps:,} steps, range {random:g} to {best:g}, margin {record.margin:.0%} of it"
    return "\n".join([title, *lines])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _verdict(found: "AgainstSB3") -> str:
    """With the difference in percent of the range, and its 90% interval."""
    value, low, high = (100 * each for each in found.difference)
    reason = f", {found.reason}" if found.reason else ""
    return f"{found.verdict}{reason} {value:+.1f}% [{low:+.1f}, {high:+.1f}]"
