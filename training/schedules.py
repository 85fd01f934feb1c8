"""Schedules as data: a value that depends on the environment step alone, so resuming needs no state."""

import math
import sys
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from ..configs.config import Config

Positive = Annotated[float, Field(gt=0)]


class Constant(Config):
    kind: Literal["constant"] = "constant"
    value: float

    def at(self, step: int) -> float:
        return self.value


class Linear(Config):
    """From `start` to `end` over the first `steps` environment steps, `end` from then on."""

    kind: Literal["linear"] = "linear"
    start: float
    end: float
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


class Exponential(Config):
    """From `start` to `end` by a constant factor a step over the first `steps` environment steps, then `end`."""

    kind: Literal["exponential"] = "exponential"
    start: Positive
    end: Positive
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: int) -> float:
        return self.start * math.pow(self.end / self.start, min(step / self.steps, 1.0))


def _number_is_constant(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    if not isinstance(value, dict | Config):
        raise ValueError(f"must be a number or a schedule with a kind, got {value!r}")
    return value


Schedule: TypeAlias = Annotated[
    Constant | Linear | Exponential, Discriminator("kind"), BeforeValidator(_number_is_constant)
]
"""A number, or a mapping with `kind`."""


def _bounded(high: float, allowed: str) -> AfterValidator:
    def check(schedule: Constant | Linear | Exponential) -> Constant | Linear | Exponential:
        # Every kind is monotone: its ends are its extremes.
        for value in (schedule.at(0), schedule.at(sys.maxsize)):
            if not 0 <= value <= high:
                raise ValueError(f"{allowed}, got {value}")
        return schedule

    return AfterValidator(check)


Rate: TypeAlias = Annotated[Schedule, _bounded(math.inf, "must not be negative")]
Probability: TypeAlias = Annotated[Schedule, _bounded(1.0, "must stay in [0, 1]")]


def crossed(period: int, before: int, after: int) -> bool:
    """A multiple of `period` lies in (before, after]; False if period is 0."""
    return period > 0 and after // period > before // period
