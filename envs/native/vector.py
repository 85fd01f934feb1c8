"""The native games as gymnasium's vector environments, NumPy in and out, and their ids."""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from ..gymnasium_envs import TRAINING
from ..minatar import MinAtar
from .acrobot import Acrobot
from .base import Live, Simulation
from .breakout import Breakout, FullBreakout
from .cartpole import CartPole
from .draws import env_keys
from .game import Game
from .mountain_car import MountainCar

Array = npt.NDArray[Any]


class NativeVectorEnv(VectorEnv[Array, Array, Array]):
    """A native game for whoever steps gymnasium.vector.VectorEnv: next-step autoreset, arrays of their own, no infos.

    After reset(seed=...) come the episodes that a training run of that seed would play, from the first on; a reset
    without one begins each environment's next.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as gymnasium has it

    def __init__(self, game: Game, num_envs: int, max_episode_steps: int | None) -> None:
        """max_episode_steps: in place of the game's own."""
        self.num_envs = num_envs
        self.single_observation_space = game.observation_space
        self.single_action_space = Discrete(game.num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._simulation = Simulation(game, max_episode_steps or game.max_episode_steps, autoreset=True)
        self._live: Live | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """options: none are known."""
        super().reset(seed=seed)
        if self._live is not None and seed is None:
            key, episode = self._live.env_key, self._live.episode + 1
        else:
            source = int(self.np_random.integers(2**63)) if seed is None else seed
            key = env_keys(source, TRAINING, self.num_envs)
            episode = torch.zeros_like(key)
        self._live = self._simulation.begin(key, episode)
        return _array(self._simulation.observe(self._live.state)), {}

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Raises ValueError for what the action space does not hold, ResetNeeded before the first reset."""
        if self._live is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        chosen = np.asarray(actions)
        if chosen not in self.action_space:
            raise ValueError(f"actions must be {self.num_envs} of {self.single_action_space}, got {actions!r}")
        action, some_ended = torch.from_numpy(chosen.astype(np.int64)), bool(self._live.ended.any())
        self._live, row = self._simulation.step(self._live, action, some_ended=some_ended)
        observation, reward, terminated, truncated = map(_array, row)
        return observation, reward, terminated, truncated, {}


def _array(part: Tensor) -> Array:
    """A copy: the next step goes on from the tensor."""
    array: Array = part.numpy().copy()
    return array


def acrobot(num_envs: int = 1, max_episode_steps: int | None = None) -> NativeVectorEnv:
    return NativeVectorEnv(Acrobot(), num_envs, max_episode_steps)


def cartpole(
    num_envs: int = 1, max_episode_steps: int | None = None, sutton_barto_reward: bool = False
) -> NativeVectorEnv:
    return NativeVectorEnv(CartPole(sutton_barto_reward=sutton_barto_reward), num_envs, max_episode_steps)


def mountain_car(
    num_envs: int = 1, max_episode_steps: int | None = None, goal_velocity: float = 0.0
) -> NativeVectorEnv:
    return NativeVectorEnv(MountainCar(goal_velocity=goal_velocity), num_envs, max_episode_steps)


def breakout(
    num_envs: int = 1, max_episode_steps: int | None = None, sticky_action_prob: float = 0.1
) -> NativeVectorEnv:
    return NativeVectorEnv(Breakout(sticky_action_prob=sticky_action_prob), num_envs, max_episode_steps)


def full_breakout(
    num_envs: int = 1, max_episode_steps: int | None = None, sticky_action_prob: float = 0.1
) -> NativeVectorEnv:
    return NativeVectorEnv(FullBreakout(sticky_action_prob=sticky_action_prob), num_envs, max_episode_steps)


def single_breakout(sticky_action_prob: float = 0.1) -> MinAtar:
    return MinAtar("breakout", True, sticky_action_prob)


def single_full_breakout(sticky_action_prob: float = 0.1) -> MinAtar:
    return MinAtar("breakout", False, sticky_action_prob)


def register() -> None:
    """Make the games known to gymnasium: make_vec makes native ones, and make the originals that they agree with."""
    control = "gymnasium.envs.classic_control"
    for game, vector, single, threshold in (
        (Acrobot, acrobot, f"{control}.acrobot:AcrobotEnv", -100.0),
        (CartPole, cartpole, f"{control}.cartpole:CartPoleEnv", 475.0),
        (MountainCar, mountain_car, f"{control}.mountain_car:MountainCarEnv", -110.0),
        (Breakout, breakout, f"{__name__}:single_breakout", None),
        (FullBreakout, full_breakout, f"{__name__}:single_full_breakout", None),
    ):
        gymnasium.register(
            game.env_id,
            single,
            vector_entry_point=f"{__name__}:{vector.__name__}",
            max_episode_steps=game.max_episode_steps,
            reward_threshold=threshold,
        )
