"""What each stage of a run began with and came to, a line each."""

from collections.abc import Sequence

from ..runs.config import GraftConfig
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
    unit = "step" if isinstance(first, AgentRecord) else "epoch"
    lengths = [record.step[-1] if isinstance(record, AgentRecord) else record.epoch[-1] for record in group.records]
    shortest = "" if min(lengths) == max(lengths) else f"{min(lengths):,.0f} to "
    so_far = "" if all(record.is_done for record in group.records) else " so far"
    return (
        group.label,
        "-" if source is None else source.name,
        _frozen(first.config.graft, unit),
        str(len(group.records)),
        f"{shortest}{_count(max(lengths), unit)}{so_far}",
        _result(group.records),
    )


def _frozen(graft: GraftConfig, unit: str) -> str:
    told = []
    if isinstance(graft.freeze, int):
        told += [_count(graft.freeze, "block")] if graft.freeze else []
    else:
        told.append(graft.freeze if isinstance(graft.freeze, str) else ", ".join(graft.freeze))
    if told and graft.unfreeze_period is not None:
        told.append(f"one less every {_count(graft.unfreeze_period, unit)}")
    if graft.rate_decay != 1.0:
        told.append(f"rates x {graft.rate_decay:g} a block")
    return ", ".join(told) or "-"


def _count(number: float, unit: str) -> str:
    return f"{number:,.0f} {unit}{'' if number == 1 else 's'}"


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
