"""Action values read off an encoder's features: numbers, or the distribution of the return.

Letters: A actions, D branches of an action, K atoms, F features.
"""

from math import pi, prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import Head
from .noisy import NoisyLinear


class ActionValueHead(Head[Tensor]):
    """Values of each action: [..., F] -> [..., *shape], and with atoms [..., *shape, K].

    What an atom is, a logit on a support or a quantile, is the business of who reads it.
    """

    shape: tuple[int, ...]  # (A,), or for branches (D, A) with A those of the largest
    atoms: int | None  # on the last axis; None where there is no such axis


class QHead(ActionValueHead):
    """Action values, linear in the features or in one ReLU layer of `hidden` units.

    `noise`: that all layers start with, see NoisyLinear; None for ordinary layers.
    """

    def __init__(
        self,
        in_features: int,
        num_actions: int | tuple[int, ...],
        *,
        hidden: int | None = None,
        atoms: int | None = None,
        noise: float | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.atoms = _shape(num_actions), atoms
        self._output = self.shape if atoms is None else (*self.shape, atoms)
        self.linear = _stream(in_features, hidden, prod(self._output), noise)

    def forward(self, features: Tensor) -> Tensor:
        return _laid_out(self.linear(features), self._output)


class DuelingQHead(ActionValueHead):
    """Action values, as a state value plus what each action has over the mean action.

    `hidden`: width of a ReLU layer in each of the two streams; None makes both linear. `noise`: as of QHead.
    Branches share one state value, and each has a mean of its own. `legal`, bool of `shape`, says what is an action:
    what pads branches of unequal size has no part in the mean. With atoms all of this holds for each atom.
    Raises ValueError for `legal` of another shape or type, and where a branch has no action.
    Source: Wang et al. 2016, eq. 9; branches: Tavakoli et al. 2018, eq. 1; atoms: Hessel et al. 2018, section 3.
    """

    action_mask: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_actions: int | tuple[int, ...],
        hidden: int | None = None,
        *,
        atoms: int | None = None,
        noise: float | None = None,
        legal: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.atoms = _shape(num_actions), atoms
        columns = () if atoms is None else (atoms,)
        self._output = (*self.shape, *columns)
        self._value_output = (*(1 for _ in self.shape), *columns)
        self._actions = -1 - len(columns)
        self.value, self.advantage = (
            _stream(in_features, hidden, prod(output), noise) for output in (self._value_output, self._output)
        )
        self.register_buffer("action_mask", None if legal is None else _checked(legal, self.shape).clone())

    def forward(self, features: Tensor) -> Tensor:
        advantage = _laid_out(self.advantage(features), self._output)
        value = _laid_out(self.value(features), self._value_output)
        return value + advantage - self._mean(advantage)

    def _mean(self, advantage: Tensor) -> Tensor:
        if self.action_mask is None:
            return advantage.mean(self._actions, keepdim=True)
        legal = self.action_mask if self.atoms is None else self.action_mask.unsqueeze(-1)
        total = torch.where(legal, advantage, 0.0).sum(self._actions, keepdim=True)
        return total / legal.sum(self._actions, keepdim=True)


class ImplicitQuantileHead(ActionValueHead):
    """Quantiles of each action's return at any fractions: those that `inner` reads off features of state and fraction.

    [..., F], fractions [..., K] in (0, 1) -> [..., *shape, K]. Without fractions, as for acting, it takes
    `num_fractions` of them, the middles of equal parts, and so comes to the same each time.
    Raises ValueError for an inner head with atoms of its own, and for fractions of other leading dimensions.
    Source: Dabney et al. 2018b, eq. 4, where n = 64 cosines and K = 32 fractions.
    """

    # Deviation from Dabney et al. 2018b: it acts by midpoints, not by random fractions. Of K fractions they are the
    # best (Dabney et al. 2018a, lemma 2), and acting draws no numbers.

    atoms: int

    def __init__(
        self, in_features: int, inner: ActionValueHead, num_cosines: int = 64, num_fractions: int = 32
    ) -> None:
        super().__init__()
        if inner.atoms is not None:
            raise ValueError(f"the inner head must have no atoms, got {inner.atoms}: each fraction is one")
        self.shape, self.atoms = inner.shape, num_fractions
        self.linear = nn.Linear(num_cosines, in_features)
        self.inner = inner

    def forward(self, features: Tensor, fractions: Tensor | None = None) -> Tensor:
        if fractions is None:
            fractions = (torch.arange(self.atoms, device=features.device, dtype=features.dtype) + 0.5) / self.atoms
        elif fractions.shape[:-1] != features.shape[:-1]:
            leading = list(features.shape[:-1])
            raise ValueError(f"fractions must have shape {leading} and one axis more, got {list(fractions.shape)}")
        steps = pi * torch.arange(self.linear.in_features, device=features.device, dtype=features.dtype)
        of_fraction = F.relu(self.linear((fractions.unsqueeze(-1) * steps).cos()))
        quantiles: Tensor = self.inner(features.unsqueeze(-2) * of_fraction)
        return quantiles.movedim(features.ndim - 1, -1)


def _shape(num_actions: int | tuple[int, ...]) -> tuple[int, ...]:
    return (num_actions,) if isinstance(num_actions, int) else tuple(num_actions)


def _stream(in_features: int, hidden: int | None, width: int, noise: float | None) -> nn.Module:
    if hidden is None:
        return _layer(in_features, width, noise)
    return nn.Sequential(_layer(in_features, hidden, noise), nn.ReLU(), _layer(hidden, width, noise))


def _layer(in_features: int, width: int, noise: float | None) -> nn.Module:
    return nn.Linear(in_features, width) if noise is None else NoisyLinear(in_features, width, noise)


def _laid_out(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    return flat if len(shape) == 1 else flat.view((*flat.shape[:-1], *shape))


def _checked(legal: Tensor, shape: tuple[int, ...]) -> Tensor:
    if legal.shape != shape or legal.dtype != torch.bool:
        raise ValueError(f"legal must be bool of shape {list(shape)}, got {legal.dtype} of {list(legal.shape)}")
    if not legal.any(-1).all():
        raise ValueError("legal must leave each branch an action")
    return legal
