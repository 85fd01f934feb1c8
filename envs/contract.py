"""What the engine asks of a vector of environments.

Autoreset is next-step: the row of `terminated | truncated` holds the true final observation, the action given on it is
ignored, and the row after that holds the first observation of the next episode, with `is_first`. So a row t is a
transition exactly if row t + 1 is not first, and no separate final observation exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from .state import StateDict


@dataclass(frozen=True)
class EnvSpec:
    """Shapes and types of one environment's observation and action."""

    id: str
    observation_shape: tuple[int, ...]
    observation_dtype: torch.dtype  # uint8 or float32
    num_actions: int | None  # None unless the action space is Discrete
    action_start: int  # the environment's number for action 0
    action_space: str  # as gymnasium prints it, for messages
    flattened_space: spaces.Space[Any] | None = None  # that observations were flattened from, if they were

    def flat(self, observation: Any) -> Any:
        """The observation as the agent knows it; one of the form that the environment gives is flattened."""
        space = self.flattened_space
        if isinstance(space, spaces.Dict):
            is_own = isinstance(observation, Mapping)
        elif isinstance(space, spaces.Tuple):
            is_own = isinstance(observation, tuple)
        else:  # a discrete one: a number, or an array of numbers where the agent knows more of them
            is_own = space is not None and np.shape(observation) == space.shape != self.observation_shape
        return spaces.flatten(space, observation) if space is not None and is_own else observation

    def discrete(self, agent: str) -> int:
        """Number of actions; ValueError if the action space is not discrete."""
        if self.num_actions is None:
            raise ValueError(
                f"agent.kind={agent} needs a Discrete action space, but env.id={self.id} has {self.action_space}"
            )
        return self.num_actions


class EnvStep(NamedTuple):
    """One row of every environment. B environments."""

    observation: Tensor  # [B, *obs]
    reward: Tensor  # [B] float32, of the action that led here
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    is_first: Tensor  # [B] bool, the observation starts an episode (or the environment rests between two)


@dataclass(frozen=True)
class Episode:
    """A finished episode: undiscounted return and length in steps."""

    return_: float
    length: int


def one_line(value: object) -> str:
    """Its text, for a message: gymnasium prints a space of many bounds over several lines."""
    return " ".join(str(value).split())


class VectorEnv(Protocol):
    """B environments stepped together."""

    spec: EnvSpec
    num_envs: int
    device: torch.device  # of the rows

    def reset(self, episode: int | None = None) -> EnvStep:
        """Begin the next episode of every environment, or the one of that index; each has an address of its own."""

    def step(self, action: Tensor) -> EnvStep:
        """One step of every environment. action: [B]."""

    def finished(self) -> list[Episode]:
        """Episodes that ended since the last call, in order of ending, then of environment."""

    def close(self) -> None: ...

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state: StateDict) -> None: ...
