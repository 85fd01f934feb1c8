"""The newest rows of one tensor, and how they come back from a checkpoint."""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from .arrays import Array
from .history import History
from .storage import Memory


class Ring:
    """Row t, [B, ...], lies at place t % length. Takes `nbytes` of memory when allocated."""

    def __init__(self, memory: Memory, dtype: torch.dtype, length: int, num_envs: int, *shape: int) -> None:
        self.length, self.shape, self.dtype = length, (num_envs, *shape), dtype
        self.nbytes = length * prod(self.shape) * dtype.itemsize
        self.memory = memory
        self.rows = self.flat = torch.empty(0, device="meta")
        self._array: npt.NDArray[Any] | None = None

    def allocate(self) -> None:
        self.rows = self.memory.zeros((self.length, *self.shape), self.dtype)  # [length, B, ...]
        self.flat = self.rows.view(
            self.length * self.shape[0], *([prod(self.shape[1:])] if len(self.shape) > 1 else [])
        )
        # NumPy takes a third less time than torch for what is small, and has one thread for what is not.
        if self.flat.is_cpu and not self.memory.is_far and self.nbytes < _SMALL * self.length * self.shape[0]:
            self._array = self.rows.flatten(0, 1).numpy()

    def write(self, start: int, rows: Tensor) -> None:
        """Rows from number `start` on, in place of those that lie there."""
        place = start % self.length
        fit = self.length - place
        if len(rows) <= fit:
            self.rows[place : place + len(rows)] = rows
        else:
            self.rows[place:], self.rows[: len(rows) - fit] = rows[:fit], rows[fit:]

    def read(self, start: int, stop: int) -> Tensor:
        """Rows [start, stop): a view, or a copy where they go on at the ring's beginning."""
        place, count = start % self.length, stop - start
        fit = self.length - place
        if count <= fit:
            return self.rows[place : place + count]
        return torch.cat((self.rows[place:], self.rows[: count - fit]))

    def take(self, index: Array) -> Tensor:
        """Entries place * B + environment, [...] -> [..., *shape], on the device that computes with them."""
        array = self._array
        if array is None:
            return self._gather(torch.as_tensor(index))
        if array.ndim == 1:
            return torch.from_numpy(array.take(index))
        # Memory from torch: its alignment may decide how a product of matrices is rounded.
        found = torch.empty((*index.shape, *array.shape[1:]), dtype=self.dtype)
        array.take(index, 0, found.numpy(), "clip")
        return found

    def _gather(self, index: Tensor) -> Tensor:
        if self.memory.is_far:
            index = index.to(self.memory.home)
            # Into pinned memory, from where it goes on while this thread does.
            out = self.flat.new_empty((index.numel(), *self.flat.shape[1:]), pin_memory=True)
            torch.index_select(self.flat, 0, index.flatten(), out=out)
            found = out.to(self.memory.device, non_blocking=True).view(*index.shape, *self.flat.shape[1:])
        else:
            # Both take indices of any shape, in less time than index_select and the views around it.
            found = self.flat.take(index) if self.flat.ndim == 1 else torch.embedding(self.flat, index)
        return found.view(*index.shape, *self.shape[1:]) if len(self.shape) > 2 else found


def native(index: Tensor) -> Array:
    """As rings take it with the least work: on the CPU a NumPy array, of the same memory."""
    return index.numpy() if index.is_cpu else index


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
_SMALL = 1024  # bytes of an entry
