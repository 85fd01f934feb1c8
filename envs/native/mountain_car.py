"""MountainCar."""

from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .draws import uniform
from .game import Game


class MountainCar(Game):
    """A car too weak for its hill (Moore 1990), as gymnasium's MountainCar-v0, in float32.

    State and observation: position and velocity. Actions: left, nothing, right.
    """

    goal_velocity: float = 0.0  # with which the goal must be passed at least

    env_id: ClassVar[str] = "graftwork/MountainCar-v0"
    num_actions: ClassVar[int] = 3
    max_episode_steps: ClassVar[int | None] = 200
    num_initial_draws: ClassVar[int] = 1

    @property
    def observation_space(self) -> Box:
        low, high = np.array([[_LEFT, -_MAX_SPEED], [_RIGHT, _MAX_SPEED]], np.float32)
        return Box(low, high, dtype=np.float32)

    def initial(self, bits: Tensor) -> Tensor:
        position = uniform(bits, -0.6, -0.4)
        return torch.cat((position, torch.zeros_like(position)), -1)

    def step(self, state: Tensor, action: Tensor, bits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        # Sutton & Barto 2018, example 10.1.
        position, velocity = state.unbind(-1)
        velocity = velocity + (action - 1) * _FORCE - (3 * position).cos() * _GRAVITY
        velocity = velocity.clamp(-_MAX_SPEED, _MAX_SPEED)
        position = (position + velocity).clamp(_LEFT, _RIGHT)
        velocity = velocity.masked_fill((position == _LEFT) & (velocity < 0), 0.0)
        terminated = (position >= _GOAL) & (velocity >= self.goal_velocity)
        return torch.stack((position, velocity), -1), torch.full_like(position, -1.0), terminated

    def observe(self, state: Tensor) -> Tensor:
        return state


_LEFT, _RIGHT, _GOAL = -1.2, 0.6, 0.5
_MAX_SPEED = 0.07
_FORCE, _GRAVITY = 0.001, 0.0025
