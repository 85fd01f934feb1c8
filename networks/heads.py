"""What is read off an encoder's features."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from ..configs.suggest import suggest

Output = TypeVar("Output")


class Head(nn.Module, Generic[Output]):
    """Maps features [..., F] to an output of its own type."""

    def forward(self, features: Tensor) -> Output:
        raise NotImplementedError


class ValueHead(Head[Tensor]):
    """State value: [..., F] -> [...]."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, 1)

    def forward(self, features: Tensor) -> Tensor:
        value: Tensor = self.linear(features)
        return value.squeeze(-1)


class ClassHead(Head[Tensor]):
    """Unnormalised log-probabilities of C classes: [..., F] -> [..., C]."""

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(features)
        return logits


class RegressionHead(Head[Tensor]):
    """Unbounded numbers: [..., F] -> [..., *shape], so one number of `shape` () has no column of its own."""

    def __init__(self, in_features: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.linear = nn.Linear(in_features, prod(self.shape))

    def forward(self, features: Tensor) -> Tensor:
        prediction: Tensor = self.linear(features)
        return prediction.view((*features.shape[:-1], *self.shape))


class AuxiliaryHead(Head[Tensor]):
    """What each action would lead to, say its reward or the next observation: [..., F] -> [..., A, *shape]."""

    def __init__(self, in_features: int, num_actions: int, shape: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape = (num_actions, *shape)
        self.linear = nn.Linear(in_features, prod(self.shape))

    def forward(self, features: Tensor) -> Tensor:
        prediction: Tensor = self.linear(features)
        return prediction.view((*features.shape[:-1], *self.shape))

    def taken(self, prediction: Tensor, action: Tensor) -> Tensor:
        """The prediction for the action taken: [..., A, *shape], [...] int64 -> [..., *shape]."""
        index = action.view(action.shape + (1,) * len(self.shape))
        return prediction.take_along_dim(index, action.ndim).squeeze(action.ndim)


class EmbeddingHead(Head[Tensor]):
    """Vectors of unit length: [..., F] -> [..., D].

    A vector shorter than 1e-12 has no direction: it becomes 0, with a zero gradient.
    """

    def __init__(self, in_features: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, size)

    def forward(self, features: Tensor) -> Tensor:
        vector: Tensor = self.linear(features)
        square = vector.square().sum(-1, keepdim=True)
        has_direction = square > 1e-24
        # Replaced before the root too: its gradient at 0 is infinite, and infinity times the outer 0 is NaN.
        length = torch.where(has_direction, square, 1.0).sqrt()
        return torch.where(has_direction, vector / length, 0.0)


class Heads(Head[dict[str, Output]], Generic[Output]):
    """Several heads on the same features: [..., F] -> a dict of their outputs by name. `heads[name]` is a head.

    Raises ValueError for no heads, for a name that is empty or has a dot, which parts names in a state_dict, and for
    `heads[name]` of no such head.
    """

    def __init__(self, heads: Mapping[str, Head[Output]]) -> None:
        super().__init__()
        if not heads:
            raise ValueError("heads must hold at least one head, got none")
        for name, head in heads.items():
            if not name or "." in name:
                raise ValueError(f"a head's name must be text without a dot, got {name!r}")
            # Under its bare name, a head called "type" or "forward" would stand against nn.Module's own.
            self.add_module(f"head_{name}", head)
        self.names = tuple(heads)

    def __getitem__(self, name: str) -> Head[Output]:
        if name not in self.names:
            raise ValueError(
                f"no head is called {name!r}; there are {', '.join(self.names)}{suggest(name, self.names)}"
            )
        head: Head[Output] = getattr(self, f"head_{name}")
        return head

    def forward(self, features: Tensor) -> dict[str, Output]:
        return {name: self[name](features) for name in self.names}
