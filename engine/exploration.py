"""Actions that are not the greedy ones."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


class EpsilonGreedy:
    """Puts random actions in the place of some; every environment flips its own coin, one for all branches.

    The coins of many rows are flipped at once: a row at a time takes a third of acting in one environment. Its state is
    the generator's, and exact only right after `begin`.
    """

    def __init__(
        self,
        num_actions: int,
        epsilon: Callable[[int], float],
        num_rows: int,
        generator: torch.Generator,
        *,
        legal: Tensor | None = None,
        groups: int = 1,
    ) -> None:
        """epsilon: chance of a random action at an environment step; num_rows: whose coins are flipped at once.

        legal: [D, A] the actions that each of D branches has, where they have not all as many. groups: of environments
        whose steps count for themselves, each as many.
        """
        self._num_actions, self._epsilon, self._num_rows, self._generator = num_actions, epsilon, num_rows, generator
        self._legal, self._groups = legal, groups
        self.begin(0)

    def begin(self, step: int) -> None:
        """Environment step of the next row; coins that were flipped for later rows are forgotten."""
        self._step = step
        self._form: tuple[tuple[int, ...], bool] | None = None
        self._rows: Iterator[tuple[Tensor, Tensor]] = iter(())

    def draw(self, shape: tuple[int, ...], *, is_free: bool) -> tuple[Tensor, Tensor]:
        """Chance of the next row, for `explored`. shape: of its actions; is_free: there is no mask."""
        form = (shape, is_free and self._legal is None)
        row = next(self._rows, None) if form == self._form else None
        return row or self._flip(*form)

    def explored(self, action: Tensor, chance: Sequence[Tensor], action_mask: Tensor | None) -> Tensor:
        """The greedy action, or where `chance` has it so another: a function of tensors.

        action: [B] or [B, D]; chance: as drawn, or nothing; action_mask: [B, A] or [B, D, A], None where all are legal.
        """
        if not chance:
            return action
        explores, other = chance
        mask = self._legal if action_mask is None else action_mask
        if mask is not None:
            # `other` is a share of the legal actions, which are counted off.
            count = mask.cumsum(-1)
            place = (other * count[..., -1]).long().clamp(max=count[..., -1] - 1)
            other = (count <= place.unsqueeze(-1)).sum(-1)
        return torch.where(explores, other, action)

    def _flip(self, shape: tuple[int, ...], is_free: bool) -> tuple[Tensor, Tensor]:
        """The first of the rows to come: where its actions are random, and which they are, or which share."""
        num_envs, rows, device = shape[0], (self._num_rows, *shape), self._generator.device
        increment = num_envs // self._groups
        steps = range(self._step, self._step + self._num_rows * increment, increment)
        epsilon = torch.tensor([[self._epsilon(step)] for step in steps], device=device)
        coins = torch.rand((self._num_rows, num_envs), generator=self._generator, device=device)
        explores = (coins < epsilon).view(self._num_rows, num_envs, *(1 for _ in shape[1:]))
        if is_free:
            other = torch.randint(self._num_actions, rows, generator=self._generator, device=device)
        else:
            other = torch.rand(rows, generator=self._generator, device=device)
        self._step, self._form = steps.stop, (shape, is_free)
        self._rows = zip(explores.unbind(), other.unbind(), strict=True)
        return next(self._rows)
