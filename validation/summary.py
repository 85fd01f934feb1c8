"""What the runs of a comparison come to: its record, of all seeds that every side has."""

from collections.abc import Mapping
from statistics import fmean, median

import numpy as np

from .comparison import Comparison, Side
from .job import Result, machine, versions
from .record import (
    AgainstSB3,
    ComparisonRecord,
    Interval,
    Machine,
    Point,
    Row,
    SideName,
    SideResult,
    SideSettings,
)
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


def record(
    comparison: Comparison,
    sides: Mapping[SideName, Side],
    results: Mapping[tuple[SideName, int], Result],
    earlier: ComparisonRecord | None,
    command: str,
) -> ComparisonRecord:
    """results: by side and seed; earlier: what was written before, whose rows stay. Too few seeds have no intervals."""
    rows = {(row.side, row.seed): row for row in ([] if earlier is None else earlier.rows)}
    points = {key: [point for point in earlier.points if (point.side, point.seed) == key] for key in rows if earlier}
    for key, result in results.items():
        rows[key], points[key] = _row(comparison, sides[key[0]], result), _points(result)
    complete = {seed for _, seed in rows if all((side, seed) in rows for side in sides)}
    kept = [(side, seed) for side in sides for seed in sorted(complete)]
    chosen = {side: [rows[key] for key in kept if key[0] == side] for side in sides}
    enough = len(complete) >= FEWEST_SEEDS
    random, best = comparison.range.random, comparison.range.best
    return ComparisonRecord(
        name=comparison.name,
        preset=comparison.preset,
        baseline=sides["sb3"].title,
        env=sides["sb3"].config.env.id,
        steps=comparison.steps,
        range=(random, best),
        margin=comparison.margin,
        command=command,
        notes=comparison.notes,
        sides={
            name: SideSettings(title=side.title, settings=side.settings, digest=side.digest)
            for name, side in sides.items()
        },
        versions=_versions(results, earlier),
        machine=_machine(results, earlier),
        results={name: _side_result(own) for name, own in chosen.items()} if enough else {},
        against_sb3={
            name: _against(comparison, own, chosen["sb3"]) for name, own in chosen.items() if enough and name != "sb3"
        },
        rows=tuple(rows[key] for key in kept),
        points=tuple(point for key in kept for point in points[key]),
    )


def _row(comparison: Comparison, side: Side, result: Result) -> Row:
    job, trained = result.job, result.trained
    return Row(
        side=job.side,
        seed=job.seed,
        steps=trained.steps,
        final=round(trained.final, 4),
        area=round(fmean(return_ for _, return_ in trained.curve), 4),
        failed=comparison.range.is_failure(trained.final),
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


def _side_result(rows: list[Row]) -> SideResult:
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


def _against(comparison: Comparison, rows: list[Row], others: list[Row]) -> AgainstSB3:
    own, their = (_scores(comparison, each) for each in (rows, others))
    found = difference(own, their, generator=_generator())
    chance = interval(probability_of_improvement, own, their, generator=_generator())
    return AgainstSB3(
        difference=_plain(found),
        probability_of_improvement=_plain(chance),
        verdict=verdict(found, comparison.margin),
    )


def _scores(comparison: Comparison, rows: list[Row]) -> Array:
    """As shares of the range, [S, 1]."""
    random, best = comparison.range.random, comparison.range.best
    return np.array([[(row.final - random) / (best - random)] for row in rows])


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
    return {package: ", ".join(all_) for package, all_ in found.items()} or versions()


def _machine(results: Mapping[tuple[SideName, int], Result], earlier: ComparisonRecord | None) -> Machine:
    """What trained them; where there were several machines, the processors of all and the cores of the last."""
    machines = [*([] if earlier is None else [earlier.machine]), *(result.machine for result in results.values())]
    if not machines:
        return machine()
    names = dict.fromkeys(name for each in machines for name in each.processor.split("; "))
    return machines[-1].model_copy(update={"processor": "; ".join(names)})
