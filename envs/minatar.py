"""MinAtar's five games (Young & Tian 2019) as gymnasium environments."""

import warnings
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, Discrete
from pydantic import JsonValue

Observation = npt.NDArray[np.bool_]

NAMESPACE = "MinAtar/"
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
NUM_ACTIONS = 6  # no-op, left, up, right, down, fire: of every game
NOOP = 0


class Game(Protocol):
    """What the package's modules call Env."""

    random: np.random.RandomState

    def reset(self) -> None: ...

    def act(self, a: int) -> tuple[float, bool]: ...

    def state(self) -> Observation: ...

    def state_shape(self) -> list[int]: ...

    def minimal_action_set(self) -> list[int]: ...


class MinAtar(gymnasium.Env[Observation, np.int64]):
    """Observes [C, 10, 10] bool, one channel for each kind of object.

    reset(seed=...) determines an episode. Deviation from the package: its stickiness would repeat, at the first step of
    an episode, the last action of the episode before; here it repeats a no-op. There is no limit of steps, but that of
    Freeway, which counts as termination.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # as gymnasium declares it

    def __init__(
        self,
        game: str,
        minimal_actions: bool,
        sticky_action_prob: float = 0.1,
        difficulty_ramping: bool = True,
        render_mode: None = None,
    ) -> None:
        """Defaults are those of Young & Tian 2019, section 2. DependencyNotInstalled without the package."""
        if not 0 <= sticky_action_prob <= 1:
            raise ValueError(f"sticky_action_prob must be in [0, 1], got {sticky_action_prob}")
        self._game = _game(game, difficulty_ramping)
        self._actions = self._game.minimal_action_set() if minimal_actions else list(range(NUM_ACTIONS))
        self._sticky = sticky_action_prob
        self._action = NOOP
        height, width, channels = self._game.state_shape()
        bits: Any = np.bool_  # gymnasium's annotations know only numbers
        self.observation_space = Box(0, 1, (channels, height, width), bits)
        self.action_space = Discrete(len(self._actions))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            # The games draw from a RandomState, whose own seeding takes no more than 32 bits.
            self._game.random = np.random.RandomState(self.np_random.bit_generator)
        self._action = NOOP
        self._game.reset()
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        # In this order minatar.Environment.act draws and plays.
        if self._game.random.rand() >= self._sticky:
            self._action = self._actions[action]
        reward, terminated = self._game.act(self._action)
        return self._observe(), float(reward), terminated, False, {}

    def _observe(self) -> Observation:
        return self._game.state().transpose(2, 0, 1)  # the package makes a new array for each


def register() -> None:
    """Make the games known to gymnasium by the package's ids: MinAtar/Breakout-v0 has six actions, -v1 the minimal set.

    Not its own registration: that imports seaborn, observes channels last, and can't seed with more than 32 bits.
    """
    for game in GAMES:
        for version in (0, 1):
            env_id = f"{NAMESPACE}{game.title().replace('_', '')}-v{version}"
            if env_id not in gymnasium.registry:
                gymnasium.register(
                    env_id, f"{__name__}:MinAtar", kwargs={"game": game, "minimal_actions": version == 1}
                )


def make(env_id: str, max_episode_steps: int | None, kwargs: dict[str, JsonValue]) -> gymnasium.Env[Any, Any]:
    """A game by its id; raises what gymnasium.make does."""
    register()
    arguments: dict[str, Any] = {"max_episode_steps": max_episode_steps, "disable_env_checker": True, **kwargs}
    with warnings.catch_warnings():
        # gymnasium takes version 0 for an older one, but it is the one with more actions.
        warnings.filterwarnings("ignore", r".*MinAtar/.* is out of date", DeprecationWarning)
        return gymnasium.make(env_id, **arguments)


def _game(name: str, difficulty_ramping: bool) -> Game:
    package = find_spec("minatar")
    if package is None or package.origin is None:
        raise gymnasium.error.DependencyNotInstalled("minatar; pip install 'graftwork[minatar]'")
    # By its file: an import of the package would first import seaborn and matplotlib, to draw what nobody asked for.
    path = Path(package.origin).parent / "environments" / f"{name}.py"
    found = spec_from_file_location(f"{__name__}_{name}", path)
    assert isinstance(found, ModuleSpec)
    assert found.loader is not None
    module: Any = module_from_spec(found)
    found.loader.exec_module(module)
    game: Game = module.Env(ramping=difficulty_ramping)
    return game
