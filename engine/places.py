"""Where a sample can begin: at a transition, or where a sequence does. Uniformly, or by priority."""

from typing import Protocol

import torch
from torch import Tensor

from .arrays import Array
from .ring import Ring
from .slots import Slots
from .storage import Memory


class Starts(Protocol):
    """The places among the newest `num_rows` rows; a place is row * B + environment, from the first row ever added."""

    total: int  # rows ever added
    nbytes: int

    def __len__(self) -> int:
        """Places that can be drawn."""

    @property
    def num_starts(self) -> int:
        """Rows that a sample can begin at."""

    def add(self, is_first: Tensor) -> None:
        """T rows are about to be written. is_first: [T + 1, B], of them and the newest."""

    def draw(self, batch_size: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Places [N], with replacement, of those there are, and their importance weights, None if all are one.

        Of groups as many of each, one group's after the other's.
        """

    def update(self, places: Tensor, priority: Tensor) -> None: ...

    def allocate(self) -> None: ...

    def load(self, total: int) -> None:
        """Other rows were written, `total` in all; priorities are loaded apart."""


class Transitions:
    """Each valid transition."""

    def __init__(self, num_rows: int, is_first: Ring, memory: Memory, slots: Slots | None) -> None:
        self.total = 0
        self._num_rows, self._num_envs = num_rows, is_first.shape[0]
        self._is_first, self._slots, self._ops = is_first, slots, is_first.ops
        # Those that can be drawn, oldest first: [begin, end) of twice as many as there can be, so that they are never
        # in two parts, and are moved to the front once in a while.
        self._begin = self._end = 0
        self._numbers = None if slots is not None else Ring(memory, torch.int64, 2 * num_rows, self._num_envs)
        self.nbytes = _bytes(self._numbers) + _bytes(slots)

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def num_starts(self) -> int:
        return self.total - self._oldest(self.total)

    def add(self, is_first: Tensor) -> None:
        ops, valid = self._ops, ~self._ops.array(is_first)[1:]
        before, after = self._oldest(self.total), self._oldest(self.total + len(valid))
        gone = self._valid(before, after)
        num_gone, num_new = ops.counts(gone, valid)  # the one synchronisation of an `add`
        new = ops.nonzero(valid, num_new)
        new += self.total * self._num_envs
        self._begin += num_gone
        if self._slots is not None:
            self._slots.clear_range(before * self._num_envs, after * self._num_envs)
            self._slots.enter(new)
            self._end += num_new
        else:
            self._append(new)
        self.total += len(valid)

    def draw(self, batch_size: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        if self._slots is not None:
            return self._slots.draw(batch_size, self._oldest(self.total) * self._num_envs, beta, generator)
        return self.at(_draw(self._end - self._begin, batch_size, generator)), None

    def at(self, number: Tensor) -> Tensor:
        """Places of the transitions [N] of those numbers, 0 the oldest; of uniform draws only."""
        there = self._there.entries[self._begin : self._end]
        return self._ops.tensor(there.take(self._ops.array(number)))

    def update(self, places: Tensor, priority: Tensor) -> None:
        _expect(self._slots).update(places, priority, self._oldest(self.total) * self._num_envs)

    def allocate(self) -> None:
        for part in (self._numbers, self._slots):
            if part is not None:
                part.allocate()

    def load(self, total: int) -> None:
        self.total = total
        oldest = self._oldest(total)
        valid = self._valid(oldest, total)
        (count,) = self._ops.counts(valid)
        self._begin, self._end = 0, 0
        if self._slots is not None:
            self._end = count
        else:
            self._append(self._ops.nonzero(valid, count) + oldest * self._num_envs)

    def _append(self, new: Array) -> None:
        flat = self._there.entries
        if self._end + len(new) > len(flat):
            # More than half of it has gone, so nothing is written over before it is read.
            flat[: len(self)] = flat[self._begin : self._end]
            self._begin, self._end = 0, len(self)
        flat[self._end : self._end + len(new)] = new
        self._end += len(new)

    def _valid(self, start: int, stop: int) -> Array:
        return ~self._is_first.get(start + 1, stop + 1)

    def _oldest(self, total: int) -> int:
        return max(total - self._num_rows, 0)

    @property
    def _there(self) -> Ring:
        assert self._numbers is not None
        return self._numbers


class Sequences:
    """Each row from which on `length` are there; every `stride`-th alone, where recurrent states are kept of those."""

    def __init__(self, length: int, num_rows: int, num_envs: int, stride: int, slots: Slots | None) -> None:
        self.total = 0
        self._length, self._num_rows, self._num_envs, self._stride = length, num_rows, num_envs, stride
        self._slots = slots
        self.nbytes = _bytes(slots)

    def __len__(self) -> int:
        return self.num_starts * self._num_envs

    @property
    def num_starts(self) -> int:
        first, end = self._starts(self.total)
        return end - first

    def add(self, is_first: Tensor) -> None:
        first, end = self._starts(self.total)
        self.total += len(is_first) - 1
        if self._slots is not None:
            first_now, end_now = self._starts(self.total)
            self._slots.clear_range(first * self._num_envs, min(first_now, end) * self._num_envs)
            self._slots.enter_range(max(first_now, end) * self._num_envs, end_now * self._num_envs)

    def draw(self, batch_size: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        first = self._starts(self.total)[0]
        if self._slots is not None:
            start, weight = self._slots.draw(batch_size, first * self._num_envs, beta, generator)
            return self._change(start, 1, self._stride), weight
        row = first * self._stride + _draw(self.num_starts, batch_size, generator) * self._stride
        env = torch.randint(self._num_envs, (batch_size,), generator=generator, device=generator.device)
        return row * self._num_envs + env, None

    def update(self, places: Tensor, priority: Tensor) -> None:
        first = self._starts(self.total)[0] * self._num_envs
        _expect(self._slots).update(self._change(places, self._stride, 1), priority, first)

    def allocate(self) -> None:
        if self._slots is not None:
            self._slots.allocate()

    def load(self, total: int) -> None:
        self.total = total

    def _change(self, places: Tensor, divisor: int, factor: int) -> Tensor:
        """Places counted in rows, or in starts alone."""
        if self._stride == 1:
            return places
        row, env = places // self._num_envs, places % self._num_envs
        return row // divisor * factor * self._num_envs + env

    def _starts(self, total: int) -> tuple[int, int]:
        """First and end of the starts that can be drawn, one for every `stride` rows."""
        first = -(-max(total - self._num_rows, 0) // self._stride)
        return first, max((total - self._length) // self._stride + 1, first)


def _draw(bound: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randint(bound, (size,), generator=generator, device=generator.device)


def _bytes(part: Ring | Slots | None) -> int:
    return 0 if part is None else part.nbytes


def _expect(slots: Slots | None) -> Slots:
    if slots is None:
        raise ValueError("replay: it draws uniformly and has no priorities to set")
    return slots
