"""Environments whose state is tensors: what all native games have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from ...spaces import one_line
from ..contract import EnvSpec, EnvStep, Episode
from ..gymnasium_envs import TRAINING
from ..memory import part_of
from ..state import StateDict, expect_keys
from .draws import child, env_keys
from .game import Game

Function: TypeAlias = Callable[..., tuple[Tensor, ...] | list[Tensor]]  # of tensors and tuples of them

_ENDLESS = 2**62  # steps
_BEGINNING = 2**31  # of the random numbers that begin an episode; those of its steps count from 0
_MOST_KEPT = 256  # rows with ends that wait for `finished` on the device


class Live(NamedTuple):
    """Where environments stand: all that a step depends on beside the actions, a row for each of them."""

    state: Tensor  # [B, S] of the game
    env_key: Tensor  # [B] int64, of run seed, stream and environment
    episode: Tensor  # [B] int64, index; -1 before the first
    length: Tensor  # [B] int64, steps taken in the episode; 0 at rest
    return_: Tensor  # [B] float32, exact because rewards are whole numbers; 0 at rest
    ended: Tensor  # [B] bool


class Row(NamedTuple):
    """What a step comes to."""

    observation: Tensor  # [B, *obs]
    reward: Tensor  # [B] float32
    terminated: Tensor  # [B] bool
    truncated: Tensor  # [B] bool


@dataclass(frozen=True)
class Simulation:
    """A game with episodes, as pure functions: next-step autoreset, time limit, addresses of episodes.

    They do what Game's do, and so can be traced, captured and mapped as those can.
    """

    game: Game
    max_steps: int | None  # truncates there; None never does
    autoreset: bool
    shown: tuple[int, ...] | None = None  # entries of a vector observation; None shows all

    def begin(self, env_key: Tensor, episode: Tensor) -> Live:
        """Every environment before its first step, in the episode of index `episode`, [B]."""
        nothing = torch.zeros_like(episode)
        return Live(self._initial(env_key, episode), env_key, episode, nothing, nothing.float(), nothing.bool())

    def step(self, live: Live, action: Tensor, *, some_ended: bool = True) -> tuple[Live, Row]:
        """The next row of every environment, and where they stand then. `live.ended` is where that row `is_first`.

        some_ended=False promises that none has ended, and saves what ends take.
        """
        state, reward, terminated = self.game.step(live.state, action, self._chance(live))
        length, return_, episode = live.length + 1, live.return_ + reward, live.episode
        if some_ended:
            rests = live.state
            if self.autoreset:
                episode = episode + live.ended
                rests = self._initial(live.env_key, episode)
            state = torch.where(live.ended.unsqueeze(-1), rests, state)
            terminated = terminated & ~live.ended
            reward, return_, length = (part.masked_fill(live.ended, 0) for part in (reward, return_, length))
        truncated = length >= (_ENDLESS if self.max_steps is None else self.max_steps)
        ended = terminated | truncated
        if some_ended and not self.autoreset:
            ended = ended | live.ended
        row = Row(self.observe(state), reward, terminated, truncated)
        return Live(state, live.env_key, episode, length, return_, ended), row

    def observe(self, state: Tensor) -> Tensor:
        """[B, *obs]"""
        observation = self.game.observe(state)
        if self.shown is None:
            return observation
        return torch.stack([observation.select(-1, index) for index in self.shown], -1)

    def _initial(self, env_key: Tensor, episode: Tensor) -> Tensor:
        number = torch.arange(_BEGINNING, _BEGINNING + self.game.num_initial_draws, device=episode.device)
        return self.game.initial(_draws(env_key.unsqueeze(-1), episode.unsqueeze(-1), number))

    def _chance(self, live: Live) -> Tensor | None:
        """[B] int64, the random number of the next step; None where it takes none."""
        return _draws(live.env_key, live.episode, live.length) if self.game.has_chance else None


def as_it_is(function: Function) -> Function:
    return function


def _draws(env_key: Tensor, episode: Tensor, number: Tensor) -> Tensor:
    """Random numbers of episodes, int64, of shapes that broadcast. number: below 2**32, of a step the steps before."""
    return child(env_key, torch.add(number, episode, alpha=2**32))


class NativeEnvs:
    """Environments of a game as tensors of `device`; see contract.VectorEnv, for autoreset GymnasiumEnvs.

    An episode follows from its address and its actions alone, whatever the number of environments; its chances are the
    same on every device. The state is a few numbers for each environment, so restoring replays nothing. Stepping
    neither waits for the device nor looks at its numbers, but on a CPU, where looking is free, work for ends is left
    out when there are none.
    """

    def __init__(
        self,
        game: Game,
        num_envs: int,
        seed: int | Sequence[int],
        *,
        stream: int = TRAINING,
        autoreset: bool = True,
        max_episode_steps: int | None = None,
        observe: tuple[int, ...] | None = None,
        device: torch.device | str = "cpu",
        record: Callable[[Function], Function] = as_it_is,
    ) -> None:
        """seed: or several, one's `num_envs` environments after the other's, each with the episodes of its seed alone.

        max_episode_steps: in place of the game's own; record: makes a function of the same results that runs in less
        time. ValueError for entries to observe that are not there.
        """
        space, seeds = game.observation_space, [seed] if isinstance(seed, int) else seed
        self.num_envs = len(seeds) * num_envs
        self.device = torch.device(device)
        self.spec = EnvSpec(
            id=game.env_id,
            observation_space=space if observe is None else part_of(space, observe),
            num_actions=game.num_actions,
            action_start=0,
            action_space=one_line(Discrete(game.num_actions)),
        )
        self.simulation = Simulation(game, max_episode_steps or game.max_episode_steps, autoreset, observe)
        self._step = {some_ended: record(partial(self.next, some_ended)) for some_ended in (True, False)}
        self._env_key = torch.cat([env_keys(each, stream, num_envs) for each in seeds]).to(self.device)
        # Ended before it began: so what comes next is episode 0, by `reset` or by a step.
        unbegun = self.simulation.begin(self._env_key, torch.full_like(self._env_key, -1))
        self.live = unbegun._replace(ended=~unbegun.ended)
        self.some_ended = True  # or nobody has looked
        self._ends: list[tuple[Tensor, Tensor, Tensor]] = []  # of rows to be looked at: ended, returns and lengths
        self._finished: list[Episode] = []

    def reset(self, episode: int | None = None) -> EnvStep:
        before = self.live.episode
        self.live = self.simulation.begin(
            self._env_key, before + 1 if episode is None else torch.full_like(before, episode)
        )
        self.some_ended = False
        state, never = self.live.state, self.live.ended
        return EnvStep(self.simulation.observe(state), torch.zeros_like(self.live.return_), never, never, ~never)

    def step(self, action: Tensor) -> EnvStep:
        return self.settle(self._step[self.some_ended](self.live, action))

    def next(self, some_ended: bool, live: Live, action: Tensor) -> tuple[Tensor, ...]:
        """A step as a function of tensors, for `settle`: what changes of where they stand, and the row.

        live, some_ended: those of now.
        """
        after, row = self.simulation.step(live, action, some_ended=some_ended)
        return after.state, after.episode, after.length, after.return_, after.ended, *row

    def settle(self, found: Sequence[Tensor]) -> EnvStep:
        """Go to where `next` led."""
        is_first = self.live.ended
        state, episode, length, return_, ended, *row = found
        observation, reward, terminated, truncated = row
        self.live = Live(state, self._env_key, episode, length, return_, ended)
        self.some_ended = self.device.type != "cpu" or bool(ended.any())
        if self.some_ended:
            self._ends.append((ended, return_, length))
            if len(self._ends) == _MOST_KEPT:
                self._look()
        return EnvStep(observation, reward, terminated, truncated, is_first)

    def finished(self) -> list[Episode]:
        self._look()
        episodes, self._finished = self._finished, []
        return episodes

    def close(self) -> None: ...

    def state_dict(self) -> StateDict:
        live = self.live
        return {
            "state": live.state,
            "episode": live.episode,
            "length": live.length,
            "return": live.return_,
            "ended": live.ended,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("environments", state, {"state", "episode", "length", "return", "ended"})
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"env.num_envs={self.num_envs}: the checkpoint holds {len(state['episode'])} environments")
        parts = (state[name].to(self.device) for name in ("state", "episode", "length", "return", "ended"))
        place, *others = parts
        self.live = Live(place, self._env_key, *others)
        self.some_ended, self._ends, self._finished = True, [], []

    def _look(self) -> None:
        """Read from the device what has ended since the last time."""
        if not self._ends:
            return
        ended, return_, length = (torch.stack(rows) for rows in zip(*self._ends, strict=True))
        ended &= length > 0  # the others are at rest
        self._finished += map(Episode, return_[ended].tolist(), length[ended].tolist())
        self._ends = []
