"""Where a sample can begin, of environments in groups that are drawn from apart: many learners with one replay."""

import torch
from torch import Tensor

from .ring import Ring
from .storage import Memory


class GroupedTransitions:
    """Each valid transition, uniformly within its group; environments are in groups of as many, one after another.

    See places.Starts. What is drawn is as many places of each group, one group's after the other's.
    """

    def __init__(self, num_rows: int, is_first: Ring, memory: Memory, groups: int) -> None:
        self.total = 0
        self._num_rows, self._num_envs, self._groups = num_rows, is_first.shape[0], groups
        self._is_first, self._memory = is_first, memory
        self._most = num_rows * self._num_envs // groups  # places of a group at a time
        self.nbytes = 8 * groups * (self._most + 1)
        # A ring for each group, oldest first, and one entry more, for what is not to be written: so no shape depends on
        # numbers, and no device is waited for. [G, most + 1]
        self._numbers = torch.empty(0, device="meta")
        self._begin = self._end = torch.zeros(groups, 1, dtype=torch.int64, device=memory.home)  # places ever written
        self._least = 0

    def __len__(self) -> int:
        """Transitions of the group that has fewest."""
        return self._least

    @property
    def num_starts(self) -> int:
        return self.total - self._oldest(self.total)

    def add(self, is_first: Tensor) -> None:
        valid = is_first[1:].logical_not()
        before, after = self._oldest(self.total), self._oldest(self.total + len(valid))
        gone = self._is_first.read(before + 1, after + 1).logical_not()
        self._begin = self._begin + self._by_group(gone).sum(1, keepdim=True)
        self._append(valid, self.total)
        self.total += len(valid)

    def draw(self, batch_size: int, beta: float, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        shape = (self._groups, batch_size // self._groups)
        # As even as 53 bits are, for any number of places; randint takes the same bound for all groups.
        share = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
        number = (share * (self._end - self._begin)).long() + self._begin
        return self._numbers.gather(1, number % self._most).flatten(), None

    def update(self, places: Tensor, priority: Tensor) -> None:
        raise ValueError("replay: it draws uniformly and has no priorities to set")

    def allocate(self) -> None:
        self._numbers = self._memory.zeros((self._groups, self._most + 1), torch.int64)

    def load(self, total: int) -> None:
        oldest = self._oldest(total)
        self._begin = self._end = torch.zeros_like(self._begin)
        self._append(self._is_first.read(oldest + 1, total + 1).logical_not(), oldest)
        self.total = total

    def _append(self, valid: Tensor, start: int) -> None:
        """The transitions among rows [T, B] from number `start` on."""
        is_there = self._by_group(valid)
        end = self._end + is_there.cumsum(1)
        first = start * self._num_envs
        places = torch.arange(first, first + valid.numel(), device=valid.device).view(valid.shape)
        at = torch.where(is_there, (end - 1) % self._most, self._most)
        self._numbers.scatter_(1, at, self._by_group(places))
        self._end = self._end + is_there.sum(1, keepdim=True)
        self._least = int((self._end - self._begin).min())  # the one synchronisation

    def _by_group(self, rows: Tensor) -> Tensor:
        """[T, B] -> [G, T * B / G], time-major within a group."""
        return rows.view(len(rows), self._groups, self._num_envs // self._groups).transpose(0, 1).flatten(1)

    def _oldest(self, total: int) -> int:
        return max(total - self._num_rows, 0)
