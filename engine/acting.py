"""What an agent does with a row of observations."""

from typing import NamedTuple, Protocol

from torch import Tensor

from ..networks.encoder import State
from ..spaces import Observation


class Step(NamedTuple):
    """What an agent does with one row of observations."""

    action: Tensor  # [B], or [B, D] for D branches
    state: State  # after the observation, each [B, ...]
    log_prob: Tensor | None = None  # [B]


class Actor(Protocol):
    """What collects and what evaluates ask of an agent."""

    def initial_state(self, num_envs: int) -> State: ...

    def act(
        self,
        observation: Observation,
        state: State,
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        """observation: [B, *obs]; state: before it; is_first: [B], where the state is reset first.

        action_mask: [B, A] or [B, D, A], the legal actions, None where all are.
        """
