"""Atari in ale-py's own vector environment: games in C++ threads, behind the same contract and protocols.

What ale-py does here is emulate, skip, pool and shrink frames. Its stacks (which begin with black), life-loss endings
(which reset the game), clipping (which loses the score) and unseeded autoreset are all left off: AtariVectorEnvs does
these itself, as AtariGame does. By atari-machado both backends give the same bits. By atari-noframeskip ale-py draws
how many no-ops begin a game from a stream of its own, and presses FIRE for one frame before them; after a lost life,
FIRE is held for one step, in place of what the agent chose there.
"""

import warnings
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from torch import Tensor

from ..spaces import one_line
from . import atari
from .address import EnvironmentFailure, episode_seed
from .contract import EnvSpec, EnvStep, Episode
from .gymnasium_envs import TRAINING
from .make import EnvConfig, explained
from .state import StateDict, expect_keys

BoolArray = npt.NDArray[np.bool_]


class AtariVectorEnvs:
    """`num_envs` games stepped by ale-py's threads; see contract.VectorEnv, and for the arguments GymnasiumEnvs.

    An episode's address is that of its game: a life that begins where another ended has no seed of its own. Restoring
    replays the actions of the games that are running, however long ago the run began. `finished` tells whole games, by
    their true score.
    """

    def __init__(
        self,
        config: EnvConfig,
        num_envs: int,
        seed: int,
        *,
        stream: int = TRAINING,
        autoreset: bool = True,
        training: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        """ValueError for an id that is not one of Atari's, or a package that is not installed."""
        assert config.protocol is not None  # EnvConfig has seen to it
        self._protocol = atari.PROTOCOLS[config.protocol]
        self._training, self._autoreset = training, autoreset
        self._ends_with_life = training and self._protocol.life_is_terminal
        if self._ends_with_life and not autoreset:
            raise ValueError(
                f"env.backend=ale: by env.protocol={config.protocol} a game goes on after an episode, which can't wait "
                "for an agent that learns from whole episodes; use env.backend=gymnasium"
            )
        with explained(config):
            self._envs = _open(config, self._protocol, num_envs)
        actions = self._envs.single_action_space
        assert isinstance(actions, Discrete)
        frames = config.frame_stack
        shape = (frames, atari.SIZE, atari.SIZE) if frames > 1 else (atari.SIZE, atari.SIZE)
        self.spec = EnvSpec(
            id=config.id.removeprefix("ale_py:"),
            observation_space=Box(0, 255, shape, np.uint8),
            num_actions=int(actions.n),
            action_start=0,
            action_space=one_line(actions),
            frame_stack=frames,
        )
        self.num_envs = num_envs
        self.device = torch.device(device)
        self._source = (seed, stream)
        self._max_steps = atari.most_steps(config.max_episode_steps)
        meanings = [str(action).rpartition(".")[2] for action in self._envs.ale.get_action_set()]
        self._fire = atari.fire_of(meanings) if self._protocol.presses_fire else None
        self._stack = np.zeros((num_envs, frames, atari.SIZE, atari.SIZE), np.uint8)
        self._episode = np.full(num_envs, -1)  # index of each one's game
        self._sent: list[list[int]] = [[] for _ in range(num_envs)]  # to the emulator, since its game began
        self._lives = np.zeros(num_envs, np.int64)
        self._steps, self._return = self._lives.copy(), np.zeros(num_envs)
        self._over = np.ones(num_envs, np.bool_)  # the game has ended
        self._lost = ~self._over  # its newest row lost a life, but not the game
        self._finished: list[Episode] = []

    def reset(self, episode: int | None = None) -> EnvStep:
        self._episode[:] = self._episode + 1 if episode is None else episode
        everyone = np.ones(self.num_envs, np.bool_)
        self._begin(everyone)
        nothing = np.zeros(self.num_envs)
        return self._row(nothing, ~everyone, ~everyone, everyone)

    def step(self, action: Tensor) -> EnvStep:
        actions = action.cpu().numpy().astype(np.int64)
        assert self.spec.num_actions is not None
        # Of an action that it does not know ale-py tells nobody: its threads wait for ever.
        assert actions.shape == (self.num_envs,)
        assert 0 <= actions.min() <= actions.max() < self.spec.num_actions
        over = self._over.copy()
        is_first = over | self._lost if self._ends_with_life else over
        if self._fire is not None:
            actions = np.where(self._lost, self._fire, actions)
        elif self._ends_with_life:
            actions = np.where(self._lost, atari.NOOP, actions)
        for sent, number, is_over in zip(self._sent, actions.tolist(), over, strict=True):
            if not is_over:
                sent.append(number)
        before = self._stack
        reward, terminated, truncated = self._advance(actions, is_first)
        if over.any():
            reward[over], terminated[over], truncated[over] = 0.0, False, False
            if self._autoreset:
                self._episode[over] += 1
                self._begin(over)
            else:
                self._over |= over
                self._stack[over] = before[over]
        ended = (terminated | truncated).nonzero()[0].tolist()
        self._finished += [Episode(float(self._return[i]), int(self._steps[i])) for i in ended]
        if self._ends_with_life:
            terminated |= self._lost
            reward[is_first] = 0.0
        return self._row(np.sign(reward) if self._training else reward, terminated, truncated, is_first)

    def finished(self) -> list[Episode]:
        episodes, self._finished = self._finished, []
        return episodes

    def close(self) -> None:
        self._envs.close()

    def state_dict(self) -> StateDict:
        return {
            "episode": self._episode.tolist(),
            "actions": [torch.tensor(sent, dtype=torch.int64) for sent in self._sent],
            "observation": self._observation(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("environments", state, {"episode", "actions", "observation"})
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"env.num_envs={self.num_envs}: the checkpoint holds {len(state['episode'])} environments")
        self._episode[:] = state["episode"]
        self._finished = []
        if (self._episode < 0).any():
            return
        played = [actions.tolist() for actions in state["actions"]]
        self._begin(np.ones(self.num_envs, np.bool_))
        # All end together: a game that is younger begins later, and what its environment did until then is forgotten.
        rows = max(map(len, played))
        begins = np.array([rows - len(actions) for actions in played])
        for row in range(rows):
            if row and (now := begins == row).any():
                self._begin(now)
            actions = [
                sent[row - begin] if row >= begin else atari.NOOP for sent, begin in zip(played, begins, strict=True)
            ]
            is_first = self._lost.copy() if self._ends_with_life else np.zeros(self.num_envs, np.bool_)
            self._advance(np.array(actions), is_first)
        if rows and (now := begins == rows).any():
            self._begin(now)
        self._sent = played
        if not torch.equal(self._observation(), state["observation"]):
            warnings.warn(
                f"{self.spec.id}: replaying an episode's actions from its seed led elsewhere, so this environment is "
                "not determined by its seed and the run continues, but not bit for bit",
                stacklevel=2,
            )

    def _begin(self, which: BoolArray) -> None:
        """Begin the game of `self._episode` in those environments."""
        indices = which.nonzero()[0].tolist()
        seeds = [atari.emulator_seed(episode_seed(*self._source, i, int(self._episode[i])))[1] for i in indices]
        frames, info = self._envs.reset(seed=np.array(seeds), options={"reset_mask": which})
        self._stack = np.where(which[:, None, None, None], frames, self._stack)
        self._lives = np.where(which, info["lives"], self._lives)
        self._steps[which], self._return[which] = 0, 0.0
        self._over, self._lost = self._over & ~which, self._lost & ~which
        for i in indices:
            self._sent[i] = []

    def _advance(
        self, actions: npt.NDArray[np.int64], is_first: BoolArray
    ) -> tuple[npt.NDArray[Any], BoolArray, BoolArray]:
        """One step of every emulator: true reward, and terminated and truncated of its game.

        is_first: rows that have no past, and are no step of the agent's.
        """
        try:
            frames, reward, terminated, _, info = self._envs.step(actions)
        except Exception as error:
            raise EnvironmentFailure(
                f"ale-py failed on {self.spec.id}: {type(error).__name__}: {one_line(error)}"
            ) from error
        stack = np.concatenate([self._stack[:, 1:], frames], 1)
        self._stack = np.where(is_first[:, None, None, None], frames, stack) if is_first.any() else stack
        self._steps += ~is_first
        self._return += reward
        truncated = ~terminated & (self._steps >= self._max_steps)
        lives = info["lives"].astype(np.int64)
        self._over = terminated | truncated
        # As AtariGame has it.
        self._lost = (lives > 0) & (lives < self._lives) & ~self._over
        self._lives = lives
        return reward.astype(np.float64), terminated.copy(), truncated

    def _row(
        self, reward: npt.NDArray[np.float64], terminated: BoolArray, truncated: BoolArray, is_first: BoolArray
    ) -> EnvStep:
        arrays = (reward.astype(np.float32), terminated, truncated, is_first)
        return EnvStep(
            *(
                tensor.to(self.device, non_blocking=True)
                for tensor in (self._observation(), *map(torch.from_numpy, arrays))
            )
        )

    def _observation(self) -> Tensor:
        """The newest row, on the CPU."""
        stack = torch.from_numpy(self._stack)
        return stack if self.spec.frame_stack > 1 else stack[:, 0]


def _open(config: EnvConfig, protocol: atari.Protocol, num_envs: int) -> Any:
    """ale-py's AtariVectorEnv with nothing on but what the protocol asks of an emulator."""
    atari.register()
    vector_env: Any = import_module("ale_py.vector_env")
    return vector_env.AtariVectorEnv(
        gymnasium.spec(config.id.removeprefix("ale_py:")).kwargs["game"],
        num_envs,
        autoreset_mode=AutoresetMode.NEXT_STEP,
        max_num_frames_per_episode=np.iinfo(np.int32).max,
        repeat_action_probability=protocol.sticky,
        full_action_space=False,
        img_height=atari.SIZE,
        img_width=atari.SIZE,
        stack_num=1,
        frameskip=atari.FRAME_SKIP,
        noop_max=protocol.no_ops,
        use_fire_reset=protocol.presses_fire,
        episodic_life=False,
        reward_clipping=False,
    )
