"""Actions that are choices: how many there are, what the environment calls them, and which of them are legal."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Discrete, MultiDiscrete

from ..spaces import one_line

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Choices:
    """The actions of a Discrete or a MultiDiscrete space, counted from 0."""

    sizes: tuple[int, ...]  # actions of each branch
    start: tuple[int, ...]  # the environment's numbers for action 0 of each branch
    is_branched: bool  # MultiDiscrete, if only of one branch

    @cached_property
    def places(self) -> BoolArray:
        """Where a mask says anything, [A], or [D, A] for D branches: what lies beyond a shorter branch is padding."""
        rows = np.arange(max(self.sizes)) < np.array(self.sizes)[:, None]
        return rows if self.is_branched else rows[0]

    def legal(self, mask: Any) -> BoolArray:
        """A mask as an environment gives it, in rows like `places`; new memory.

        For a Discrete space [n] of 0 and 1; for a MultiDiscrete one such for each branch, or all of them joined.
        Raises ValueError for anything else.
        """
        if not self.is_branched:
            return _flags(mask, self.sizes[0], "")
        parts = _parts(mask)
        if parts is None:
            joined = _flags(mask, sum(self.sizes), "")
        elif len(parts) == len(self.sizes):
            named = enumerate(zip(parts, self.sizes, strict=True))
            joined = np.concatenate([_flags(part, size, f" of branch {i}") for i, (part, size) in named])
        else:
            raise ValueError(f"the action mask has {len(parts)} parts, the action space {len(self.sizes)} branches")
        rows = np.zeros(self.places.shape, np.bool_)
        rows[self.places] = joined  # row by row, as they were joined
        return rows

    def opened(self, legal: BoolArray) -> BoolArray:
        """With every action legal in a branch that had none."""
        return np.where(legal.any(-1, keepdims=True), legal, self.places)

    def check(self, legal: BoolArray) -> None:
        """ValueError for a branch without a legal action."""
        if not np.all(some := legal.any(-1)):
            branch = f" of branch {int(np.flatnonzero(~some)[0])}" if self.is_branched else ""
            raise ValueError(f"the action mask forbids every action{branch}")


def choices(space: gymnasium.Space[Any]) -> Choices | None:
    """None if actions are no choices. ValueError for a MultiDiscrete space that is no vector."""
    if isinstance(space, Discrete):
        return Choices((int(space.n),), (int(space.start),), is_branched=False)
    if not isinstance(space, MultiDiscrete):
        return None
    if len(space.shape) != 1:
        raise ValueError(
            f"action space {one_line(space)} is not supported: its shape is {space.shape}; flatten it in a wrapper"
        )
    return Choices(tuple(space.nvec.tolist()), tuple(space.start.tolist()), is_branched=True)


def _parts(mask: Any) -> Sequence[Any] | None:
    """The masks of the branches, None if they are joined."""
    if isinstance(mask, np.ndarray):
        return list(mask) if mask.ndim == 2 else None
    is_parted = isinstance(mask, tuple | list) and any(isinstance(part, np.ndarray | tuple | list) for part in mask)
    return mask if is_parted else None


def _flags(mask: Any, size: int, branch: str) -> BoolArray:
    """[size]"""
    try:
        array = np.asarray(mask)
    except ValueError as error:
        raise ValueError(f"the action mask{branch} is no array of numbers: {one_line(error)}") from error
    if array.shape != (size,):
        raise ValueError(f"the action mask{branch} has shape {array.shape}, the action space says {(size,)}")
    flags: BoolArray = np.equal(array, 1)
    if array.dtype != np.bool_ and not np.all(flags | np.equal(array, 0)):
        other = array[~flags & ~np.equal(array, 0)][0]
        raise ValueError(f"the action mask{branch} holds {one_line(other)}; allowed: 0 and 1")
    return flags
