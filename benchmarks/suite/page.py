"""docs/benchmarks.md, from the records that there are."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from .clock import Metrics
from .records import Record, median
from .sweeps import CPU_SWEEPS, GPU_SWEEPS
from .table import REQUIREMENTS, cost_of, times_as_good, verdict
from .workloads import OURS, WORKLOADS

OPENING = """\
# Benchmarks

Speed beside other libraries, on one machine and in one run. This page is written by the command that measures:

```sh
make bench          # all but the GPU: hours
make bench-quick    # shorter runs, and fewer: ten minutes
make bench-gpu      # native environments on a CUDA device
make bench ONLY="dqn-zoo start"
```

It installs what it needs into `.venv-bench`, constrained. A peer that does not install, or does not run, is left out,
and said to be. The files behind the tables, with every run and setting, are in [results/bench](results/bench).

- **Every run is a process of its own**, on one thread, the sides in turn, so that a drift of the machine's speed meets
  all. The first run of each is not counted; with quick lengths other libraries' first ends at the first step.
- **What is compiled** is kept between the runs of a workload, in a folder that begins empty. Where it says "compiled by
  an earlier run", ours was trained before until everything was compiled, for two minutes at most; elsewhere it compiles
  if it finds, within the run's own length, that this pays.
- **graftwork runs as `graftwork train` does**, with its metrics, receipt and checkpoints; the others run as their
  documentation has it, without logging or saving. Hyper-parameters are equal; where a library cannot be told one, it is
  said.
- **Steps/s with learning** count from the environment step at which learning begins to the end, evaluations taken out
  on every side. What is compiled after that step is compiled within this time, and what is compiled before it within
  the time to the first step.
- **Seconds** count from when the process was started. Of native environments the first step is noticed only at the end
  of the first iteration, with its update. Memory is the most that was resident.
