"""What a workload came to, as a file: its settings, every run, what was left out, and what it all depends on."""

import csv
import dataclasses
import datetime
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .clock import Metrics
from .processes import Outcome
from .settings import Device
from .workloads import Scale, Workload

INFINITE = float("inf")
FOLDER = machine.ROOT / "docs" / "results" / "bench"


@dataclass(frozen=True)
class Record:
    name: str
    title: str
    note: str
    scale: str
    goal: str
    repeats: int
    fill: float  # seconds that ours had before to compile
    base: str
    axis: str
    command: str
    date: str
    commit: str
    device: str
    hardware: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, dict[str, object]]  # by side
    points: dict[str, tuple[str, int]]  # series and x of a side, in a workload that is a curve
    runs: dict[str, list[Metrics]]
    warm_ups: dict[str, Metrics]
    left_out: dict[str, str]


def record(
    name: str, found: Workload, outcome: Outcome, scale: Scale, device: Device, repeats: int, fill: float
) -> Record:
    target = {Scale.FULL: "bench", Scale.QUICK: "bench-quick", Scale.TINY: "bench-quick"}[scale]
    if name.startswith("gpu-"):
        target = "bench-gpu"
    return Record(
        name=name,
        title=found.title,
        note=found.note,
        scale=scale.value,
        goal=found.goal,
        repeats=repeats,
        fill=fill,
        base=found.base,
        axis=found.axis,
        command=f'make {target} ONLY="{name}"',
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        commit=machine.commit(),
        device=device,
        hardware=machine.hardware(device),
        versions=machine.versions(),
        settings={side: dataclasses.asdict(what.settings) for side, what in found.sides.items()},
        points={side: (what.series, what.x) for side, what in found.sides.items() if what.x is not None},
        runs=outcome.runs,
        warm_ups=outcome.warm_ups,
        left_out=outcome.left_out,
    )


def write(folder: Path, found: Record) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found.name}.json"
    path.write_text(json.dumps(_rounded(dataclasses.asdict(found)), indent=1) + "\n", encoding="utf-8")
    return path


def read_all(folder: Path) -> dict[str, Record]:
    """By workload."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        plain = json.loads(path.read_text(encoding="utf-8"))
        plain["points"] = {side: (series, x) for side, (series, x) in plain["points"].items()}
        found[path.stem] = Record(**plain)
    return found


def write_summary(folder: Path, found: Mapping[str, Record]) -> None:
    """summary.csv: of each metric of each side the median, lowest and highest; what was not reached is empty."""
    with (folder / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("workload", "scale", "side", "metric", "runs", "median", "lowest", "highest"))
        for name, record in found.items():
            for side, runs in record.runs.items():
                for metric in dict.fromkeys(metric for run in runs for metric in run):
                    values = [value for run in runs if (value := run.get(metric)) is not None]
                    spread = (min(values), max(values)) if values else ("", "")
                    middle = median(runs, metric)
                    count = (name, record.scale, side, metric, len(runs))
                    rows.writerow((*count, "" if middle is None else _rounded(middle), *spread))


def median(runs: list[Metrics], metric: str) -> float | None:
    """None unless more than half of the runs have it: one that did not get there counts as the slowest."""
    if all(metric not in run for run in runs):
        return None
    values = [INFINITE if (value := run.get(metric)) is None else value for run in runs]
    middle = statistics.median(values)
    return None if middle == INFINITE else middle


def _rounded(value: object) -> object:
    """To five digits, which is more than is known."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list | tuple) else value
