"""What the runs of a comparison come to: its record, of all seeds that every side has."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median

import numpy as np

from .comparison import Comparison, Side
from .job import Result, hardware, versions
from .record import (
    VERDICT_SEEDS,
    AgainstSB3,
    ComparisonRecord,
    Hardware,
    Interval,
    Point,
    Row,
    SideName,
    SideResult,
    SideSettings,
)
from .settings import Settings, first_difference
from .statistics import (
    FEWEST_SEEDS,
    Array,
    difference,
    interquartile_mean,
    interval,
    probability_of_improvement,
    verdict,
)
from .statistics import Interval as Bounds

_BOOTSTRAP_SEED = 0  # the same data give the same intervals
_ROUNDING = 1e-9  # of sums, which another machine may take in another order


def record(
    comparison: Comparison,
    sides: Mapping[SideName, Side],
    results: Mapping[tuple[SideName, int], Result],
    earlier: ComparisonRecord | None,
    command: str,
    num_seeds: int,
) -> ComparisonRecord:
    """results: by side and seed; earlier: what was written before, whose rows stay. Too few seeds have no intervals.

    command: but for the number of seeds; num_seeds: that are asked for.
    """
    rows = {(row.side, row.seed): row for row in ([] if earlier is None else earlier.rows)}
    points = {key: [point for point in earlier.points if (point.side, point.seed) == key] for key in rows if earlier}
    for key, result in results.items():
        rows[key], points[key] = _row(comparison, sides[key[0]], result), _points(result)
    complete = {seed for _, seed in rows if all((side, seed) in rows for side in sides)}
    kept = [(side, seed) for side in sides for seed in sorted(complete)]
    found = ComparisonRecord(
        name=comparison.name,
        preset=comparison.preset,
        baseline=sides["sb3"].title,
        env=sides["sb3"].config.env.id,
        steps=comparison.steps,
        range=(comparison.range.random, comparison.range.best),
        margin=comparison.margin,
        declared_seeds=comparison.seeds,
        command=f"{command} --seeds {max([num_seeds, *(seed + 1 - comparison.first_seed for seed in complete)])}",
        notes=comparison.notes,
        sides={
            name: SideSettings(title=side.title, settings=side.settings, digest=side.digest)
            for name, side in sides.items()
        },
        versions=_versions(results, earlier) or versions(sides["sb3"].config),
        machine=_machine(results, earlier),
        rows=tuple(rows[key] for key in kept),
        points=tuple(point for key in kept for point in points[key]),
    )
    return found.model_copy(update={"results": outcomes(found), "against_sb3": verdicts(found)})


def outcomes(record: ComparisonRecord) -> dict[SideName, SideResult]:
    """What the rows of each side come to; empty while one has too few seeds for an interval."""
    return {side: _side_result(rows) for side, rows in _by_side(record).items()}


def verdicts(record: ComparisonRecord) -> dict[SideName, AgainstSB3]:
    """What the rows of our sides say against SB3's; empty as of outcomes."""
    rows = _by_side(record)
    return {side: _against(record, own, rows["sb3"]) for side, own in rows.items() if side != "sb3"}


def check(path: Path, record: ComparisonRecord) -> None:
    """ValueError if the file, `path`, does not say what its rows come to."""
    told: Settings = record.model_dump(mode="json", include={"results", "against_sb3"})
    again = record.model_copy(update={"results": outcomes(record), "against_sb3": verdicts(record)})
    found: Settings = again.model_dump(mode="json", include={"results", "against_sb3"})
    if (changed := first_difference(told, found, tolerance=_ROUNDING)) is not None:
        raise ValueError(f"{path}: {changed} by the rows of {path.stem}.csv; one of the two was altered")


def _by_side(record: ComparisonRecord) -> dict[SideName, list[Row]]:
    """Empty unless there are intervals."""
    rows = {side: [row for row in record.rows if row.side == side] for side in record.sides}
    return rows if min(map(len, rows.values()), default=0) >= FEWEST_SEEDS else {}


def _row(comparison: Comparison, side: Side, result: Result) -> Row:
    job, trained = result.job, result.trained
    final = round(trained.final, 4)
    return Row(
        side=job.side,
        seed=job.seed,
        steps=trained.steps,
        final=final,
        area=round(fmean(return_ for _, return_ in trained.curve), 4),
        failed=comparison.range.is_failure(final),
        seconds=round(trained.seconds, 2),
        steps_per_second=round(trained.steps_per_second, 1),
        peak_megabytes=round(trained.peak_megabytes, 1),
        settings=side.digest,
    )


def _points(result: Result) -> list[Point]:
    job = result.job
    return [
        Point.model_validate({"side": job.side, "seed": job.seed, "step": step, "return": round(return_, 4)})
        for step, return_ in result.trained.curve
    ]


def _side_result(rows: Sequence[Row]) -> SideResult:
    final = np.array([[row.final] for row in rows])
    return SideResult(
        seeds=len(rows),
        iqm=_plain(interval(interquartile_mean, final, generator=_generator())),
        mean=float(final.mean()),
        failure_rate=fmean(row.failed for row in rows),
        area=fmean(row.area for row in rows),
        steps_per_second=median(row.steps_per_second for row in rows),
        peak_megabytes=median(row.peak_megabytes for row in rows),
    )


def _against(record: ComparisonRecord, rows: Sequence[Row], others: Sequence[Row]) -> AgainstSB3:
    own, their = (_scores(record, each) for each in (rows, others))
    found = difference(own, their, generator=_generator())
    chance = interval(probability_of_improvement, own, their, generator=_generator())
    enough = min(len(own), len(their)) >= VERDICT_SEEDS
    return AgainstSB3(
        difference=_plain(found),
        probability_of_improvement=_plain(chance),
        verdict=verdict(found, record.margin) if enough else "undecided",
        reason="" if enough else f"a verdict needs {VERDICT_SEEDS} seeds",
    )


def _scores(record: ComparisonRecord, rows: Sequence[Row]) -> Array:
    """As shares of the range, [S, 1]."""
    return np.array([[record.score(row.final)] for row in rows])


def _generator() -> np.random.Generator:
    return np.random.default_rng(_BOOTSTRAP_SEED)


def _plain(found: Bounds) -> Interval:
    return found.value, found.low, found.high


def _versions(results: Mapping[tuple[SideName, int], Result], earlier: ComparisonRecord | None) -> dict[str, str]:
    """Of all runs; where there were several, each."""
    found: dict[str, dict[str, None]] = {}
    for each in [*([] if earlier is None else [earlier.versions]), *(result.versions for result in results.values())]:
        for package, version in each.items():
            found.setdefault(package, {}).update(dict.fromkeys(version.split(", ")))
    return {package: ", ".join(all_) for package, all_ in found.items()}


def _machine(results: Mapping[tuple[SideName, int], Result], earlier: ComparisonRecord | None) -> Hardware:
    """What trained them; where there were several machines, the processors of all and the cores of the last."""
    machines = [*([] if earlier is None else [earlier.machine]), *(result.machine for result in results.values())]
    if not machines:
        return hardware()
    names = dict.fromkeys(name for each in machines for name in each.processor.split("; "))
    return machines[-1].model_copy(update={"processor": "; ".join(names)})
