"""Environments whose observations can be put into rows."""

from collections import OrderedDict
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from ..spaces import Leaf, leaves, observation_of


class Arrays(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observes what spaces.to_arrays makes of an observation: an array, or a flat dict of them by leaf name.

    Its space is a Box, or a flat Dict of them, without bounds; a vector environment has no other way to make rows.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """ValueError for a space that has no leaves."""
        super().__init__(env)
        self._leaves = leaves(env.observation_space)
        boxes = observation_of({name: _box(leaf) for name, leaf in self._leaves.items()})
        # An OrderedDict stays in order: gymnasium sorts the names of another.
        self.observation_space = boxes if isinstance(boxes, spaces.Box) else spaces.Dict(OrderedDict(boxes))

    def observation(self, observation: Any) -> Any:
        return observation_of({name: leaf.array(leaf.find(observation)) for name, leaf in self._leaves.items()})


def in_arrays(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment as it is if it observes a Box, and otherwise in Arrays."""
    return env if isinstance(env.observation_space, spaces.Box) else Arrays(env)


def _box(leaf: Leaf) -> spaces.Box:
    low, high, dtype = _BOUNDS[leaf.dtype]
    return spaces.Box(low, high, leaf.shape, dtype)


_BOUNDS: dict[torch.dtype, tuple[Any, Any, Any]] = {
    torch.float32: (-np.inf, np.inf, np.float32),
    torch.bool: (0, 1, np.bool_),
    torch.uint8: (0, 255, np.uint8),
    torch.int64: (0, np.iinfo(np.int64).max, np.int64),
}
