"""What the engine asks of a vector of environments.

Autoreset is next-step: the row of `terminated | truncated` holds the true final observation, the action given on it is
ignored, and the row after that holds the first observation of the next episode, with `is_first`. So a row t is a
transition exactly if row t + 1 is not first, and no separate final observation exists.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..spaces import Observation
from .state import StateDict


@dataclass(frozen=True)
class EnvSpec:
    """What one environment observes, and how it is acted on."""

    id: str
    observation_space: gymnasium.Space[Any]  # the environment's own; spaces.leaves says what it looks like as tensors
    num_actions: int | None  # None unless the action space is Discrete
    action_start: int | tuple[int, ...]  # the environment's number for action 0, of each branch if there are branches
    action_space: str  # as gymnasium prints it, for messages
    branches: tuple[int, ...] | None = None  # actions of each branch; None unless the action space is MultiDiscrete
    has_action_mask: bool = False  # each row says which actions are legal
    frame_stack: int = 1  # frames along axis 0 of each leaf of an observation, oldest first

    def discrete(self, agent: str) -> int:
        """Number of actions; ValueError if the action space is not discrete."""
        if self.num_actions is None:
            raise ValueError(
                f"agent.kind={agent} needs a Discrete action space, but env.id={self.id} has {self.action_space}"
            )
        return self.num_actions

    def choices(self, agent: str) -> tuple[int, ...]:
        """Number of actions of each branch, of one if the space is Discrete; ValueError if actions are no choices."""
        if self.branches is not None:
            return self.branches
        if self.num_actions is None:
            raise ValueError(
                f"agent.kind={agent} needs a Discrete or MultiDiscrete action space, "
                f"but env.id={self.id} has {self.action_space}"
            )
        return (self.num_actions,)

    def value_shape(self, agent: str) -> tuple[int, ...]:
        """Of action values: (A,), or (D, A) of D branches, A the actions of the largest. ValueError as `choices`."""
        choices = self.choices(agent)
        return choices if self.branches is None else (len(choices), max(choices))

    @property
    def padding(self) -> Tensor | None:
        """[D, A] bool: the actions that each of D branches has, A the most; None where all have as many."""
        if self.branches is None or len(set(self.branches)) == 1:
            return None
        return torch.arange(max(self.branches)) < torch.tensor(self.branches).unsqueeze(1)

    def action_mask(self, legal: npt.NDArray[np.bool_]) -> Tensor:
        """Legal actions [B, A], of branches one after another, as [B, A] or [B, D, A]; ValueError for another size."""
        choices = self.branches if self.branches is not None else (self.num_actions or 0,)
        if legal.ndim != 2 or legal.shape[1] != sum(choices):
            raise ValueError(
                f"action mask has shape {list(legal.shape)}, but env.id={self.id} with {self.action_space} needs "
                f"[B, {sum(choices)}]"
            )
        mask = torch.from_numpy(legal)
        if self.branches is None:
            return mask
        rows = mask.new_zeros(len(legal), len(choices), max(choices))
        for branch, part in enumerate(torch.split(mask, list(choices), 1)):
            rows[:, branch, : choices[branch]] = part
        return rows


class EnvStep(NamedTuple):
    """One row of every environment. B environments."""

    observation: Observation  # [B, *obs]
    reward: Tensor  # [B] float32, of the action that led here
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool
    is_first: Tensor  # [B] bool, the observation starts an episode (or the environment rests between two)
    action_mask: Tensor | None = None  # [B, A] or [B, D branches, A] bool, legal actions: one at least, of each branch


@dataclass(frozen=True)
class Episode:
    """A finished episode: undiscounted return and length in steps."""

    return_: float
    length: int


class VectorEnv(Protocol):
    """B environments stepped together."""

    spec: EnvSpec
    num_envs: int
    device: torch.device  # of the rows

    def reset(self, episode: int | None = None) -> EnvStep:
        """Begin the next episode of every environment, or the one of that index; each has an address of its own."""

    def step(self, action: Tensor) -> EnvStep:
        """One step of every environment. action: [B], or [B, D] for D branches."""

    def finished(self) -> list[Episode]:
        """Episodes that ended since the last call, in order of ending, then of environment."""

    def close(self) -> None: ...

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state: StateDict) -> None: ...
