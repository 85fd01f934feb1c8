"""Returns and lengths of episodes, counted by ourselves."""

from functools import reduce
from operator import add
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .contract import Episode
from .state import StateDict, expect_keys

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

_MOST_ROWS = 256  # that wait


class EpisodeStatistics:
    """Counts return and length of B environments' running episodes, and keeps those that finished until asked.

    gymnasium's own counter miscounts when only some environments are reset.
    """

    def __init__(self, num_envs: int) -> None:
        self._return, self._length = [0.0] * num_envs, [0] * num_envs
        self._finished: list[Episode] = []
        self._waiting: list[tuple[FloatArray, BoolArray, BoolArray]] = []
        self._num_waiting = 0
        self._has_ended = False  # an episode, in a row that waits

    def update(self, reward: FloatArray, done: BoolArray, is_first: BoolArray) -> None:
        """So many rows, each [T, B]; those that begin an episode count for nothing. The arrays must stay as they are.

        The rows wait until somebody asks, because to count many at once costs less, and comes to the same bits.
        """
        self._waiting.append((reward, done, is_first))
        self._num_waiting += len(reward)
        self._has_ended = self._has_ended or bool(np.count_nonzero(done))
        if self._num_waiting >= _MOST_ROWS:
            self._count()

    def finished(self) -> list[Episode]:
        """Episodes that ended since the last call."""
        if self._has_ended:
            self._count()
        episodes, self._finished = self._finished, []
        return episodes

    def state_dict(self) -> StateDict:
        self._count()
        return {"return": list(self._return), "length": list(self._length)}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("episode statistics", state, {"return", "length"})
        self._return, self._length = list(state["return"]), list(state["length"])
        self._finished = []
        self._forget()

    def _count(self) -> None:
        """The rows that wait."""
        if not self._waiting:
            return
        reward, done, is_first = (np.concatenate(columns) for columns in zip(*self._waiting, strict=True))
        self._forget()
        begins = [0] * len(self._return)
        rows, envs = (done | is_first).nonzero()  # by row, then by environment
        for row, env in zip(rows.tolist(), envs.tolist(), strict=True):
            self._add(env, reward[begins[env] : row + 1, env])
            if done[row, env]:
                self._finished.append(Episode(self._return[env], self._length[env]))
            self._return[env], self._length[env], begins[env] = 0.0, 0, row + 1
        for env, begin in enumerate(begins):
            self._add(env, reward[begin:, env])

    def _forget(self) -> None:
        self._waiting, self._num_waiting, self._has_ended = [], 0, False

    def _add(self, env: int, reward: FloatArray) -> None:
        # One after another: numpy's sum adds in another order, and Python's corrects its rounding from 3.12 on.
        self._return[env] = reduce(add, reward.tolist(), self._return[env])
        self._length[env] += len(reward)
