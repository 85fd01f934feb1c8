"""Policies that are read off an encoder's features."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from .distributions import Bernoulli, Categorical, Gaussian, MultiCategorical, SquashedGaussian
from .heads import Head, ValueHead

# Haarnoja et al. 2018, the authors' code: deviations from 2e-9 to 7.4.
MIN_LOG_STD, MAX_LOG_STD = -20.0, 2.0


class CategoricalHead(Head[Categorical]):
    """Policy over A discrete actions: [..., F] -> Categorical over [..., A]."""

    def __init__(self, in_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_actions)

    def forward(self, features: Tensor) -> Categorical:
        return Categorical.from_logits(self.linear(features))


class MultiCategoricalHead(Head[MultiCategorical]):
    """Policy over K discrete choices at once, of `sizes` options each: [..., F] -> actions [..., K]."""

    def __init__(self, in_features: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.linear = nn.Linear(in_features, sum(self.sizes))

    def forward(self, features: Tensor) -> MultiCategorical:
        return MultiCategorical.from_logits(self.linear(features), self.sizes)


class BernoulliHead(Head[Bernoulli]):
    """Policy over K bits: [..., F] -> actions [..., K]."""

    def __init__(self, in_features: int, action_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, action_size)

    def forward(self, features: Tensor) -> Bernoulli:
        return Bernoulli(self.linear(features))


class GaussianHead(Head[Gaussian]):
    """Policy over K unbounded numbers: [..., F] -> actions [..., K].

    The mean depends on the features. The deviation does not: `log_std` [K] is a parameter, the same in every state, as
    in Schulman et al. 2015 (TRPO), that starts at the number given and acts as if clamped to [-20, 2].
    """

    def __init__(self, in_features: int, action_size: int, log_std: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, action_size)
        self.log_std = nn.Parameter(torch.full((action_size,), log_std))
        self._first_log_std = log_std

    @torch.no_grad()
    def initialise_own_weights(self, generator: torch.Generator) -> None:
        """Back to the first deviation; nothing is drawn."""
        self.log_std.fill_(self._first_log_std)

    def forward(self, features: Tensor) -> Gaussian:
        mean: Tensor = self.linear(features)
        # Clamped in value, not in gradient: clamp's is 0 outside, so a parameter that left the range could not return.
        log_std = self.log_std + (self.log_std.clamp(MIN_LOG_STD, MAX_LOG_STD) - self.log_std).detach()
        return Gaussian(mean, log_std.expand_as(mean))


class SquashedGaussianHead(Head[SquashedGaussian]):
    """Policy over K numbers between `low` and `high`: [..., F] -> actions [..., K].

    Mean and deviation both depend on the features, the log of the latter clamped to [-20, 2]. The bounds belong to the
    state_dict, as they do to what was learnt. Raises ValueError unless each low is a finite number below its high.
    Source: Haarnoja et al. 2018, appendix C.
    """

    low: Tensor
    high: Tensor

    def __init__(self, in_features: int, low: Sequence[float], high: Sequence[float]) -> None:
        super().__init__()
        if len(low) != len(high):
            raise ValueError(f"low and high must be of one length, got {len(low)} and {len(high)} numbers")
        for entry, (least, most) in enumerate(zip(low, high, strict=True)):
            if not (isfinite(least) and isfinite(most) and least < most):
                raise ValueError(
                    f"entry {entry} of low and high must be finite with low < high, got {least} and {most}; "
                    "for an unbounded action use GaussianHead"
                )
        self.mean, self.log_std = (nn.Linear(in_features, len(low)) for _ in range(2))
        self.register_buffer("low", torch.tensor(low, dtype=torch.get_default_dtype()))
        self.register_buffer("high", torch.tensor(high, dtype=torch.get_default_dtype()))

    def forward(self, features: Tensor) -> SquashedGaussian:
        log_std = self.log_std(features).clamp(MIN_LOG_STD, MAX_LOG_STD)
        return SquashedGaussian(self.mean(features), log_std, self.low, self.high)


@dataclass(frozen=True)
class PolicyValue:
    policy: Categorical
    value: Tensor | None  # [...], None where there is no value head


class PolicyValueHead(Head[PolicyValue]):
    """A policy head with, if given, a value head on the same features."""

    def __init__(self, policy: CategoricalHead, value: ValueHead | None = None) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, features: Tensor) -> PolicyValue:
        return PolicyValue(self.policy(features), None if self.value is None else self.value(features))
