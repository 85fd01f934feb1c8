"""The newest rows of one tensor, and how they come back from a checkpoint."""

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from .history import History
from .storage import Memory


class Ring:
    """Row t, [B, ...], lies at place t % length. Takes `nbytes` of memory when allocated."""

    def __init__(self, memory: Memory, dtype: torch.dtype, length: int, num_envs: int, *shape: int) -> None:
        self.length, self.shape, self.dtype = length, (num_envs, *shape), dtype
        self.nbytes = length * prod(self.shape) * dtype.itemsize
        self.memory = memory
        self.rows = self.flat = torch.empty(0, device="meta")

    def allocate(self) -> None:
        self.rows = self.memory.zeros((self.length, *self.shape), self.dtype)  # [length, B, ...]
        self.flat = self.rows.view(
            self.length * self.shape[0], *([prod(self.shape[1:])] if len(self.shape) > 1 else [])
        )

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

    def take(self, index: Tensor, device: torch.device) -> Tensor:
        """Entries place * B + environment, [...] -> [..., *shape], on `device`. index: on the rows' own device."""
        flat = self.flat
        if flat.device != device:
            # Into pinned memory, from where it goes on while this thread does.
            out = flat.new_empty((index.numel(), *flat.shape[1:]), pin_memory=True)
            found = torch.index_select(flat, 0, index.flatten(), out=out).to(device, non_blocking=True)
            return found.view(*index.shape, *self.shape[1:])
        # Both take indices of any shape, in less time than index_select and the views around it.
        found = flat.take(index) if flat.ndim == 1 else torch.embedding(flat, index)
        return found.view(*index.shape, *self.shape[1:]) if len(self.shape) > 2 else found


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
