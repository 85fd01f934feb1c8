"""What each stage of a run began with and came to, a line each."""

from collections.abc import Sequence

from .config import GraftConfig
from .groups import Group, grouped
from .records import AgentRecord, Record, StagesRecord, source_of

_HEADER = ("stage", "grafted from", "frozen", "seeds", "trained", "result")


def stage_table(runs: Sequence[StagesRecord]) -> str:
    """Over all runs that have a stage, the mean of its result and from where to where it goes; aligned columns."""
    groups = grouped([record for run in runs for record in run.stages.values()])
    begun = {group.records[0].stage for group in groups}
    missing = dict.fromkeys(name for run in runs for name in run.config.stages if name not in begun)
    rows = [_HEADER, *map(_row, groups), *((name, "", "", "0", "not yet", "") for name in missing)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(group: Group[Record]) -> tuple[str, ...]:
    first = group.records[0]
    source = source_of(first.config, first.run_dir)
    unit = "steps" if isinstance(first, AgentRecord) else "epochs"
    lengths = [record.step[-1] if isinstance(record, AgentRecord) else record.epoch[-1] for record in group.records]
    length = " to ".join(dict.fromkeys(f"{each:,.0f}" for each in (min(lengths), max(lengths))))
    so_far = "" if all(record.is_done for record in group.records) else " so far"
    return (
        group.label,
        "-" if source is None else source.name,
        _frozen(first.config.graft, unit),
        str(len(group.records)),
        f"{length} {unit}{so_far}",
        _result(group.records),
    )


def _frozen(graft: GraftConfig, unit: str) -> str:
    if isinstance(graft.freeze, int):
        what = f"{graft.freeze} block{'s' if graft.freeze > 1 else ''}" if graft.freeze else "-"
    else:
        what = graft.freeze if isinstance(graft.freeze, str) else ", ".join(graft.freeze)
    notes = [] if graft.unfreeze_period is None else [f"one less every {graft.unfreeze_period:,} {unit}"]
    notes += [] if graft.rate_decay == 1.0 else [f"rates x {graft.rate_decay:g} a block"]
    return ", ".join([what, *notes])


def _result(records: Sequence[Record]) -> str:
    """Of the weights that a stage hands on: where it looked for them, those of the lowest loss."""
    first = records[0]
    if isinstance(first, AgentRecord):
        return "return " + _spread([record.mean[-1] for record in records if isinstance(record, AgentRecord)], 1)
    tasks = [record for record in records if not isinstance(record, AgentRecord)]
    part = first.evaluations[first.chosen].part
    told = (
        f"{head} {first.metric(head)} {_spread([t.scores(head)[t.chosen] for t in tasks], 3)}"
        for head in first.schema.heads
    )
    return f"{part} {', '.join(told)}"


def _spread(values: Sequence[float], digits: int) -> str:
    mean, low, high = (f"{each:.{digits}f}" for each in (sum(values) / len(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({low} to {high})"
