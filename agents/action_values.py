"""How Q-learning represents a return: by its mean, or by a distribution of one of three kinds.

Each kind builds the head that tells it, says its mean, and how far a prediction is from a target. A target is a
`Return` whatever the kind, so that the choice of the next action, Munchausen's terms, n-step sums, branches and value
rescaling are written once, in dqn.py.
"""

from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Tensor

from ..configs.config import Config
from ..losses import (
    categorical_cross_entropy,
    categorical_projection,
    entropy_bonus,
    huber,
    midpoints,
    quantile_huber,
    squared,
)
from ..networks import ActionValueHead, DuelingQHead, ImplicitQuantileHead, QHead

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Return(NamedTuple):
    """A distribution of returns: K atoms, all as probable where no probability is given."""

    atoms: Tensor  # [..., K]
    probability: Tensor | None = None  # [..., K]

    def of(self, action: Tensor) -> "Return":
        """Of one action each: [..., A, K] and [...] -> [..., K]."""
        probability = None if self.probability is None else taken(self.probability, action)
        return Return(taken(self.atoms, action), probability)

    def under(self, log_policy: Tensor, temperature: float) -> "Return":
        """Of an action by a policy, its entropy included: [..., A, K], log_policy [..., A] -> [..., K].

        Atoms with probabilities mix, and become A * K; the mean and quantiles are averaged over the actions (Vieillard
        et al. 2020, eq. 1 and appendix B.2).
        """
        policy = log_policy.exp().unsqueeze(-1)
        atoms = self.atoms + entropy_bonus(log_policy, temperature).unsqueeze(-1)
        if self.probability is None:
            return Return((policy * atoms).sum(-2))
        return Return(atoms.flatten(-2), (policy * self.probability).flatten(-2))

    def of_branches(self) -> "Return":
        """The mean over branches, [..., D, K] -> [..., K] (Tavakoli et al. 2018, eq. 6); with probabilities D * K."""
        if self.probability is None:
            return Return(self.atoms.mean(-2))
        return Return(self.atoms.flatten(-2), self.probability.flatten(-2) / self.atoms.shape[-2])


class HeadConfig(Config):
    """What stands between the encoder's features and the action values."""

    dueling: bool = False  # a state value, and what each action has over the mean one (Wang et al. 2016)
    hidden: Positive | None = None  # units of a ReLU layer before the values, in each stream; None: no such layer
    noise: Annotated[float, Field(gt=0)] | None = None  # sigma_0 of noisy layers (Fortunato et al. 2018); None: none

    def build(
        self, in_features: int, num_actions: tuple[int, ...], atoms: int | None, legal: Tensor | None
    ) -> ActionValueHead:
        """num_actions: (A,), or (D, A) of D branches, of which `legal` [D, A] says which exist."""
        if self.dueling:
            return DuelingQHead(
                in_features, num_actions, hidden=self.hidden, atoms=atoms, noise=self.noise, legal=legal
            )
        return QHead(in_features, num_actions, hidden=self.hidden, atoms=atoms, noise=self.noise)


