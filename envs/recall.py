"""Environments that nobody can solve without a memory: what is asked for at the end was shown at the start alone."""

from typing import Any, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete

Observation: TypeAlias = npt.NDArray[np.float32]


class DelayedRecall(gymnasium.Env[Observation, np.int64]):
    """Shows a symbol, then `length` blank rows, then the go flag: the action taken there is to name the symbol.

    Observes [symbols + 1]: the symbol one-hot, and the flag. An episode has length + 2 steps; the last is worth 1 if it
    is right, all else 0. With `noise` each blank row shows a symbol too, drawn anew, that means nothing.
    The rows where it counts look all the same, so that without a memory 1 / symbols is the most there is.
    """

    def __init__(self, length: int = 10, symbols: int = 4, noise: bool = False) -> None:
        """ValueError for a length below 0 or fewer than 2 symbols."""
        if length < 0 or symbols < 2:
            raise ValueError(f"length={length}, symbols={symbols}: must be at least 0 and at least 2")
        self.observation_space = Box(0, 1, (symbols + 1,), np.float32)
        self.action_space = Discrete(symbols)
        self._length, self._symbols, self._noise = length, symbols, noise
        self._symbol, self._step = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._symbol, self._step = int(self.np_random.integers(self._symbols)), 0
        return self._row(self._symbol), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._step += 1
        if self._step == self._length + 2:
            return self._row(None), float(action == self._symbol), True, False, {}
        if self._step == self._length + 1:
            return self._row(self._symbols), 0.0, False, False, {}
        shown = int(self.np_random.integers(self._symbols)) if self._noise else None
        return self._row(shown), 0.0, False, False, {}

    def _row(self, place: int | None) -> Observation:
        row = np.zeros(self._symbols + 1, np.float32)
        if place is not None:
            row[place] = 1.0
        return row


class TMaze(gymnasium.Env[Observation, np.int64]):
    """A corridor of `length` steps east to a junction; a cue at its start says whether to turn north or south there.

    Bakker 2002, Reinforcement Learning with Long Short-Term Memory. Observes [3]: 011 (north) or 110 (south) at the
    start, 101 on the way, 010 at the junction.
    Actions: north, east, south, west. A turn at the junction ends the episode; the way there and a turn cost nothing.
    Without a memory half of the turns are right at the most.
    """

    # Deviation from Bakker 2002: 4 for the right turn and -0.1 for the wrong one or for standing still, here divided by
    # 4, so that the best return is 1; and an episode is truncated after 10 * (length + 1) steps.
    _RIGHT, _PENALTY = 1.0, -0.025
    _NORTH, _EAST, _SOUTH, _WEST = range(4)

    def __init__(self, length: int = 10) -> None:
        """ValueError for a length below 1."""
        if length < 1:
            raise ValueError(f"length={length}: must be at least 1")
        self.observation_space = Box(0, 1, (3,), np.float32)
        self.action_space = Discrete(4)
        self._length, self._limit = length, 10 * (length + 1)
        self._goal, self._place, self._step = self._NORTH, 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._goal = (self._NORTH, self._SOUTH)[int(self.np_random.integers(2))]
        self._place, self._step = 0, 0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._step += 1
        truncated = self._step >= self._limit
        turns = action in (self._NORTH, self._SOUTH)
        if turns and self._place == self._length:
            return self._observe(), self._RIGHT if action == self._goal else self._PENALTY, True, False, {}
        before = self._place
        if not turns:
            self._place = min(max(before + (1 if action == self._EAST else -1), 0), self._length)
        return self._observe(), self._PENALTY if self._place == before else 0.0, False, truncated, {}

    def _observe(self) -> Observation:
        if self._place == self._length:
            return np.array([0, 1, 0], np.float32)
        if self._place > 0:
            return np.array([1, 0, 1], np.float32)
        return np.array([0, 1, 1] if self._goal == self._NORTH else [1, 1, 0], np.float32)


def register() -> None:
    """Make both known to gymnasium, as graftwork/DelayedRecall-v0 and graftwork/TMaze-v0."""
    for maker in (DelayedRecall, TMaze):
        gymnasium.register(f"graftwork/{maker.__name__}-v0", f"{__name__}:{maker.__name__}")
