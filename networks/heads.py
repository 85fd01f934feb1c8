"""What is read off an encoder's features."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor, nn

from .distributions import Categorical

Output = TypeVar("Output")


class Head(nn.Module, Generic[Output]):
    """Maps features [..., F] to an output of its own type."""

    def forward(self, features: Tensor) -> Output:
        raise NotImplementedError


class QHead(Head[Tensor]):
    """Action values: [..., F] -> [..., A]."""

    def __init__(self, in_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_actions)

    def forward(self, features: Tensor) -> Tensor:
        q: Tensor = self.linear(features)
        return q


class ValueHead(Head[Tensor]):
    """State value: [..., F] -> [...]."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, features: Tensor) -> Tensor:
        value: Tensor = self.linear(features)
        return value.squeeze(-1)


class CategoricalHead(Head[Categorical]):
    """Policy over A discrete actions: [..., F] -> Categorical over [..., A]."""

    def __init__(self, in_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_actions)

    def forward(self, features: Tensor) -> Categorical:
        return Categorical.from_logits(self.linear(features))


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
