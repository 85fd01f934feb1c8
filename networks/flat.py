"""Observations of any space as one row of numbers."""

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..spaces import Leaf, Observation, leaves, tensors_of


class Flat(nn.Module):
    """Every leaf of an observation in a row, floats as they are and numbers of a choice one-hot: [N, *obs] -> [N, F].

    Bools are 0 and 1. Text is one-hot too, with a place for "no character".
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self._choices = {name: _choices(leaf) for name, leaf in leaves(space).items()}
        self.out_features = sum(
            sum(choices) if choices else int(torch.Size(leaf.shape).numel())
            for choices, leaf in zip(self._choices.values(), leaves(space).values(), strict=True)
        )

    def forward(self, observation: Observation) -> Tensor:
        tensors = tensors_of(observation)
        parts: list[Tensor] = []
        for name, choices in self._choices.items():
            rows = tensors[name].flatten(1) if tensors[name].ndim > 1 else tensors[name].unsqueeze(1)
            if choices:
                parts += [_one_hot(column, size) for column, size in zip(rows.unbind(1), choices, strict=True)]
            else:
                parts.append(rows.float())
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _one_hot(number: Tensor, size: int) -> Tensor:
    # Not torch's one_hot, which looks at the numbers: it could be neither recorded nor exported.
    return (number.unsqueeze(1) == torch.arange(size, device=number.device)).float()


def _choices(leaf: Leaf) -> list[int]:
    """How many values each entry can have; none where entries are quantities."""
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(size) for size in space.nvec.flatten()]
    if isinstance(space, spaces.Text):
        return [len(space.character_set) + 1] * space.max_length
    return []