class ActionValues(Config):
    """What every kind offers."""

    kind: str

    def head(
        self, config: HeadConfig, in_features: int, num_actions: tuple[int, ...], legal: Tensor | None
    ) -> ActionValueHead:
        """num_actions, legal: as in HeadConfig.build."""
        raise NotImplementedError

    def shape(self, num_actions: tuple[int, ...]) -> tuple[int, ...]:
        """Of the head's output for one row of features."""
        return num_actions

    def draw(self, *shape: int, target: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        """What the head is to be asked in learning, for rows of `shape`, beside their features; () is the rule."""
        return ()

    def mean(self, output: Tensor) -> Tensor:
        """Action values: the head's output [..., A(, K)] -> [..., A]."""
        raise NotImplementedError

    def returns(self, output: Tensor) -> Return:
        """The head's output [..., A(, K)] as distributions [..., A, K]."""
        raise NotImplementedError

    def projected(self, target: Return) -> Tensor:
        """What a prediction is compared with: [..., K'], the atoms if there is nothing else to it."""
        return target.atoms

    def error(self, prediction: Tensor, target: Tensor, fractions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """What is to be minimised, and how surprising the target was: both [...], the latter without a gradient.

        prediction: the head's output for the action taken, [...(, K)]; target: as projected, [..., K']; fractions: that
        the head was asked for, [..., K].
        """
        raise NotImplementedError


class ScalarConfig(ActionValues):
    """The mean alone (Mnih et al. 2015)."""

    kind: Literal["scalar"] = "scalar"
    loss: Literal["huber", "squared"] = "huber"  # of the TD error

    def head(
        self, config: HeadConfig, in_features: int, num_actions: tuple[int, ...], legal: Tensor | None
    ) -> ActionValueHead:
        return config.build(in_features, num_actions, None, legal)

    def mean(self, output: Tensor) -> Tensor:
        return output

    def returns(self, output: Tensor) -> Return:
        return Return(output.unsqueeze(-1))

    def error(self, prediction: Tensor, target: Tensor, fractions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        td_error = target.squeeze(-1) - prediction
        return (huber if self.loss == "huber" else squared)(td_error), td_error.detach().abs()


class CategoricalConfig(ActionValues):
    """Probabilities of fixed returns: C51 (Bellemare et al. 2017)."""

    kind: Literal["categorical"] = "categorical"
    num_atoms: Annotated[int, Field(gt=1)] = 51
    low: float = -10.0  # the least return that can be told; what is beyond counts as it
    high: float = 10.0

    @model_validator(mode="after")
    def _has_width(self) -> "CategoricalConfig":
        if self.low >= self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        return self

    def head(
        self, config: HeadConfig, in_features: int, num_actions: tuple[int, ...], legal: Tensor | None
    ) -> ActionValueHead:
        return config.build(in_features, num_actions, self.num_atoms, legal)

    def shape(self, num_actions: tuple[int, ...]) -> tuple[int, ...]:
        return (*num_actions, self.num_atoms)

    def mean(self, output: Tensor) -> Tensor:
        return output.softmax(-1) @ self._support(output)

    def returns(self, output: Tensor) -> Return:
        return Return(self._support(output).expand_as(output), output.softmax(-1))

    def projected(self, target: Return) -> Tensor:
        assert target.probability is not None
        return categorical_projection(target.atoms, target.probability, self._support(target.atoms))

    def error(self, prediction: Tensor, target: Tensor, fractions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        error = categorical_cross_entropy(prediction, target)
        return error, error.detach()  # what Rainbow prioritises by (Hessel et al. 2018)

    def _support(self, like: Tensor) -> Tensor:
        return torch.linspace(self.low, self.high, self.num_atoms, dtype=like.dtype, device=like.device)


class QuantileConfig(ActionValues):
    """Returns of fixed quantile fractions: QR-DQN (Dabney et al. 2018a)."""

    kind: Literal["quantile"] = "quantile"
    num_quantiles: Positive = 51
    kappa: NonNegative = 1.0  # where the Huber loss turns straight; 0 is the plain quantile loss

    def head(
        self, config: HeadConfig, in_features: int, num_actions: tuple[int, ...], legal: Tensor | None
    ) -> ActionValueHead:
        return config.build(in_features, num_actions, self.num_quantiles, legal)

    def shape(self, num_actions: tuple[int, ...]) -> tuple[int, ...]:
        return (*num_actions, self.num_quantiles)

    def mean(self, output: Tensor) -> Tensor:
        return output.mean(-1)

    def returns(self, output: Tensor) -> Return:
        return Return(output)

    def error(self, prediction: Tensor, target: Tensor, fractions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return _quantile_error(prediction, target, midpoints(self.num_quantiles, prediction.device), self.kappa)


class ImplicitConfig(ActionValues):
    """Returns of any quantile fractions, drawn anew for each row that is learnt: IQN (Dabney et al. 2018b)."""

    kind: Literal["implicit"] = "implicit"
    num_fractions: Positive = 32  # of a row that is learnt (N in the paper, 64 there)
    num_target_fractions: Positive = 32  # of its target (N', 64 there)
    num_acting_fractions: Positive = 32  # of a greedy action (K)
    num_cosines: Positive = 64  # of the embedding of a fraction
    kappa: NonNegative = 1.0  # where the Huber loss turns straight; 0 is the plain quantile loss

    def head(
        self, config: HeadConfig, in_features: int, num_actions: tuple[int, ...], legal: Tensor | None
    ) -> ActionValueHead:
        inner = config.build(in_features, num_actions, None, legal)
        return ImplicitQuantileHead(in_features, inner, self.num_cosines, self.num_acting_fractions)

    def shape(self, num_actions: tuple[int, ...]) -> tuple[int, ...]:
        return (*num_actions, self.num_acting_fractions)

    def draw(self, *shape: int, target: bool, generator: torch.Generator) -> tuple[Tensor, ...]:
        number = self.num_target_fractions if target else self.num_fractions
        return (torch.rand(*shape, number, generator=generator, device=generator.device),)

    def mean(self, output: Tensor) -> Tensor:
        return output.mean(-1)

    def returns(self, output: Tensor) -> Return:
        return Return(output)

    def error(self, prediction: Tensor, target: Tensor, fractions: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return _quantile_error(prediction, target, fractions[0], self.kappa)


ValueConfig: TypeAlias = Annotated[
    ScalarConfig | CategoricalConfig | QuantileConfig | ImplicitConfig, Field(discriminator="kind")
]


def taken(output: Tensor, action: Tensor) -> Tensor:
    """What the head says of the action taken: [..., A] or [..., A, K], action [...] -> [...] or [..., K]."""
    atoms = output.shape[action.ndim + 1 :]
    index = action.view(*action.shape, 1, *(1 for _ in atoms)).expand(*action.shape, 1, *atoms)
    return output.gather(action.ndim, index).squeeze(action.ndim)


def among(q: Tensor, *legal: Tensor) -> Tensor:
    """Action values [..., A], -inf for an action that some mask does not call legal."""
    for mask in legal:
        q = q.masked_fill(~mask, -torch.inf)
    return q


def _quantile_error(prediction: Tensor, target: Tensor, fractions: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    error = quantile_huber(prediction, fractions, target, kappa)
    return error, (target.mean(-1) - prediction.detach().mean(-1)).abs()
