"""What `graftwork validate parity` found, as a section of the page."""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from .markup import Html, chip, element, table
from .parity_rows import ParityRow

_COLUMNS = [*(field.name for field in fields(ParityRow)), "verdict"]


def read_parity(path: Path) -> list[ParityRow]:
    """Empty where there is no such file."""
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")), strict=True)
        names, lines = list(reader.fieldnames or []), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path}: is no table; the file was altered or damaged") from error
    if names != _COLUMNS:
        raise ValueError(f"{path}: columns must be {','.join(_COLUMNS)}, got {','.join(names)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        damaged = f"{path}: line {number} is no row of a check; the file was altered or damaged"
        verdict = line.pop("verdict")
        try:
            row = TypeAdapter(ParityRow).validate_python(line)
        except ValidationError as error:
            raise ValueError(damaged) from error
        if verdict is None:  # the line ends early
            raise ValueError(damaged)
        if row.verdict != verdict:
            raise ValueError(f"{path}: line {number} says {verdict}, but its numbers say {row.verdict}")
        rows.append(row)
    return rows


def parity_section(rows: Sequence[ParityRow]) -> Html:
    """All quantities that were compared, and first whether all are equal."""
    differing = sum(not row.is_equal for row in rows)
    told = f"{differing} of {len(rows)} quantities differ" if differing else f"all {len(rows)} quantities equal"
    bits = "Both sides from the same weights and the same random numbers. A tolerance of 0 asks for the same bits."
    shown = [[*map(_plain, astuple(row)), chip(row.verdict)] for row in rows]
    return element(
        "section",
        element("header", element("h2", "Parity of weights"), chip("differs" if differing else "equal", told)),
        element("p", bits),
        table(_COLUMNS, shown, "nowrap"),
        element("pre", element("code", "graftwork validate parity")),
        id="parity",
    )


def _plain(value: str | int | float) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.2g}"
