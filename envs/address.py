"""Episodes with addresses: any episode can be begun again alone, and half of one restored by replaying its actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from ..spaces import leaves, one_line
from .arrays import Arrays

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]


class EnvironmentFailure(RuntimeError):
    """An environment raised or broke its contract; the text says which, where, and how to begin that episode again."""


def episode_seed(seed: int, stream: int, env_index: int, episode: int) -> int:
    """Seed of one episode, 63 bits; distinct for distinct addresses."""
    # An int seed given to a gymnasium vector env would be seed + env_index: runs 0 and 1 would share all but one.
    address = np.random.SeedSequence((seed, stream, env_index, episode))
    return int(address.generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass(frozen=True)
class Address:
    """Where an environment stands: its episode's index, the actions taken in it, and whether it has ended."""

    episode: int
    actions: Sequence[Any]
    ended: bool


class AddressedEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Seeds each episode by its address and records its actions, so that `Address` is an environment's whole state.

    Holds for environments whose reset(seed=...) determines an episode; state that outlives an episode is not restored.
    With `autoreset` an ended episode is followed by the next; without, the environment rests on its final observation,
    reward 0, until reset(options={"begin": ...}). Every info is empty: nobody asks for it, and gathering it costs.
    """

    def __init__(self, env: AnyEnv, seed: int, stream: int, env_index: int, autoreset: bool) -> None:
        super().__init__(env)
        self._source = (seed, stream, env_index)
        self._autoreset = autoreset
        self._episode, self.ended = -1, True
        self._actions: list[Any] = []
        self._observation: Any = None
        space = env.observation_space
        self._shape, self._dtype = space.shape, space.dtype
        self._box = leaves(space)[""] if isinstance(space, Box) else None  # Arrays has checked the others
        self.restore_to: Address | None = None

    @property
    def env_id(self) -> str:
        spec = self.env.unwrapped.spec
        return type(self.env.unwrapped).__name__ if spec is None else spec.id

    @property
    def own_space(self) -> gymnasium.Space[Any]:
        """Of the observations before we made arrays of them."""
        space: gymnasium.Space[Any] = (self.env.env if isinstance(self.env, Arrays) else self.env).observation_space
        return space

    @property
    def address(self) -> Address:
        return Address(self._episode, list(self._actions), self.ended)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """options: {"begin": index} begins that episode, {"begin": None} the next; without is an autoreset."""
        if self.restore_to is not None:
            return self._restore(self.restore_to)
        if options is not None and "begin" in options:
            index = options["begin"]
            return self._begin(self._episode + 1 if index is None else index)
        return self._begin(self._episode + 1) if self._autoreset else (self._observation, {})

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.ended:  # at rest, or restored between an episode's end and the next one's beginning
            return self.reset()[0], 0.0, False, False, {}
        self._actions.append(action)
        try:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            self._check(observation)
            reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
        except Exception as error:
            raise self._failure(error) from error
        self._observation, self.ended = observation, terminated or truncated
        return observation, reward, terminated, truncated, {}

    def _begin(self, episode: int) -> tuple[Any, dict[str, Any]]:
        self._episode, self._actions, self.ended = episode, [], False
        try:
            self._observation, _ = self.env.reset(seed=episode_seed(*self._source, episode))
            self._check(self._observation)
        except Exception as error:
            raise self._failure(error) from error
        return self._observation, {}

    def _restore(self, address: Address) -> tuple[Any, dict[str, Any]]:
        self.restore_to = None
        if address.episode < 0:
            self._episode, self.ended = address.episode, True
            return self.env.reset(seed=0)[0], {}
        self._begin(address.episode)
        for action in address.actions:
            if self.ended:
                break  # earlier than it did: not determined by its seed, so the rest of the actions mean nothing
            self.step(action)
        self.ended = self.ended or address.ended
        return self._observation, {}

    def _check(self, observation: Any) -> None:
        box = self._box
        if box is None or (getattr(observation, "dtype", None) == self._dtype and observation.shape == self._shape):
            return
        # A vector env broadcasts a wrong shape in silence; an asynchronous one casts, fractions to 0 among integers.
        box.check(observation)

    def _failure(self, error: Exception) -> EnvironmentFailure:
        # Text only: an exception that cannot be pickled hangs a gymnasium AsyncVectorEnv for ever.
        seed, stream, env_index = self._source
        where = f"env {env_index}, episode {self._episode}, step {len(self._actions)}"
        reset = f"reset(seed={episode_seed(seed, stream, env_index, self._episode)})"
        reason = f"{type(error).__name__}: {one_line(error)}"
        return EnvironmentFailure(f"environment failed at {where} (begun by {reset}): {reason}")
