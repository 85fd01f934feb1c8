"""CartPole."""

import math
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .draws import uniform
from .game import Game


class CartPole(Game):
    """A pole balanced on a cart (Barto, Sutton & Anderson 1983), as gymnasium's CartPole-v1, in float32.

    State and observation: position and velocity of the cart, angle and angular velocity of the pole.
    """

    sutton_barto_reward: bool = False  # 0 a step and -1 for the last one, in place of 1 a step

    env_id: ClassVar[str] = "graftwork/CartPole-v1"
    num_actions: ClassVar[int] = 2
    max_episode_steps: ClassVar[int | None] = 500
    num_initial_draws: ClassVar[int] = 4

    @property
    def observation_space(self) -> Box:
        high = np.array([2 * _MAX_POSITION, np.inf, 2 * _MAX_ANGLE, np.inf], np.float32)
        return Box(-high, high, dtype=np.float32)

    def initial(self, bits: Tensor) -> Tensor:
        return uniform(bits, -0.05, 0.05)

    def step(self, state: Tensor, action: Tensor, bits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        _, velocity, angle, spin = state.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        # Florian 2007, Correct equations for the dynamics of the cart-pole system, equations 23 and 24, no friction.
        push = action * (2 * _PUSH) - _PUSH
        pull = push + spin * spin * sine * _POLE
        inertia = 4 / 3 * _LENGTH - cosine * cosine * _POLE
        turn = (sine * _GRAVITY - cosine * pull) / inertia
        acceleration = pull - turn * cosine * _POLE
        state = state + torch.stack((velocity, acceleration, spin, turn), -1) * _SECONDS
        position, _, angle, _ = state.unbind(-1)
        terminated = (position.abs() > _MAX_POSITION) | (angle.abs() > _MAX_ANGLE)
        reward = -terminated.float() if self.sutton_barto_reward else torch.ones_like(velocity)
        return state, reward, terminated

    def observe(self, state: Tensor) -> Tensor:
        return state


_GRAVITY = 9.8
_LENGTH = 0.5  # of half the pole
_MASS = 1.1  # of cart and pole
_POLE = 0.1 * _LENGTH / _MASS  # mass and length of the pole, by the mass of all
_PUSH = 10.0 / _MASS
_SECONDS = 0.02  # of a step
_MAX_POSITION = 2.4
_MAX_ANGLE = 12 * 2 * math.pi / 360
