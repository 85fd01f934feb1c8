"""The one data type that everything is a function of."""

from dataclasses import dataclass

from torch import Tensor

from ..networks.encoder import State
from ..spaces import Observation


@dataclass(frozen=True)
class Rollout:
    """T steps of B environments, time-major; row t + 1 of `observation` succeeds row t."""

    observation: Observation  # [T+1, B, *obs]
    is_first: Tensor  # [T+1, B] bool, observation[t] starts an episode
    action: Tensor  # [T, B], or [T, B, D] for D branches
    log_prob: Tensor | None  # [T, B] under the behaviour policy, None where no learner asks for it
    reward: Tensor  # [T, B]
    terminated: Tensor  # [T, B] bool
    truncated: Tensor  # [T, B] bool
    state: State  # recurrent state before observation[0], each [B, ...]
    action_mask: Tensor | None = None  # [T+1, B, A] or [T+1, B, D, A] bool, legal actions; None where all always are

    @property
    def valid(self) -> Tensor:
        """[T, B] bool: the row is a transition, not the filler between two episodes."""
        return self.is_first[1:].logical_not()

    @property
    def done(self) -> Tensor:
        """[T, B] bool."""
        return self.terminated | self.truncated

    @property
    def num_rows(self) -> int:
        """T."""
        return self.action.shape[0]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.action.shape[1]
