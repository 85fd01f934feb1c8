"""Environments whose observation hides part of the state, so that only an agent with a memory can solve them."""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from ..spaces import leaves, one_line
from .address import AnyEnv


class PartialObservation(gymnasium.ObservationWrapper[npt.NDArray[Any], Any, npt.NDArray[Any]]):
    """Shows only some entries of a vector observation: [0, 2] of CartPole are its positions, its velocities hidden."""

    def __init__(self, env: AnyEnv, indices: Sequence[int]) -> None:
        super().__init__(env)
        self.observation_space = part_of(env.observation_space, indices)
        self._whole = leaves(env.observation_space)[""]
        self._indices = np.asarray(indices)

    def observation(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # Of a longer observation the entries would be there, and be others.
        shown: npt.NDArray[Any] = self._whole.check(observation)[self._indices]
        return shown


def part_of(space: gymnasium.Space[Any], entries: Sequence[int]) -> Box:
    """The space of some entries of a vector; ValueError where it is none, or has not those."""
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(f"env.observe needs a vector observation, but the environment has {one_line(space)}")
    size = space.shape[0]
    if not entries or not all(0 <= entry < size for entry in entries):
        raise ValueError(f"env.observe={list(entries)}: must name entries from 0 to {size - 1}")
    shown = list(entries)
    return Box(space.low[shown], space.high[shown], dtype=space.dtype.type)
