"""Batches that are too large for a cache, a part at a time."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")

# What 256 rows of small networks come to on their way fits into a core's cache of 1 MB; more took half again as long.
_ON_CPU, _ON_DEVICE = 256, 65_536


@dataclass(frozen=True)
class Microbatches(Generic[Batch]):
    """A batch whose loss, metrics and gradients are the sums of its parts'; GradientStep makes one update of it."""

    begin: Callable[[], Iterable[Batch]]  # from the first part on, each time it is called

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.begin())


class Transitions(NamedTuple):
    """Some of a rollout's, each once."""

    place: Tensor  # [N], of rows and columns in one
    counts: Tensor  # [1, N] bool; the others only fill up, and stand in another place too

    def of(self, leaf: Tensor) -> Tensor:
        """What belongs to them: [T or more, B, ...] -> [1, N, ...]."""
        return leaf.flatten(0, 1).index_select(0, self.place).unsqueeze(0)


def transitions(valid: Tensor) -> Iterator[Transitions]:
    """All where `valid` [T, B] bool, in the order of rows, as many at a time as are worked through fastest.

    On a CPU always as many, so that all parts are of one form, which Recorded asks for. At least one must be valid.
    """
    index = valid.flatten().nonzero().squeeze(1)
    size = _ON_CPU if valid.is_cpu else min(_ON_DEVICE, len(index))
    number = torch.arange(-(-len(index) // size) * size, device=valid.device)
    places, counts = index[number % len(index)], (number < len(index)).unsqueeze(0)
    return map(Transitions, torch.split(places, size), torch.split(counts, size, 1))
