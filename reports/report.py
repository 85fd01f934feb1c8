"""What `graftwork report` makes of runs: pictures, a table of stages, and plain values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from .confusion import draw_confusion
from .curves import draw_curves
from .layers import draw_layers, has_layers
from .read import read_runs
from .records import Record, StagesRecord, TaskRecord
from .stage_table import stage_table


@dataclass(frozen=True)
class Report:
    pictures: tuple[Path, ...]  # curves first
    runs: tuple[dict[str, JsonValue], ...]  # their newest numbers
    table: str  # of stages, if there are any

    def record(self) -> dict[str, JsonValue]:
        pictures: list[JsonValue] = [str(path) for path in self.pictures]
        return {"picture": pictures[0], "pictures": pictures, "runs": list(self.runs)}

    def __str__(self) -> str:
        paths = "\n".join(map(str, self.pictures))
        return f"{self.table}\n\n{paths}" if self.table else paths


def report(run_dirs: Sequence[str | Path], output: Path | None = None) -> Report:
    """Draw the curves of runs; of a single one also its confusion matrices and its layers, in its directory.

    Those of a stage go into the stage's own.

    output: the picture of the curves; None is RUN/curve.png for one run, else curves.png. ValueError names a directory
    that is no run, or has no evaluation yet, before anything is drawn.
    """
    records = read_runs(run_dirs)
    only = records[0] if len(records) == 1 else None
    pictures = [output or (Path("curves.png") if only is None else only.run_dir / "curve.png")]
    draw_curves(records, pictures[0])
    if only is not None:
        for each in only.stages.values() if isinstance(only, StagesRecord) else (only,):
            pictures += _draw_details(each)
    stages = [record for record in records if isinstance(record, StagesRecord)]
    table = stage_table(stages) if stages else ""
    return Report(tuple(pictures), tuple(record.summary() for record in records), table)


def _draw_details(record: Record) -> list[Path]:
    """What can be told of a single run only."""
    paths = []
    if isinstance(record, TaskRecord):
        chosen = record.evaluations[record.chosen]
        heads = [name for name, head in record.schema.heads.items() if not head.is_regression]
        for head in heads:
            paths.append(
                record.run_dir / ("confusion.png" if len(heads) == 1 else f"confusion-{head}.png".replace("/", "_"))
            )
            title = f"{record.data(head)}: {head}, {chosen.part} at epoch {chosen.epoch:g}"
            draw_confusion(record.class_scores(head), title, paths[-1])
    if has_layers(record):
        paths.append(record.run_dir / "layers.png")
        draw_layers(record, paths[-1])
    return paths
