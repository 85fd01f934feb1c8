"""Actions that are not the greedy ones."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


class EpsilonGreedy:
    """Puts random actions in the place of some; every environment flips its own coin.

    The coins of many rows are flipped at once: a row at a time takes a third of acting in one environment. Its state is
    the generator's, and exact only right after `begin`.
    """

    def __init__(
        self, num_actions: int, epsilon: Callable[[int], float], num_rows: int, generator: torch.Generator
    ) -> None:
        """epsilon: chance of a random action at an environment step; num_rows: whose coins are flipped at once."""
        self._num_actions, self._epsilon, self._num_rows, self._generator = num_actions, epsilon, num_rows, generator
        self.begin(0)

    def begin(self, step: int) -> None:
        """Environment step of the next row; coins that were flipped for later rows are forgotten."""
        self._step, self._num_envs = step, 0
        self._rows: Iterator[tuple[Tensor, Tensor]] = iter(())

    def __call__(self, action: Tensor) -> Tensor:
        """action: greedy, [B] -> [B]."""
        num_envs = action.shape[0]
        row = next(self._rows, None) if num_envs == self._num_envs else None
        explores, other = row or self._flip(num_envs)
        return torch.where(explores, other, action)

    def _flip(self, num_envs: int) -> tuple[Tensor, Tensor]:
        """The first of the rows to come: where its actions are random [B], and which they are [B]."""
        shape, device = (self._num_rows, num_envs), self._generator.device
        steps = range(self._step, self._step + self._num_rows * num_envs, num_envs)
        epsilon = torch.tensor([[self._epsilon(step)] for step in steps], device=device)
        explores = torch.rand(shape, generator=self._generator, device=device) < epsilon
        other = torch.randint(self._num_actions, shape, generator=self._generator, device=device)
        self._step, self._num_envs = steps.stop, num_envs
        self._rows = zip(explores.unbind(), other.unbind(), strict=True)
        return next(self._rows)
