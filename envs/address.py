"""Episodes with addresses: any episode can be begun again alone, and half of one restored by replaying its actions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from ..spaces import leaves, one_line
from .actions import BoolArray, choices
from .arrays import Arrays
from .frame_stack import frames_of

AnyEnv: TypeAlias = gymnasium.Env[Any, Any]

_MASK = "action_mask"  # in an info, as gymnasium's environments have it


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
    reward 0, until reset(options={"begin": ...}). Of an info no more is left than the action mask, which gymnasium's
    environments put there: nobody asks for the rest, and gathering it costs.

    An environment with an attribute `game_continues` may make several episodes of one game: where it is true, reset()
    without a seed goes on with it, and the address stays that of the game.
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
        self._choices = choices(env.action_space)
        self._is_masked: bool | None = None  # not known before the first reset
        self._info: dict[str, Any] = {}
        self._begun: tuple[Any, dict[str, Any]] | None = None
        self.restore_to: Address | None = None
        self._has_games = env.has_wrapper_attr("game_continues")
        self.keeps_score: bool = env.has_wrapper_attr("game_score")

    @property
    def score(self) -> tuple[float, int] | None:
        """True return and steps of the game that has ended, of an environment that `keeps_score`."""
        score: tuple[float, int] | None = self.env.get_wrapper_attr("game_score")
        return score

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
    def frame_stack(self) -> int:
        """Frames in each of its observations."""
        return frames_of(self.env)

    @property
    def has_action_mask(self) -> bool:
        """Whether its infos say which actions are legal.

        To find out, its episode 0 is begun, and kept until it is asked for: so nobody sees a reset that is not theirs.
        """
        if self._is_masked is None:
            try:
                begun = self.env.reset(seed=episode_seed(*self._source, 0))
                self._is_masked = self._choices is not None and _MASK in begun[1]
            except Exception:  # will fail again, and then with its address
                return False
            self._begun = begun
            if self._choices is not None and self._is_masked:
                self._info = {_MASK: self._choices.places}  # of a row before the first
        return self._is_masked

    @property
    def action_mask(self) -> BoolArray | None:
        """Legal actions of the newest row, [A] or [D branches, A]: one at least, of each branch."""
        return self._info.get(_MASK)

    @property
    def address(self) -> Address:
        return Address(self._episode, list(self._actions), self.ended)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """options: {"begin": index} begins that episode, {"begin": None} the next; without is an autoreset."""
        if self.restore_to is not None:
            return self._restore(self.restore_to)
        if options is not None and "begin" in options:
            index = options["begin"]
            return self._next() if index is None else self._begin(index)
        return self._next() if self._autoreset else (self._observation, self._info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.ended:  # at rest, or restored between an episode's end and the next one's beginning
            observation, info = self.reset()
            return observation, 0.0, False, False, info
        # Of several branches it is a view of memory that others may write to.
        self._actions.append(action.copy() if isinstance(action, np.ndarray) else action)
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._check(observation)
            reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
            if self._is_masked or _MASK in info:
                self._mask(info, terminated, truncated)
        except Exception as error:
            raise self._failure(error) from error
        self._observation, self.ended = observation, terminated or truncated
        return observation, reward, terminated, truncated, self._info

    def _next(self) -> tuple[Any, dict[str, Any]]:
        return self._begin(self._episode, goes_on=True) if self._goes_on() else self._begin(self._episode + 1)

    def _goes_on(self) -> bool:
        """Whether the episode to come is a part of the game that the last one was a part of."""
        return self.ended and self._has_games and bool(self.env.get_wrapper_attr("game_continues"))

    def _begin(self, episode: int, *, goes_on: bool = False) -> tuple[Any, dict[str, Any]]:
        self.ended = False
        if not goes_on:
            self._episode, self._actions = episode, []
        try:
            self._observation, info = self.env.reset() if goes_on else self._first(episode)
            self._check(self._observation)
            if self._is_masked is None:
                self._is_masked = self._choices is not None and _MASK in info
            if self._is_masked or _MASK in info:
                self._mask(info, False, False)
        except Exception as error:
            raise self._failure(error) from error
        return self._observation, self._info

    def _first(self, episode: int) -> tuple[Any, dict[str, Any]]:
        begun, self._begun = self._begun, None
        if begun is not None and episode == 0:
            return begun
        return self.env.reset(seed=episode_seed(*self._source, episode))

    def _restore(self, address: Address) -> tuple[Any, dict[str, Any]]:
        self.restore_to = None
        if address.episode < 0:
            self._episode, self.ended, self._begun = address.episode, True, None
            return self.env.reset(seed=0)[0], self._info
        self._begin(address.episode)
        for action in address.actions:
            if self.ended and not self._goes_on():
                break  # earlier than it did: not determined by its seed, so the rest of the actions mean nothing
            if self.ended:
                self._next()
            self.step(action)
        if self._goes_on() and not address.ended:
            self._next()
        self.ended = self.ended or address.ended
        return self._observation, self._info

    def _mask(self, info: dict[str, Any], terminated: bool, truncated: bool) -> None:
        """Keep the mask of a row. A final one may forbid everything, and after termination be missing."""
        if self._choices is None:  # means something to others, perhaps
            return
        if not self._is_masked:
            raise ValueError("an info has an action mask, but that of the first reset had none")
        if _MASK not in info and not terminated:
            raise ValueError("the info has no action mask, but that of the first reset had one")
        legal = self._choices.legal(info[_MASK]) if _MASK in info else self._choices.places
        if terminated or truncated:
            legal = self._choices.opened(legal)
        else:
            self._choices.check(legal)
        self._info = {_MASK: legal}

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
