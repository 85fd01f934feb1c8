"""What a parity check finds, and what both sides of one are given."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from pydantic import JsonValue
from torch import Tensor

from ..envs.address import AddressedEnv, AnyEnv
from ..envs.gymnasium_envs import TRAINING


@dataclass(frozen=True)
class ParityRow:
    """One quantity, of both sides."""

    check: str
    env: str
    seed: int
    steps: int  # environment steps
    updates: int
    truncations: int  # episodes that were cut short
    what: str
    difference: float  # the largest of its entries
    tolerance: float  # that it may be; 0 asks for the same bits

    @property
    def is_equal(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN

    @property
    def verdict(self) -> Literal["equal", "differs"]:
        return "equal" if self.is_equal else "differs"

    def record(self) -> dict[str, JsonValue]:
        return {**asdict(self), "verdict": self.verdict}


def largest_difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], names: Mapping[str, str]) -> float:
    """Of the tensors that have names in both, ours to theirs."""
    # By torch's max, which a NaN gets through; Python's drops one.
    return torch.stack([(ours[own] - theirs[other]).abs().max() for own, other in names.items()]).max().item()


def their_env(env: AnyEnv, seed: int) -> AnyEnv:
    """The environment, its episodes begun as ours are."""
    return AddressedEnv(env, seed, TRAINING, 0, autoreset=True)


class Noise(gymnasium.Env[Any, np.int64]):
    """Observations, rewards and ends by chance: something of every kind for one update to learn from."""

    def __init__(self, space: spaces.Box, num_actions: int = 5) -> None:
        self.observation_space, self.action_space = space, spaces.Discrete(num_actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward, ends, cut = self.np_random.normal(), self.np_random.random() < 0.1, self.np_random.random() < 0.1
        return self._observation(), reward, ends, cut and not ends, {}

    def _observation(self) -> Any:
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        if space.dtype == np.uint8:
            return self.np_random.integers(0, 256, space.shape, np.uint8)
        return self.np_random.normal(size=space.shape).astype(np.float32)


VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (4, 84, 84), np.uint8)
