"""What a run is put together from, whether an agent learns in it or a task."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import nn

from ..engine import Agent, StateDict
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..tasks import Dataset, Model, Schema
from ..training.trainer import Evaluator, Learner, Periods, Source


class NetworkLearner(Learner[Any], Protocol):
    """A learner with a network, which is all that a failure can save of it."""

    @property
    def network(self) -> nn.Module: ...


@dataclass(frozen=True)
class Objects:
    """Parts of the user's own, each in place of what the config would build."""

    env: Callable[[], AnyEnv] | None = None
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None
    encoder: Encoder | None = None
    network: Network[Any] | None = None
    data: Dataset | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


@dataclass(frozen=True)
class Parts:
    """Built, and nothing written yet."""

    title: str  # what learns on what
    source: Source[Any]
    learner: NetworkLearner
    evaluator: Evaluator[Any]
    steps: int  # of the source
    periods: Periods  # in steps of the source
    notes: list[str]  # what a user should know before it starts
    result: Callable[[StateDict], Agent | Model]  # what the run was for, of a trainer's state
    close: Callable[[], None]
    schema: Schema | None = None  # of a task
