"""The two published protocols of Atari, each whole: how a game is begun, stepped, seen, ended and scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.wrappers import AtariPreprocessing
from pydantic import JsonValue

from .address import AnyEnv

Frame = npt.NDArray[np.uint8]

ProtocolName: TypeAlias = Literal["atari-machado", "atari-noframeskip"]

NAMESPACE = "ALE/"
FRAME_SKIP = 4  # emulator frames of a step
MAX_STEPS = 27_000  # of a game: 108,000 frames, half an hour
SIZE = 84  # pixels of a frame's side
FRAME_STACK = 4
NOOP, FIRE = 0, 1  # by number, in every game that has the second


@dataclass(frozen=True)
class Protocol:
    """What differs between protocols. Both: 84x84 grey, the maximum of the last two of four frames, minimal actions.

    Both train on the sign of a reward, and tell the true score.
    """

    sticky: float  # chance of each frame that the emulator repeats the action before
    no_ops: int  # a game begins with 1 to so many idle frames; 0: with none
    presses_fire: bool  # to begin a game, and to go on with it after a lost life, in games that have the action
    life_is_terminal: bool  # in training: a lost life ends an episode, and the next goes on with the game


PROTOCOLS: dict[ProtocolName, Protocol] = {
    # Machado et al. 2018, section 5, and Dopamine (Castro et al. 2018) where they differ: the minimal action set.
    "atari-machado": Protocol(sticky=0.25, no_ops=0, presses_fire=False, life_is_terminal=False),
    # Mnih et al. 2015, methods, as Stable-Baselines3's AtariWrapper and CleanRL have it around NoFrameskip-v4.
    "atari-noframeskip": Protocol(sticky=0.0, no_ops=30, presses_fire=True, life_is_terminal=True),
}

FIXED = (
    "frameskip",
    "repeat_action_probability",
    "full_action_space",
    "max_num_frames_per_episode",
    "obs_type",
    "sound_obs",
    "continuous",
    "continuous_action_threshold",
)
"""Arguments of ale-py's environment that a protocol settles."""


def is_id(env_id: str) -> bool:
    """Whether it is one of ale-py's, with or without the module to import."""
    return env_id.removeprefix("ale_py:").startswith(NAMESPACE)


def register() -> None:
    """Make ale-py's ids known to gymnasium. DependencyNotInstalled without the package."""
    if find_spec("ale_py") is None:
        raise gymnasium.error.DependencyNotInstalled("ale-py; pip install 'graftwork[atari]'")
    ale_py: Any = import_module("ale_py")
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # or each emulator prints a banner
    gymnasium.register_envs(ale_py)


def make(
    env_id: str, protocol: Protocol, training: bool, max_episode_steps: int | None, kwargs: dict[str, JsonValue]
) -> AnyEnv:
    """A game by its protocol; kwargs are further ones of ale-py's environment: mode, difficulty, render_mode.

    DependencyNotInstalled without OpenCV, and what gymnasium.make raises.
    """
    if find_spec("cv2") is None:
        raise gymnasium.error.DependencyNotInstalled("opencv-python-headless; pip install 'graftwork[atari]'")
    arguments: dict[str, Any] = {
        **kwargs,
        "frameskip": 1,  # AtariPreprocessing skips
        "repeat_action_probability": protocol.sticky,
        "full_action_space": False,
        "max_num_frames_per_episode": 0,  # AtariGame counts steps
        "obs_type": "grayscale",
    }
    env: AnyEnv = gymnasium.make(env_id, disable_env_checker=True, **arguments)
    env = AtariPreprocessing(env, noop_max=protocol.no_ops, frame_skip=FRAME_SKIP, screen_size=SIZE)
    return AtariGame(env, protocol, training, most_steps(max_episode_steps))


def most_steps(max_episode_steps: int | None) -> int:
    """Steps after which a game is truncated."""
    return MAX_STEPS if max_episode_steps is None else min(MAX_STEPS, max_episode_steps)


