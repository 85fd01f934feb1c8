"""Schedules as data: a value that depends on the step alone, so resuming needs no state.

A step, and so `steps`, is of what the learner counts by: environment steps for agents; for supervised learning samples
or, in fractions, epochs, as its config says.
"""

import math
import sys
from abc import abstractmethod
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field

from ..configs.config import Config

Positive = Annotated[float, Field(gt=0)]


class _Schedule(Config):
    @abstractmethod
    def at(self, step: float) -> float: ...

    def extremes(self) -> list[float]:
        """Values that all others lie between; of a monotone schedule, its ends."""
        return [self.at(0), self.at(sys.maxsize)]


class Constant(_Schedule):
    kind: Literal["constant"] = "constant"
    value: float

    def at(self, step: float) -> float:
        return self.value


class Linear(_Schedule):
    """From `start` to `end` over the first `steps` steps, `end` from then on."""

    kind: Literal["linear"] = "linear"
    start: float
    end: float
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: float) -> float:
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


class Exponential(_Schedule):
    """From `start` to `end` by a constant factor a step over the first `steps` steps, then `end`."""

    kind: Literal["exponential"] = "exponential"
    start: Positive
    end: Positive
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: float) -> float:
        return self.start * math.pow(self.end / self.start, min(step / self.steps, 1.0))


class Step(_Schedule):
    """`start`, times `factor` at the end of every `steps` steps."""

    kind: Literal["step"] = "step"
    start: float
    factor: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: float) -> float:
        return self.start * math.pow(self.factor, step // self.steps)


class Cosine(_Schedule):
    """From `start` to `end` along half a cosine over the first `steps` steps, `end` from then on.

    Loshchilov & Hutter 2017, equation 5, without restarts.
    """

    kind: Literal["cosine"] = "cosine"
    start: float
    end: float
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: float) -> float:
        share = (1.0 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2.0
        return share * self.start + (1.0 - share) * self.end


class InverseTime(_Schedule):
    """`start / (1 + step / steps)`: half of `start` after `steps` steps, a third after twice as many.

    Bottou 2012 ("Stochastic Gradient Descent Tricks"), section 5.2, whose 1 / (gamma_0 lambda) is our `steps`.
    """

    kind: Literal["inverse_time"] = "inverse_time"
    start: float
    steps: Annotated[int, Field(gt=0)]

    def at(self, step: float) -> float:
        return self.start / (1.0 + step / self.steps)


def _number_is_constant(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"kind": "constant", "value": value}
    if not isinstance(value, dict | Config):
        raise ValueError(f"must be a number or a schedule with a kind, got {value!r}")
    return value


_Plain: TypeAlias = Constant | Linear | Exponential | Step | Cosine | InverseTime


class Warmup(_Schedule):
    """Evenly from 0 to where `then` begins over the first `steps` steps, and then `then`, from its own beginning.

    Goyal et al. 2017, section 2.2.
    """

    kind: Literal["warmup"] = "warmup"
    steps: Annotated[int, Field(gt=0)]
    then: Annotated[_Plain, Discriminator("kind"), BeforeValidator(_number_is_constant)]

    def at(self, step: float) -> float:
        return self.then.at(max(step - self.steps, 0)) * min(step / self.steps, 1.0)

    def extremes(self) -> list[float]:
        return [0.0, *self.then.extremes()]


Schedule: TypeAlias = Annotated[_Plain | Warmup, Discriminator("kind"), BeforeValidator(_number_is_constant)]
"""A number, or a mapping with `kind`."""


def _bounded(high: float, allowed: str) -> AfterValidator:
    def check(schedule: _Plain | Warmup) -> _Plain | Warmup:
        for value in schedule.extremes():
            if not 0 <= value <= high:
                raise ValueError(f"{allowed}, got {value}")
        return schedule

    return AfterValidator(check)


Rate: TypeAlias = Annotated[Schedule, _bounded(math.inf, "must not be negative")]
Probability: TypeAlias = Annotated[Schedule, _bounded(1.0, "must stay in [0, 1]")]


def crossed(period: int, before: int, after: int) -> bool:
    """A multiple of `period` lies in (before, after]; False if period is 0."""
    return period > 0 and after // period > before // period
