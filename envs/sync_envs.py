"""Environments stepped in turn in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box

from .address import AddressedEnv
from .contract import one_line


class SyncEnvs:
    """What GymnasiumEnvs asks of gymnasium's SyncVectorEnv, in half of its time for one environment.

    Less is to be done here: an AddressedEnv begins its next episode itself and gives plain values, no infos. Every row
    is new memory.
    """

    def __init__(self, makers: Sequence[Callable[[], AddressedEnv]]) -> None:
        """ValueError if the environments' spaces differ."""
        self.envs = [make() for make in makers]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        for env in self.envs:
            for space, first in (
                (env.observation_space, self.single_observation_space),
                (env.action_space, self.single_action_space),
            ):
                if space != first:
                    self.close()
                    raise ValueError(f"environments must have one space, got {one_line(first)} and {one_line(space)}")
        assert isinstance(self.single_observation_space, Box)
        self._shape = (len(self.envs), *self.single_observation_space.shape)
        self._dtype = self.single_observation_space.dtype

    def reset(self, options: dict[str, Any]) -> npt.NDArray[Any]:
        observation = np.empty(self._shape, self._dtype)
        for i, env in enumerate(self.envs):
            observation[i] = env.reset(options=options)[0]
        return observation

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Observation, reward, terminated and truncated of every environment."""
        num_envs = len(self.envs)
        observation, reward = np.empty(self._shape, self._dtype), np.empty(num_envs)
        terminated, truncated = np.empty(num_envs, np.bool_), np.empty(num_envs, np.bool_)
        for i, env in enumerate(self.envs):
            observation[i], reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
        return observation, reward, terminated, truncated

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(env, name) for env in self.envs)

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        for env, value in zip(self.envs, values, strict=True):
            setattr(env, name, value)

    def close(self) -> None:
        for env in self.envs:
            env.close()
