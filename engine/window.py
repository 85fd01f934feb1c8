"""What one sample is: how many rows, and how many rewards before it bootstraps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import n_step_sums
from .rollout import Rollout


@dataclass(frozen=True)
class Window:
    """Sequences of `length` rows, each with the sum of up to `n_step` rewards."""

    length: int = 1
    n_step: int = 1
    discount: float = 0.99  # of one step

    def __post_init__(self) -> None:
        for name in ("length", "n_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"replay: {name} must be at least 1, got {getattr(self, name)}")

    @property
    def num_rows(self) -> int:
        """Rows that a sequence takes: the last of `length` looks n_step - 1 further."""
        return self.length + self.n_step - 1

    def one_step(self, reward: Tensor, terminated: Tensor) -> Tensor:
        """Discount of the next row."""
        # Termination ends the sum, truncation does not: its successor is the true final observation.
        return torch.full_like(reward, self.discount).masked_fill(terminated, 0.0)

    def sums(
        self, reward: Tensor, terminated: Tensor, truncated: Tensor, is_first: Tensor, there: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Reward, discount and how many rows on the successor is, as of `n_step_sums`, for rows that may span episodes.

        [T, N], is_first [T+1, N] -> [T - n_step + 1, N]. there: [N], so many rows exist; a sum ends with the last.
        """
        ends = terminated | truncated | is_first[1:]
        # An episode that breaks off without an end is followed by a filler too, which a sum must not take in.
        ends = ends | torch.cat((is_first[2:], torch.zeros_like(is_first[:1])))
        if there is not None:
            ends = ends | (torch.arange(1, len(ends) + 1, device=ends.device).unsqueeze(1) >= there)
        return n_step_sums(reward, terminated, ends, self.n_step, self.discount)


@dataclass(frozen=True)
class Sample:
    """What was drawn. L rows, N columns; R rows of the rollout: L + n_step - 1, but L for lone transitions."""

    rollout: Rollout  # R rows as they were stored; of a lone transition, observation[1] is its successor's
    reward: Tensor  # [L, N] sum of up to n_step discounted rewards, to an episode's end of either kind at most
    discount: Tensor  # [L, N] of the successor: discount**m after m rewards, 0 after termination
    successor: Tensor | None  # [L, N] int64, the row of rollout.observation that follows; None for the next row
    weight: Tensor  # [N] importance weights; ones when drawn uniformly
    index: Tensor  # [N] int64, row * B + environment of the first row, counted from the first row ever added
