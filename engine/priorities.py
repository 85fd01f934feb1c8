"""Which slots of a replay are drawn how often: in proportion to a priority each (Schaul et al. 2016)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .arrays import Array, ops_of
from .stateful import StateDict, expect_keys


class PriorityError(ValueError):
    """What was learnt from is to be drawn by a priority that is none, as when training diverges."""


@dataclass(frozen=True)
class PrioritySettings:
    """How errors become priorities."""

    exponent: float = 0.6  # alpha of Schaul et al. 2016, eq. 1; 0 draws uniformly
    floor: float = 1e-6  # added to each priority, so that what has no error is still drawn

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"replay: the exponent of priorities must be in [0, 1], got {self.exponent}")
        if not 0 < self.floor < math.inf:
            raise ValueError(f"replay: the floor of priorities must be positive and finite, got {self.floor}")


class Priorities:
    """Draws each of `size` slots in proportion to its priority, and never one without; takes `nbytes` of memory.

    Priorities are kept as whole numbers of a small unit, so that their sums are exact: in any order, on any device,
    after any number of updates. Hence a resumed run draws what the unbroken one would have.
    """

    def __init__(self, size: int, settings: PrioritySettings, device: torch.device | str) -> None:
        """At first no slot has a priority. On the meta device it only says its `nbytes`."""
        self.size, self._settings, self._device = size, settings, torch.device(device)
        self._limit, self._highest = _TOTAL // size, round(1 / _UNIT)
        # A tree of two levels: the root is summed up at each draw, in one pass that costs less than to search a third.
        self._shift = 4 if size < _FEW else 5
        width = 1 << self._shift  # slots in a block
        num_blocks = -(-size // width)
        self._units = torch.zeros(num_blocks * width, dtype=torch.int64, device=device)
        # A zero, then the sum of each block: their running sum begins with what lies before the first.
        sums = torch.zeros(num_blocks + 1, dtype=torch.int64, device=device)
        self.nbytes = self._units.nbytes + sums.nbytes
        self._ops = ops = ops_of(self._device)
        self._slots, self._padded_sums = ops.array(self._units), ops.array(sums)
        self._blocks, self._sums = self._slots.reshape(-1, width), self._padded_sums[1:]

    def enter(self, slots: Array | slice) -> None:
        """Give slots the highest priority that any had so far, at first 1 (Schaul et al. 2016, algorithm 1, line 6)."""
        self._fill(slots, self._highest)

    def clear(self, slots: Array | slice) -> None:
        """Slots are not drawn any more."""
        self._fill(slots, 0)

    def update(self, numbers: Tensor, priority: Tensor, first: int = 0) -> None:
        """The chance of slots number % size [N] becomes proportional to (priority [N] + floor) ** exponent.

        Numbers before `first` are passed over: their slots belong to others by now. Of two priorities for one slot the
        higher counts. A slot that was cleared gets one too. PriorityError, before anything changes, if a priority is
        negative, not finite or too large to add up.
        """
        if not len(numbers):
            return
        ops, exponent, floor = self._ops, self._settings.exponent, self._settings.floor
        number, value = ops.array(numbers), ops.array(priority.detach().float())
        lowest, highest = float(ops.least(value)), float(ops.most(value))
        if not (lowest >= 0 and highest < math.inf):
            wrong = highest if lowest >= 0 else lowest
            raise PriorityError(
                f"replay: a priority is {wrong}; all must be finite and not negative: did training diverge?"
            )
        most = math.ceil((highest + floor) ** exponent / _UNIT)
        if most > self._limit:
            largest = (self._limit * _UNIT) ** (1 / exponent)
            raise PriorityError(
                f"replay: a priority is {highest:g}, {self.size} slots can hold at most {largest:g}; scale the rewards"
            )
        if int(ops.least(number)) < first:
            there = number >= first
            number, value = number[there], value[there]
        index = number % self.size
        self._highest = max(self._highest, most)
        ops.put_highest(self._slots, index, ops.whole(ops.ceil((value + floor) ** exponent / _UNIT)))
        self._sum(index >> self._shift)

    def sample(
        self, batch_size: int, generator: torch.Generator, beta: float = 1.0, first: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Numbers [N] int64 from `first` to first + size, whose slots are number % size, and importance weights [N].

        One is drawn from each N-th part of all priorities (Schaul et al. 2016, appendix B.2.1), so the slots are in
        order. Weights undo, at beta 1 in full, that some are drawn more often than others; the rarest of the batch has
        weight 1. ValueError if no slot has a priority.
        """
        ops, before = self._ops, self._padded_sums.cumsum(0)
        total = int(before[-1])
        if not total:
            raise ValueError("replay: nothing to draw from yet")
        # In float64, since [0, 1) in float32 has fewer numbers than a part may have slots.
        draw = ops.array(torch.rand(batch_size, generator=generator, dtype=torch.float64, device=self._device))
        draw += ops.arange(batch_size, self._device)
        draw *= total / batch_size * _BELOW_ONE
        target = ops.whole(draw)
        # So few at a time that an int64 holds the sum of all their blocks; but for enormous priorities that is all.
        count = _TOTAL // total
        parts = [self._find(target[start : start + count], before) for start in range(0, batch_size, count)]
        slot = parts[0] if len(parts) == 1 else ops.concatenate(parts)
        units = self._slots.take(slot)
        # Schaul et al. 2016, section 3.4: (count * probability) ** -beta over its maximum, in which the count cancels.
        weight = ops.single(ops.least(units) / units) ** beta
        number = slot - first
        number %= self.size
        number += first
        return ops.tensor(number), ops.tensor(weight)

    def state_dict(self) -> StateDict:
        return {"slots": self._units[: self.size], "highest": self._highest}

    def load_state_dict(self, state: StateDict) -> None:
        """ValueError, before anything changes, if it is of another number of slots."""
        expect_keys("replay priorities", state, {"slots", "highest"})
        saved = state["slots"]
        if saved.shape != (self.size,) or saved.dtype != torch.int64:
            raise ValueError(f"replay: the checkpoint has priorities of {len(saved)} slots, this replay of {self.size}")
        self._highest = state["highest"]
        self._fill(slice(0, self.size), self._ops.array(saved.to(self._device)))

    def _find(self, target: Array, before: Array) -> Array:
        """Slots in which units [n] lie, counted over all slots in order. before: units before each block."""
        ops = self._ops
        block = ops.search(before[1:], target)
        # The blocks in a row: where one lies there, instead of among all.
        own = ops.rows(self._blocks, block)
        inner = own.reshape(-1).cumsum(0)
        target = target - before.take(block)
        target += inner[:: own.shape[1]]
        target -= own[:, 0]
        slot = ops.search(inner, target)
        slot &= own.shape[1] - 1
        block <<= self._shift
        slot += block
        return slot

    def _fill(self, slots: Array | slice, units: Array) -> None:
        if isinstance(slots, slice):
            start, stop, _ = slots.indices(self.size)
            self._slots[start:stop] = units
            blocks = slice(start >> self._shift, (stop - 1 >> self._shift) + 1)
            self._sums[blocks] = self._blocks[blocks].sum(1)
        else:
            index = self._ops.array(slots) if isinstance(slots, Tensor) else slots
            self._slots[index] = units
            self._sum(index >> self._shift)

    def _sum(self, block: Array) -> None:
        self._sums[block] = self._ops.row_sums(self._ops.rows(self._blocks, block))


def sequence_priority(error: Tensor, valid: Tensor, mix: float = 0.9) -> Tensor:
    """Priority of sequences: mix * maximum + (1 - mix) * mean of |error| over valid rows, 0 where there is none.

    error, valid: [L, N] -> [N]. Kapturowski et al. 2019, section 2.3.
    """
    size = torch.where(valid, error.abs(), torch.zeros_like(error))
    return mix * size.amax(0) + (1 - mix) * size.sum(0) / valid.sum(0).clamp(min=1)


_UNIT = 2.0**-22  # with 1e6 slots: steps of 2.4e-7 up to 1e6, where float32 has steps of 1.2e-7 around 1
_TOTAL = 2**62  # of all priorities, in units: an int64 with one bit to spare
_BELOW_ONE = 1 - 2.0**-40  # so that no rounding reaches the end of all priorities
_FEW = 2**18  # slots, from which on blocks of 32 are faster to draw from than blocks of 16
