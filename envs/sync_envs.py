"""Environments stepped in turn in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Dict

from ..spaces import one_line
from .address import AddressedEnv


class SyncEnvs:
    """What GymnasiumEnvs asks of gymnasium's SyncVectorEnv, in half of its time for one environment.

    Less is to be done here: an AddressedEnv begins its next episode itself and gives plain values; infos are not
    gathered. Every row is new memory.
    """

    def __init__(self, makers: Sequence[Callable[[], AddressedEnv]]) -> None:
        """ValueError if the environments' spaces differ."""
        self.envs = [make() for make in makers]
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        for env in self.envs:
            for space, first in (
                (env.own_space, self.envs[0].own_space),
                (env.action_space, self.single_action_space),
            ):
                if space != first:
                    self.close()
                    raise ValueError(f"environments must have one space, got {one_line(first)} and {one_line(space)}")
        space = self.single_observation_space
        self._parts = dict(space.items()) if isinstance(space, Dict) else None
        self._shape, self._dtype = (len(self.envs), *(space.shape or ())), space.dtype

    def reset(self, options: dict[str, Any]) -> Any:
        """Observation of every environment, [B, *obs] or a dict of such."""
        return self._rows([env.reset(options=options)[0] for env in self.envs])

    def step(
        self, actions: npt.NDArray[Any]
    ) -> tuple[Any, npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Observation, reward, terminated and truncated of every environment."""
        num_envs, is_dict = len(self.envs), self._parts is not None
        # A Box, the hot case, goes into its rows at once.
        observation: Any = [None] * num_envs if is_dict else np.empty(self._shape, self._dtype)
        reward = np.empty(num_envs)
        terminated, truncated = np.empty(num_envs, np.bool_), np.empty(num_envs, np.bool_)
        for i, env in enumerate(self.envs):
            observation[i], reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
        return self._rows(observation) if is_dict else observation, reward, terminated, truncated

    def _rows(self, observations: Sequence[Any]) -> Any:
        if self._parts is None:
            rows = np.empty(self._shape, self._dtype)
            for i, observation in enumerate(observations):
                rows[i] = observation
            return rows
        return {name: np.array([each[name] for each in observations], part.dtype) for name, part in self._parts.items()}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Of every environment's newest row, [B, A] or [B, D, A]."""
        return np.array([env.action_mask for env in self.envs])

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(env, name) for env in self.envs)

    def set_attr(self, name: str, values: Sequence[Any]) -> None:
        for env, value in zip(self.envs, values, strict=True):
            setattr(env, name, value)

    def close(self) -> None:
        for env in self.envs:
            env.close()
