"""Schedules as data: a value that depends on the environment step alone, so resuming needs no state."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field

from ..configs.config import Config


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
    """From `start` to `end` by a constant factor a step over the first `steps` environment steps, `end` from then on."""

    kind: Literal["exponential"] = "exponential"
    start: Annotated[float, Field(gt=0)]
    end: Annotated[float, Field(gt=0)]
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: int) -> float:
        return self.start * (self.end / self.start) ** min(step / self.steps, 1.0)


def _number_is_constant(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return {"kind": "constant", "value": value} if is_number else value


Schedule: TypeAlias = Annotated[
    Constant | Linear | Exponential, Discriminator("kind"), BeforeValidator(_number_is_constant)
]
"""A number, or a mapping with `kind`."""


def crossed(period: int, before: int, after: int) -> bool:
    """A multiple of `period` lies in (before, after]; False if period is 0."""
    return period > 0 and after // period > before // period
