"""The name that a person probably meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate most like `name`, letter case aside; None when none is close."""
    by_lower_case = {candidate.lower(): candidate for candidate in candidates}
    close = get_close_matches(name.lower(), by_lower_case, n=1)
    return by_lower_case[close[0]] if close else None


def suggest(name: str, candidates: Iterable[str]) -> str:
    """`"; did you mean X?"` for the nearest candidate, or `""`: the end of an error message."""
    near = nearest(name, candidates)
    return f"; did you mean {near}?" if near else ""
