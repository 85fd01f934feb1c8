"""Observations as tensors: a lone one, or a flat dict of them by leaf name where the space is a Dict or a Tuple."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Observation: TypeAlias = Tensor | dict[str, Tensor]


def map_leaves(function: Callable[..., Tensor], observation: Observation, *others: Observation) -> Observation:
    """`function` of each leaf, and of the same leaf of the others; a dict stays a dict, in its order."""
    if isinstance(observation, Tensor):
        return function(observation, *others)
    return {name: function(leaf, *(_leaf(other, name) for other in others)) for name, leaf in observation.items()}


def stack(observations: Sequence[Observation]) -> Observation:
    """Observations of one form, stacked along a new first dimension."""
    first = observations[0]
    if isinstance(first, Tensor):
        return torch.stack([_lone(observation) for observation in observations])
    return {name: torch.stack([_leaf(observation, name) for observation in observations]) for name in first}


def rows_of(observation: Observation, part: slice) -> Observation:
    """Those rows of each leaf: [T, ...] -> [t, ...]."""
    return map_leaves(lambda leaf: leaf[part], observation)


def columns_of(observation: Observation, size: int) -> list[Observation]:
    """In parts of `size` columns, the last of what is left: [T, B, *obs] -> each [T, size, *obs]."""
    if isinstance(observation, Tensor):
        return list(torch.split(observation, size, 1))
    parts = [torch.split(leaf, size, 1) for leaf in observation.values()]
    return [dict(zip(observation, part, strict=True)) for part in zip(*parts, strict=True)]


def first_leaf(observation: Observation) -> Tensor:
    """Any one leaf: all of them agree on the leading dimensions, the device, and whether there is anything at all."""
    return observation if isinstance(observation, Tensor) else next(iter(observation.values()))


def tensors_of(observation: Observation) -> dict[str, Tensor]:
    """By leaf name; a lone tensor is called "" (empty)."""
    return {"": observation} if isinstance(observation, Tensor) else observation


def observation_of(tensors: dict[str, Any]) -> Any:
    """The inverse of `tensors_of`, for whatever stands in a leaf's place."""
    return tensors[""] if tensors.keys() == {""} else tensors


def _leaf(observation: Observation, name: str) -> Tensor:
    assert not isinstance(observation, Tensor)
    return observation[name]


def _lone(observation: Observation) -> Tensor:
    assert isinstance(observation, Tensor)
    return observation
