"""Settings of a side: what two have in common, and in what they differ."""

import hashlib
import json
import math
from typing import TypeAlias

from pydantic import JsonValue

from ..configs.yaml_text import one_line

Settings: TypeAlias = dict[str, JsonValue]


def digest(settings: Settings) -> str:
    """12 hex digits that no other settings have."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def first_difference(before: JsonValue, after: JsonValue, path: str = "", *, tolerance: float = 0.0) -> str | None:
    """The first field in which the settings differ, as `agent.discount=0.99, now 0.98`; None where none does.

    tolerance: of numbers, absolute and relative.
    """
    if isinstance(before, dict) and isinstance(after, dict):
        names = [*before, *(name for name in after if name not in before)]
        inner = ((before.get(name), after.get(name), f"{path}.{name}" if path else name) for name in names)
        return next(
            (found for each in inner if (found := first_difference(*each, tolerance=tolerance)) is not None), None
        )
    same = _is_same(before, after, tolerance)
    return None if same else f"{path}={one_line(before)}, now {one_line(after)}"


def _is_same(before: JsonValue, after: JsonValue, tolerance: float) -> bool:
    if isinstance(before, list) and isinstance(after, list):
        pairs = zip(before, after, strict=False)
        return len(before) == len(after) and all(_is_same(*pair, tolerance) for pair in pairs)
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, int | float) and isinstance(after, int | float):
        return math.isclose(before, after, rel_tol=tolerance, abs_tol=tolerance)
    return before == after
