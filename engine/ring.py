"""The newest rows of one tensor, and how they come back from a checkpoint."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from .arrays import Array, ops_of
from .history import History
from .storage import Memory


class Ring:
    """Row t, [B, ...], lies at place t % length. Takes `nbytes` of memory when allocated."""

    def __init__(self, memory: Memory, dtype: torch.dtype, length: int, num_envs: int, *shape: int) -> None:
        self.length, self.shape, self.dtype = length, (num_envs, *shape), dtype
        self.nbytes = length * prod(self.shape) * dtype.itemsize
        self.memory = memory
        self.ops = ops_of(memory.device)
        self.rows = self.table = torch.empty(0, device="meta")
        # The same memory, of NumPy where the device is a CPU: of small rows in a third of the time.
        self.held: Array = self.rows
        self.entries: Array = self.rows  # [length * B, ...]

    def allocate(self) -> None:
        self.rows = self.memory.zeros((self.length, *self.shape), self.dtype)  # [length, B, ...]
        # Of entries that are numbers flat, else a row for each entry.
        self.table = self.rows.flatten(0, 1) if len(self.shape) == 1 else self.rows.flatten(0, 1).flatten(1)
        self.held = self.ops.array(self.rows)
        self.entries = self.held.reshape(self.length * self.shape[0], *self.shape[1:])

    def write(self, start: int, rows: Tensor) -> None:
        """Rows from number `start` on, in place of those that lie there."""
        try:
            found = self.ops.array(rows)
        except (TypeError, RuntimeError):  # of a type that NumPy has not, on another device, or with a gradient
            found = self.ops.array(rows.detach().to(self.memory.home, self.dtype))
        place, count = start % self.length, len(rows)
        fit = self.length - place
        if count <= fit:
            self.held[place : place + count] = found
        else:
            self.held[place:], self.held[: count - fit] = found[:fit], found[fit:]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): a view, or a copy where they go on at the ring's beginning."""
        return self.ops.tensor(self.get(start, stop))

    def get(self, start: int, stop: int) -> Array:
        """Likewise, as an array."""
        place, count = start % self.length, stop - start
        fit = self.length - place
        if count <= fit:
            return self.held[place : place + count]
        return self.ops.concatenate([self.held[place:], self.held[: count - fit]])

    def take(self, table: Array, index: Array) -> Tensor:
        """Entries place * B + environment of `table`, [...] -> [..., *shape], on the device that computes with them.

        Of `entries`, or of a tensor that is like `table`.
        """
        if not isinstance(table, Tensor):
            return torch.from_numpy(table.take(index, 0))  # an index that is a tensor too
        if self.memory.is_far:
            index = index.to(self.memory.home)
            # Into pinned memory, from where it goes on while this thread does.
            out = table.new_empty((index.numel(), *table.shape[1:]), pin_memory=True)
            torch.index_select(table, 0, index.flatten(), out=out)
            found = out.to(self.memory.device, non_blocking=True)
        else:
            # Both take indices of any shape, in less time than index_select and the views around it.
            found = table.take(index) if table.ndim == 1 else torch.embedding(table, index)
        shape = *index.shape, *self.shape[1:]
        return found if found.shape == shape else found.view(shape)


def expect_rows(rings: dict[str, Ring], history: History) -> None:
    """ValueError unless its rows are of the shapes and types of the rings."""
    saved = history.read(history.first, history.first)
    for name in {**saved, **rings}:
        found, ring = saved.get(name), rings.get(name)
        if found is None or ring is None or (tuple(found.shape[1:]), found.dtype) != (ring.shape, ring.dtype):
            raise ValueError(f"replay: the checkpoint's {name} has another shape or type than this environment's")


def parts_of(history: History) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """All its rows, so few at a time that they are never in memory twice."""
    size = sum(tensor.nbytes for tensor in history.read(history.first, min(history.first + 1, history.end)).values())
    count = max(_PART // max(size, 1), 1)
    for start in range(history.first, history.end, count):
        yield start, history.read(start, min(start + count, history.end))


_PART = 2**26  # bytes
