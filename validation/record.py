"""The files of a comparison, returns/NAME.{json,csv} and NAME-curves.csv: written whole, read with care.

NAME.csv has a row for each side and seed, NAME-curves.csv one for each evaluation along the way, NAME.json everything
that was declared, the settings of each side, and what the rows come to.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import Field, model_validator

from ..configs import Tree, validate
from ..configs.config import Config
from ..configs.yaml_text import one_line
from ..training.durable import make_directory, write_text
from .settings import Settings, digest
from .statistics import Verdict

SideName: TypeAlias = Literal["equal", "preset", "sb3"]
"""Ours at the settings of SB3's side, ours as the preset is, and SB3's."""

Interval: TypeAlias = tuple[float, float, float]
"""Value, lower and upper bound."""

Count: TypeAlias = Annotated[int, Field(ge=0)]

# Of each side, for a verdict. The bootstrap of few seeds is too sure of itself. Simulated, where 5% is meant: of 3
# seeds 12% are better and 12% worse though nothing differs, and 12% equivalent though the difference is the margin;
# of 4 it is 6%, 5% and 4%, of 5 it is 6%, 6% and 5%, of 20 it is 5.5%, 4.8% and 4.7%.
VERDICT_SEEDS = 5


class Row(Config):
    """What one training run of one side came to."""

    side: SideName
    seed: Count
    steps: Count  # environment steps, of the last batch's end
    final: float  # mean undiscounted return of fresh greedy episodes with the weights of the last step
    area: float  # mean of the evaluations along the way
    failed: bool  # as is_failure
    seconds: float  # of training, evaluations left out
    steps_per_second: float
    peak_megabytes: float  # of the process, of SB3's with our evaluation in it
    settings: str  # digest of the side's


class Point(Config):
    """One evaluation along the way."""

    side: SideName
    seed: Count
    step: Count
    return_: Annotated[float, Field(alias="return")]


Kind = TypeVar("Kind", Row, Point)


class SideSettings(Config):
    title: str
    settings: Settings  # everything that defines the side, but for the seed
    digest: str

    @model_validator(mode="after")
    def _digest_is_theirs(self) -> "SideSettings":
        if self.digest != digest(self.settings):
            raise ValueError(f"digest={self.digest}: that of the settings beside it is {digest(self.settings)}")
        return self


class SideResult(Config):
    """Over the seeds of a side; in units of return where nothing else is said."""

    seeds: Count
    iqm: Interval  # interquartile mean of the final returns, with its 95% interval
    mean: float
    failure_rate: float
    area: float
    steps_per_second: float  # median, as the next
    peak_megabytes: float


class AgainstSB3(Config):
    """A side's final scores less those of SB3's, as shares of the range."""

    difference: Interval  # of the interquartile means, with its 90% interval
    probability_of_improvement: Interval  # with its 95% interval
    verdict: Verdict
    reason: str = ""  # that it is undecided whatever the difference


class Hardware(Config):
    processor: str
    cores: Count
    threads: Count  # of torch, in each process


class ComparisonRecord(Config):
    name: str
    preset: str
    baseline: str  # what SB3's side is
    env: str
    steps: Count
    range: tuple[float, float]  # returns that count as 0 and as 1
    margin: Annotated[float, Field(gt=0)]  # of equivalence, as a share of the range
    declared_seeds: Count  # of each side, that the verdict is of; there may be fewer, or more
    command: str  # that makes it again
    notes: str = ""  # how the sides differ beyond their settings
    sides: dict[SideName, SideSettings]
    versions: dict[str, str]
    machine: Hardware
    results: dict[SideName, SideResult] = Field(default_factory=dict)  # empty while there are too few seeds
    against_sb3: dict[SideName, AgainstSB3] = Field(default_factory=dict)
    rows: Annotated[tuple[Row, ...], Field(exclude=True)] = ()
    points: Annotated[tuple[Point, ...], Field(exclude=True)] = ()

    @model_validator(mode="after")
    def _can_be_compared(self) -> "ComparisonRecord":
        if "sb3" not in self.sides:
            raise ValueError(f"sides={','.join(self.sides)}: must have sb3, which the others are compared with")
        if not self.range[0] < self.range[1]:
            raise ValueError(f"range={[*self.range]}: the second must be above the first")
        return self

    @property
    def seeds(self) -> list[int]:
        """Those that every side has."""
        found = [{row.seed for row in self.rows if row.side == side} for side in self.sides]
        return sorted(set.intersection(*found)) if found else []

    def score(self, return_: float) -> float:
        """As a share of the range."""
        random, best = self.range
        return (return_ - random) / (best - random)

    def seeds_told(self, seeds: int) -> str:
        """How many there are, and of how many."""
        if seeds > self.declared_seeds:
            return f"{seeds} (declared: {self.declared_seeds})"
        return str(seeds) if seeds == self.declared_seeds else f"{seeds} of {self.declared_seeds}"


def is_failure(return_: float, random: float, best: float) -> bool:
    """In the lower half of the range, where most of the task is not learnt."""
    return return_ < (random + best) / 2


def write(directory: Path, record: ComparisonRecord) -> None:
    """The three files of `record`, each whole or not at all."""
    make_directory(directory)
    write_text(directory / f"{record.name}-curves.csv", _table(Point, record.points))
    write_text(directory / f"{record.name}.csv", _table(Row, record.rows))
    text = json.dumps(record.model_dump(mode="json", by_alias=True), indent=1, allow_nan=False)
    write_text(directory / f"{record.name}.json", text + "\n")


def read(directory: Path, name: str) -> ComparisonRecord:
    """A comparison with its rows; ValueError in one line for a file that is damaged, missing, or of other settings.

    Whether `results` and `against_sb3` are what the rows come to, summary.check says.
    """
    record = _record(directory / f"{name}.json")
    rows = _read_table(directory / f"{name}.csv", Row)
    points = _read_table(directory / f"{name}-curves.csv", Point)
    if record.name != name:
        raise ValueError(f"{directory / name}.json: is of {record.name}; a comparison keeps its name")
    _check_rows(directory / f"{name}.csv", record, rows)
    _check_points(directory / f"{name}-curves.csv", f"{name}.csv", rows, points)
    return record.model_copy(update={"rows": tuple(rows), "points": tuple(points)})


def read_all(directory: Path) -> tuple[ComparisonRecord, ...]:
    """Every comparison in `directory`, by name; ValueError as `read`."""
    return tuple(read(directory, path.stem) for path in sorted(directory.glob("*.json")))


def _record(path: Path) -> ComparisonRecord:
    try:
        tree: Tree = json.loads(_text(path))
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON; the file was altered or damaged") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: must hold a JSON object; the file was altered or damaged")
    return validate(ComparisonRecord, tree, str(path))


def _check_rows(path: Path, record: ComparisonRecord, rows: Sequence[Row]) -> None:
    seen: set[tuple[str, int]] = set()
    for row in rows:
        place = f"{path}: {row.side}, seed {row.seed}"
        if row.side not in record.sides:
            raise ValueError(f"{place}: {path.stem}.json has no such side, only {', '.join(record.sides)}")
        if row.settings != record.sides[row.side].digest:
            raise ValueError(
                f"{place} was run with settings {row.settings}, {path.stem}.json with {record.sides[row.side].digest}: "
                "rows of two settings are no comparison"
            )
        if (row.side, row.seed) in seen:
            raise ValueError(f"{place} is there twice")
        if row.failed != is_failure(row.final, *record.range):
            raise ValueError(f"{place} has failed={row.failed:d}, but its final={row.final:g} says otherwise")
        seen.add((row.side, row.seed))


def _check_points(path: Path, table: str, rows: Sequence[Row], points: Sequence[Point]) -> None:
    returns: dict[tuple[SideName, int], list[float]] = {(row.side, row.seed): [] for row in rows}
    for point in points:
        if (point.side, point.seed) not in returns:
            raise ValueError(f"{path}: {point.side}, seed {point.seed} is not in {table}")
        returns[point.side, point.seed].append(point.return_)
    for row in rows:
        own = returns[row.side, row.seed]
        # Both are rounded to four digits.
        if not own or not math.isclose(fmean(own), row.area, rel_tol=1e-9, abs_tol=2e-4):
            mean = f"a mean of {fmean(own):g}" if own else "no evaluation"
            raise ValueError(
                f"{path}: {row.side}, seed {row.seed} has {mean}, but in {table} area={row.area:g}; a file was altered"
            )


def _columns(kind: type[Config]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _table(kind: type[Config], rows: Iterable[Config]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _columns(kind), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = row.model_dump(by_alias=True)
        writer.writerow({name: int(value) if isinstance(value, bool) else value for name, value in values.items()})
    return text.getvalue()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text; the file was altered or damaged") from error


def _read_table(path: Path, kind: type[Kind]) -> list[Kind]:
    columns = _columns(kind)
    try:
        header, *lines = list(csv.reader(io.StringIO(_text(path)))) or [[]]
    except csv.Error as error:
        raise ValueError(f"{path}: is no table; the file was altered or damaged") from error
    if header != columns:
        raise ValueError(f"{path}: columns must be {','.join(columns)}, got {one_line(','.join(header))}")
    rows = []
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(columns):
            raise ValueError(f"{path}: line {number} has {len(cells)} cells in place of {len(columns)}")
        tree: Tree = dict(zip(columns, cells, strict=True))
        rows.append(validate(kind, tree, f"{path}, line {number}"))
    return rows