def emulator_seed(seed: int) -> tuple[int, int]:
    """A seed for ale-py's environment, this one or if it won't do one made of it, and what it then gives the emulator.

    That has to be from 1 to 2**31 - 1: ale-py's vector environment takes no negative one, and 0 stands for the clock.
    """
    while True:
        sequence = np.random.SeedSequence(seed)
        emulator = int(sequence.generate_state(2)[1])  # as ale_py.env.AtariEnv.seed_game has it
        if 0 < emulator < 2**31:
            return seed, emulator
        seed = int(sequence.generate_state(1, np.uint64)[0])


class AtariGame(gymnasium.Wrapper[Frame, np.int64, Frame, np.int64]):
    """One game by the rules of a protocol, around frames that were skipped, pooled and made small.

    In training, rewards are clipped to their sign, and where a protocol has it so a lost life is terminal: then the
    next reset() without a seed goes on with the game, while reset(seed=...) always begins a new one, which that seed
    determines. In evaluation an episode is a whole game with its own rewards.
    """

    def __init__(self, env: AnyEnv, protocol: Protocol, training: bool, max_steps: int) -> None:
        super().__init__(env)
        self._max_steps = max_steps
        self._clips, self._ends_with_life = training, training and protocol.life_is_terminal
        unwrapped: Any = env.unwrapped
        self._ale = unwrapped.ale
        fires = protocol.presses_fire and fire_of(unwrapped.get_action_meanings()) is not None
        # Stable-Baselines3's FireResetEnv takes the action after FIRE too, and its EpisodicLifeEnv a no-op before them.
        self._to_begin: tuple[int, ...] = (FIRE, FIRE + 1) if fires else ()
        self._to_go_on: tuple[int, ...] = (NOOP, *self._to_begin)
        self._frame: Any = None
        self._lives = self._steps = 0
        self._return = 0.0
        self.game_continues = False
        """Whether a life was lost, but not the game."""
        self.game_score: tuple[float, int] | None = None
        """True return of a game and how many steps were asked for in it, once it is over."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        if seed is None and self.game_continues:
            self.game_continues = False
            if not any(self._press(self._to_go_on)[1:]):
                return self._frame, {}
        self._begin(seed)
        if any(self._press(self._to_begin)[1:]):  # a button that ends a game is not pressed twice
            self._begin(None)
        return self._frame, {}

    def step(self, action: np.int64) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        lives = self._lives
        self._steps += 1
        reward, terminated, truncated = self._play(action)
        truncated = truncated or self._steps >= self._max_steps
        # Some games are at 0 for a few frames before they are over.
        if 0 < self._lives < lives and not (terminated or truncated):
            if self._ends_with_life:
                self.game_continues = terminated = True
            elif self._to_begin:  # nobody has learnt to press it
                pressed, terminated, truncated = self._press(self._to_go_on)
                reward += pressed
        if (terminated or truncated) and not self.game_continues:
            self.game_score = (self._return, self._steps)
        return self._frame, float(np.sign(reward)) if self._clips else reward, terminated, truncated, {}

    def _begin(self, seed: int | None) -> None:
        self._frame, _ = self.env.reset(seed=None if seed is None else emulator_seed(seed)[0])
        self._lives, self._steps, self._return = self._ale.lives(), 0, 0.0
        self.game_continues, self.game_score = False, None

    def _press(self, actions: Sequence[int]) -> tuple[float, bool, bool]:
        """Reward of those actions, terminated and truncated."""
        total = 0.0
        for action in actions:
            reward, terminated, truncated = self._play(np.int64(action))
            total += reward
            if terminated or truncated:
                return total, terminated, truncated
        return total, False, False

    def _play(self, action: np.int64) -> tuple[float, bool, bool]:
        self._frame, step_reward, terminated, truncated, _ = self.env.step(action)
        reward = float(step_reward)
        self._return += reward
        self._lives = self._ale.lives()
        return reward, terminated, truncated


def fire_of(meanings: Sequence[str]) -> int | None:
    """The number of the action FIRE, if there is one to begin a game with."""
    return FIRE if len(meanings) > FIRE + 1 and meanings[FIRE] == "FIRE" else None