- **Greedy return** is of ten episodes at the end. It shows that something is learnt; runs this short say no more.
"""

COLUMNS = {  # metric: heading, digits
    "steps_per_second": ("steps/s with learning", 0),
    "updates_per_second": ("updates/s", 0),
    "solved_seconds": ("seconds to solved", 1),
    "first_step_seconds": ("seconds to the first step", 2),
    "total_seconds": ("seconds to the end", 1),
    "peak_megabytes": ("peak MB", 0),
    "final_return": ("greedy return", 1),
    "microseconds": ("microseconds", 1),
    "megabytes": ("MB of the buffer", 1),
    "copy_gigabytes_per_second": ("copy, GB/s", 0),
    "product_teraflops": ("product, TFLOP/s", 2),
}


def write(path: Path, records: Mapping[str, Record], pictures: Mapping[str, Path]) -> None:
    """pictures: by the workload whose section shows it, or by `overview`."""
    parts = [OPENING, *_requirements(records)]
    if "overview" in pictures:
        parts.append(_picture("Steps a second of every side", path, pictures["overview"]))
    for name in WORKLOADS:
        if name in records:
            parts += [f"## {records[name].title}\n", *_section(records[name])]
    if any(name in records for name in CPU_SWEEPS):
        parts.append("## Scaling\n\nWhat an environment step or an update costs as one size grows, ours alone.\n")
        if "scaling" in pictures:
            parts.append(_picture("Cost against sizes", path, pictures["scaling"]))
        for name in CPU_SWEEPS:
            if name in records:
                parts += [f"### {records[name].title}\n", *_curve(records[name])]
    parts += _gpu(path, records, pictures)
    parts += _versions(records)
    path.write_text("\n".join(parts), encoding="utf-8")


def _requirements(records: Mapping[str, Record]) -> Iterator[str]:
    yield "## What it must reach\n"
    yield "| what | against | required | reached | |\n|---|---|---|---|---|"
    for wanted in REQUIREMENTS:
        found = verdict(wanted, records)
        against = "the fastest other" if wanted.against.endswith("*") else wanted.against
        yield f"| {wanted.what} | {against} | {found.required} | {found.reached} | {found.answer} |"
    yield ""


def _section(record: Record) -> Iterator[str]:
    if record.note:
        yield f"{record.note}\n"
    yield f"{_said(record)}\n"
    if record.name == "replay":
        yield from _replay(record)
    elif record.runs:
        metrics = [
            metric for metric in COLUMNS if any(_median(record, side, metric) is not None for side in record.runs)
        ]
        compared = next((m for m in ("steps_per_second", "solved_seconds", "first_step_seconds") if m in metrics), None)
        ours_is_base = record.base.startswith(OURS)
        heading = f"{record.base} is" if ours_is_base else f"against {record.base}"
        headings = [*(COLUMNS[metric][0] for metric in metrics), *([heading] if compared else [])]
        yield f"| | {' | '.join(headings)} |\n|---{'|---' * len(headings)}|"
        for side in record.runs:
            cells = [_number(_median(record, side, metric), COLUMNS[metric][1]) for metric in metrics]
            if compared:
                cells.append(_compared(record, side, compared, ours_is_base))
            yield f"| {side} | {' | '.join(cells)} |"
        yield ""
    yield from _left_out(record)


def _compared(record: Record, side: str, metric: str, ours_is_base: bool) -> str:
    base, value = _median(record, record.base, metric), _median(record, side, metric)
    if side == record.base or base is None or value is None:
        return ""
    if ours_is_base:
        return f"{times_as_good(metric, base, value):.2f}x as fast"
    return f"{times_as_good(metric, value, base):.2f}x"


def _replay(record: Record) -> Iterator[str]:
    yield "| batch | buffer | microseconds | graftwork is | MB of the buffer |\n|---|---|---|---|---|"
    for label in record.runs:
        case, _, buffer = label.partition(": ")
        ours, value = _median(record, f"{case}: {OURS}", "microseconds"), _median(record, label, "microseconds")
        ratio = "" if buffer == OURS or not ours or not value else f"{value / ours:.2f}x as fast"
        cells = [_number(value, 1), ratio, _number(_median(record, label, "megabytes"), 1)]
        yield f"| {case if buffer == OURS else ''} | {buffer} | {' | '.join(cells)} |"
    yield ""


def _curve(record: Record) -> Iterator[str]:
    """A row for each x: steps a second of each series, and what a step or an update takes."""
    if record.note:
        yield f"{record.note}\n"
    yield f"{_said(record)}\n"
    series = list(dict.fromkeys(name for name, _ in record.points.values()))
    xs = sorted({x for _, x in record.points.values()})
    sides = {point: side for side, point in record.points.items() if side in record.runs}
    cost, unit = cost_of(record)
    headings = [f"{name}: {heading}" for name in series for heading in ("steps/s", unit)]
    yield f"| {record.axis} | {' | '.join(headings)} |\n|---{'|---' * len(headings)}|"
    for x in xs:
        cells = []
        for name in series:
            side = sides.get((name, x), "")
            rate = _median(record, side, cost)
            cells += [_number(_median(record, side, "steps_per_second"), 0), _number(1e6 / rate if rate else None, 2)]
        yield f"| {x:,} | {' | '.join(cells)} |"
    yield ""
    yield from _left_out(record)


def _gpu(path: Path, records: Mapping[str, Record], pictures: Mapping[str, Path]) -> Iterator[str]:
    yield "## On a GPU\n"
    if not any(name in records for name in GPU_SWEEPS):
        yield "Not measured yet: `make bench-gpu` needs a CUDA device, and writes its tables here.\n"
        return
    if "gpu" in pictures:
        yield _picture("Steps a second against the number of environments", path, pictures["gpu"])
    for name in GPU_SWEEPS:
        if name in records:
            record = records[name]
            yield f"### {record.title}\n"
            if name == "gpu-profile":
                yield from _profile(record, records.get("gpu-limits"))
            else:
                yield from _curve(record) if record.points else _section(record)


def _profile(record: Record, limits: Record | None) -> Iterator[str]:
    yield f"{record.note}\n\n{_said(record)}\n"
    most: Metrics = {}
    if limits is not None:
        most = {name: median(runs, name) for runs in limits.runs.values() for name in runs[0]}
    names = dict.fromkeys(name for runs in record.runs.values() for name in runs[0])
    shares = [name for name in names if name.startswith("share: ")]
    headings = ["busy", "GB/s", "of a copy's", "TFLOP/s", "of a product's", *(name[7:] for name in shares)]
    yield f"| | {' | '.join(headings)} |\n|---{'|---' * len(headings)}|"
    for side in record.runs:
        found = {name: _median(record, side, name) for name in record.runs[side][0]}
        cells = [_share(found.get("busy"))]
        for name, limit, digits in (
            ("gigabytes_per_second", "copy_gigabytes_per_second", 2),
            ("teraflops", "product_teraflops", 4),
        ):
            value, top = found.get(name), most.get(limit)
            cells += [_number(value, digits), _share(value / top if value and top else None)]
        yield f"| {side} | {' | '.join([*cells, *(_share(found.get(name)) for name in shares)])} |"
    yield ""
    yield from _left_out(record)


def _left_out(record: Record) -> Iterator[str]:
    for side, why in record.left_out.items():
        yield f"- {side} is left out: {why}."
    if record.left_out:
        yield ""


def _said(record: Record) -> str:
    runs = f"medians of {record.repeats} runs" if record.repeats > 1 else "one run"
    hardware = ", ".join(
        [record.hardware["processor"], f"{record.hardware['cores']} cores", f"load {record.hardware['load']}"]
        + ([record.hardware["gpu"]] if "gpu" in record.hardware else [])
    )
    length = "" if record.scale == "full" else f", {record.scale} lengths"
    compiled = ", compiled by an earlier run" if record.fill else ""
    return (
        f"`{record.command}`: {runs}{length}{compiled}, on {record.date} at {record.commit or 'no commit'}; {hardware}."
    )


def _versions(records: Mapping[str, Record]) -> Iterator[str]:
    yield "## Versions\n"
    sets: dict[str, list[str]] = {}
    for name, record in records.items():
        line = ", ".join(f"{package} {version}" for package, version in record.versions.items())
        sets.setdefault(line, []).append(name)
    for line, names in sets.items():
        yield f"{line}." if len(sets) == 1 else f"- {', '.join(names)}: {line}."
    yield ""


def _picture(alt: str, page: Path, picture: Path) -> str:
    return f"![{alt}]({picture.relative_to(page.parent).as_posix()})\n"


def _median(record: Record, side: str, metric: str) -> float | None:
    return median(record.runs[side], metric) if side in record.runs else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
