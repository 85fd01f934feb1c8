"""Environments stepped in turn in this process."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..spaces import one_line
from .address import Address, AddressedEnv
from .rows import Block


class SyncEnvs:
    """What GymnasiumEnvs asks of gymnasium's SyncVectorEnv, in half of its time for one environment.

    Less is to be done here: an AddressedEnv begins its next episode itself and gives plain values; infos are not
    gathered; and a row is filled in where it lies, in a block.
    """

    def __init__(self, makers: Sequence[Callable[[], AddressedEnv]]) -> None:
        """ValueError if the environments' spaces differ."""
        self.envs = [make() for make in makers]
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space
        for env in self.envs:
            for space, first in ((env.own_space, self.envs[0].own_space), (env.action_space, self.action_space)):
                if space != first:
                    self.close()
                    raise ValueError(f"environments must have one space, got {one_line(first)} and {one_line(space)}")

    def reset(self, options: dict[str, Any], block: Block, row: int) -> None:
        """Begin episodes, and fill in a row of a block."""
        block.begin(row)
        for i, env in enumerate(self.envs):
            _put(env.reset(options=options)[0], block, row, i)

    def step(self, actions: npt.NDArray[Any], block: Block, row: int) -> None:
        """Fill in a row of a block."""
        is_dict = isinstance(block.observation, dict)
        observation: Any = None if is_dict else block.observation[row]
        reward, is_first = block.reward[row], block.is_first[row]
        terminated, truncated = block.terminated[row], block.truncated[row]
        for i, env in enumerate(self.envs):
            is_first[i] = env.ended
            seen, reward[i], terminated[i], truncated[i], _ = env.step(actions[i])
            if is_dict:
                _put(seen, block, row, i)
            else:  # the hot case
                observation[i] = seen

    def restore(self, addresses: Sequence[Address], block: Block, row: int) -> None:
        """Bring each environment to its address, and fill in a row with what it observes there."""
        for env, address in zip(self.envs, addresses, strict=True):
            env.restore_to = address
        self.reset({}, block, row)

    def has_action_mask(self) -> Sequence[bool]:
        """Of each environment; see AddressedEnv."""
        return self.get_attr("has_action_mask")

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Of every environment's newest row, [B, A] or [B, D, A]; new memory."""
        return np.array([env.action_mask for env in self.envs])

    def get_attr(self, name: str) -> tuple[Any, ...]:
        return tuple(getattr(env, name) for env in self.envs)

    def close(self) -> None:
        for env in self.envs:
            env.close()


def _put(observation: Any, block: Block, row: int, env: int) -> None:
    if isinstance(observation, dict):
        for name, rows in block.observation.items():
            rows[row, env] = observation[name]
    else:
        block.observation[row, env] = observation
