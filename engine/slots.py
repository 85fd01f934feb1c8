"""Priorities of places whose numbers go on growing, in as many slots as there can be places at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from .arrays import Array
from .priorities import Priorities, PrioritySettings


class Slots:
    """Draws places by priority: place p has slot p % size. A place is a row (or every so many) and an environment."""

    def __init__(self, size: int, settings: PrioritySettings, device: torch.device) -> None:
        self._size, self._settings, self._device = size, settings, device
        self.priorities = Priorities(size, settings, "meta")
        self.nbytes = self.priorities.nbytes

    def allocate(self) -> None:
        self.priorities = Priorities(self._size, self._settings, self._device)

    def enter(self, places: Array) -> None:
        """Give new places [n] the highest priority so far."""
        self.priorities.enter(places % self._size)

    def enter_range(self, start: int, stop: int) -> None:
        """Likewise places [start, stop)."""
        for part in self._slices(start, stop):
            self.priorities.enter(part)

    def clear_range(self, start: int, stop: int) -> None:
        """Places [start, stop) are gone."""
        for part in self._slices(start, stop):
            self.priorities.clear(part)

    def draw(self, batch_size: int, first: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places [N] and their importance weights. first: the oldest place there can be."""
        return self.priorities.sample(batch_size, generator, beta, first)

    def update(self, places: Tensor, priority: Tensor, first: int) -> None:
        """Set priorities; places before `first`, whose slots belong to others by now, are passed over."""
        self.priorities.update(places, priority, first)

    def _slices(self, start: int, stop: int) -> Iterator[slice]:
        if start < stop:
            slot, count = start % self._size, stop - start
            yield slice(slot, min(slot + count, self._size))
            if slot + count > self._size:
                yield slice(0, slot + count - self._size)
