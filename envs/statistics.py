"""Returns and lengths of episodes, counted by ourselves."""

import numpy as np
import numpy.typing as npt

from .contract import Episode
from .state import StateDict, expect_keys


class EpisodeStatistics:
    """Counts return and length of B environments' running episodes, and keeps those that finished until asked.

    gymnasium's own counter miscounts when only some environments are reset.
    """

    def __init__(self, num_envs: int) -> None:
        self._return = np.zeros(num_envs)
        self._length = np.zeros(num_envs, np.int64)
        self._finished: list[Episode] = []

    def begin(self) -> None:
        """Every environment begins an episode."""
        self._return[:], self._length[:] = 0.0, 0

    def update(
        self, reward: npt.NDArray[np.float64], done: npt.NDArray[np.bool_], is_first: npt.NDArray[np.bool_]
    ) -> None:
        """One row, each [B]; rows that begin an episode count for nothing."""
        self._return += reward
        self._length += 1
        if np.count_nonzero(is_first):
            self._return[is_first], self._length[is_first] = 0.0, 0
        if np.count_nonzero(done):
            for i in done.nonzero()[0]:
                self._finished.append(Episode(float(self._return[i]), int(self._length[i])))
                self._return[i], self._length[i] = 0.0, 0

    def finished(self) -> list[Episode]:
        """Episodes that ended since the last call."""
        episodes, self._finished = self._finished, []
        return episodes

    def state_dict(self) -> StateDict:
        return {"return": self._return.tolist(), "length": self._length.tolist()}

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("episode statistics", state, {"return", "length"})
        self._return[:], self._length[:], self._finished = state["return"], state["length"], []
