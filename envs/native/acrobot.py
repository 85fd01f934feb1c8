"""Acrobot."""

import math
from typing import ClassVar

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from .draws import uniform
from .game import Game


class Acrobot(Game):
    """Two links to be swung up by a torque between them (Sutton 1996), as gymnasium's Acrobot-v1, in float32.

    State: angles of the first link, from hanging down, and of the second, from the first; their velocities.
    Observation: cosine and sine of each angle, and the velocities. Actions: torque -1, 0 or 1.
    The dynamics are chaotic: two episodes that differ by a rounding error part after some tens of steps.
    """

    env_id: ClassVar[str] = "graftwork/Acrobot-v1"
    num_actions: ClassVar[int] = 3
    max_episode_steps: ClassVar[int | None] = 500
    num_initial_draws: ClassVar[int] = 4

    @property
    def observation_space(self) -> Box:
        high = np.array([1, 1, 1, 1, _MAX_SPIN_1, _MAX_SPIN_2], np.float32)
        return Box(-high, high, dtype=np.float32)

    def initial(self, bits: Tensor) -> Tensor:
        return uniform(bits, -0.1, 0.1)

    def step(self, state: Tensor, action: Tensor, bits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        torque = (action - 1).float()
        # One step of the classical Runge-Kutta method.
        k1 = _slope(state, torque)
        k2 = _slope(state + k1 * (_SECONDS / 2), torque)
        k3 = _slope(state + k2 * (_SECONDS / 2), torque)
        k4 = _slope(state + k3 * _SECONDS, torque)
        state = state + (k1 + k4 + (k2 + k3) * 2) * (_SECONDS / 6)
        angles, spin_1, spin_2 = torch.split(state, [2, 1, 1], -1)
        angles = torch.remainder(angles + math.pi, 2 * math.pi) - math.pi
        spin_1 = spin_1.clamp(-_MAX_SPIN_1, _MAX_SPIN_1)
        spin_2 = spin_2.clamp(-_MAX_SPIN_2, _MAX_SPIN_2)
        angle_1, angle_2 = angles.unbind(-1)
        terminated = angle_1.cos() + (angle_1 + angle_2).cos() < -_HEIGHT
        return torch.cat((angles, spin_1, spin_2), -1), terminated.float() - 1, terminated

    def observe(self, state: Tensor) -> Tensor:
        angle_1, angle_2, spin_1, spin_2 = state.unbind(-1)
        return torch.stack((angle_1.cos(), angle_1.sin(), angle_2.cos(), angle_2.sin(), spin_1, spin_2), -1)


_SECONDS = 0.2  # of a step
_GRAVITY = 9.8
_MAX_SPIN_1, _MAX_SPIN_2 = 4 * math.pi, 9 * math.pi
_HEIGHT = 1.0  # that the end must reach, above the joint that does not move


def _slope(state: Tensor, torque: Tensor) -> Tensor:
    """Derivative of the state by time, [B, 4].

    Sutton & Barto 1998, section 11.3, for links of mass, length and moment of inertia 1, their centres in the middle.
    """
    angle_1, angle_2, spin_1, spin_2 = state.unbind(-1)
    sine, cosine = angle_2.sin(), angle_2.cos()
    d1, d2 = cosine + 3.5, cosine + 2.5  # the latter twice the book's
    ratio = d2 / d1
    phi2 = (angle_1 + angle_2).sin()  # by half of gravity, as phi1
    swing = (spin_1 + spin_2 * 0.5) * spin_2
    phi1 = phi2 + angle_1.sin() * 3 - swing * sine * (2 / _GRAVITY)
    gain = torque - phi2 * (_GRAVITY / 2) + ratio * phi1 * (_GRAVITY / 4)
    turn_2 = (gain - spin_1 * spin_1 * sine * 0.5) / (1.25 - ratio * d2 * 0.25)
    turn_1 = (phi1 + d2 * turn_2 * (1 / _GRAVITY)) / d1 * (-_GRAVITY / 2)
    return torch.stack((spin_1, spin_2, turn_1, turn_2), -1)
