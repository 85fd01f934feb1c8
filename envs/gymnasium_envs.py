"""gymnasium environments as a VectorEnv."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..spaces import leaves, map_leaves, one_line, tensors_of, zeros
from .actions import choices
from .address import Address, AddressedEnv, AnyEnv
from .arrays import in_arrays
from .async_envs import AsyncEnvs
from .contract import EnvSpec, EnvStep, Episode
from .rows import Block, Layout
from .state import StateDict, expect_keys
from .statistics import EpisodeStatistics
from .sync_envs import SyncEnvs

TRAINING, EVALUATION, FRESH = 0, 1, 2
"""Streams of episodes; no two share a seed."""


class GymnasiumEnvs:
    """`num_envs` environments of one maker, in this process or each in its own; see contract.VectorEnv.

    With autoreset=False each environment plays one episode and then rests, its rows marked `is_first`, until `reset`.
    A NaN or infinite observation or reward raises NonFiniteEnvError, an environment that fails EnvironmentFailure.
    """

    def __init__(
        self,
        make: Callable[[], AnyEnv],
        num_envs: int,
        seed: int,
        *,
        stream: int = TRAINING,
        autoreset: bool = True,
        asynchronous: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_envs = num_envs
        self.device = torch.device(device)
        makers = [partial(_addressed, make, seed, stream, i, autoreset) for i in range(num_envs)]
        self._envs = AsyncEnvs(makers, autoreset) if asynchronous else SyncEnvs(makers)
        self.spec = _spec(self._envs)
        if self._has_action_mask():
            self.spec = replace(self.spec, has_action_mask=True)
        start = np.array(self.spec.action_start)
        # Of branches always, so that no environment can write to what it is given.
        self._start = start if start.any() or start.ndim else None
        self._statistics = EpisodeStatistics(num_envs)
        self._keeps_score: bool = self._envs.get_attr("keeps_score")[0]
        self._scores: list[Episode] = []  # of whole games, where the environment tells them
        self._observation = zeros(self.spec.observation_space, num_envs)
        self._layout = Layout(self._envs.observation_space, leaves(self.spec.observation_space), num_envs)
        self._block = Block(self._layout)
        self._row = self._counted = 0  # its rows that are filled in, and those that the statistics know of
        self._is_complete = self.device.type == "cpu" and not self.spec.has_action_mask

    def reset(self, episode: int | None = None) -> EnvStep:
        self._envs.reset({"begin": episode}, *self._next())
        return self._filled()

    def step(self, action: Tensor) -> EnvStep:
        actions = (action if action.is_cpu else action.cpu()).numpy()
        if self._start is not None:
            actions = actions + self._start
        self._envs.step(actions, *self._next())
        return self._filled()

    def finished(self) -> list[Episode]:
        self._count()
        episodes, scores, self._scores = self._statistics.finished(), self._scores, []
        return scores if self._keeps_score else episodes

    def close(self) -> None:
        self._envs.close()

    def state_dict(self) -> StateDict:
        self._count()
        addresses: tuple[Address, ...] = self._envs.get_attr("address")
        dtype = self._envs.action_space.dtype
        return {
            "episode": [address.episode for address in addresses],
            "ended": [address.ended for address in addresses],
            "actions": [torch.from_numpy(np.asarray(address.actions, dtype)) for address in addresses],
            "observation": map_leaves(torch.clone, self._observation),
            "statistics": self._statistics.state_dict(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("environments", state, {"episode", "ended", "actions", "observation", "statistics"})
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"env.num_envs={self.num_envs}: the checkpoint holds {len(state['episode'])} environments")
        entries = zip(state["episode"], state["actions"], state["ended"], strict=True)
        block, row = self._next()
        self._envs.restore([Address(e, list(a.numpy()), ended) for e, a, ended in entries], block, row)
        replayed = tensors_of(block.step(row).observation)
        self._counted = row  # what came before is forgotten
        self._statistics.load_state_dict(state["statistics"])
        self._observation = state["observation"]
        saved = tensors_of(self._observation)
        begun = np.array(state["episode"]) >= 0
        if saved.keys() != replayed.keys() or not all(
            np.array_equal(saved[name].numpy()[begun], replayed[name].numpy()[begun]) for name in saved
        ):
            warnings.warn(
                f"{self.spec.id}: replaying an episode's actions from its seed led elsewhere, so this environment is "
                "not determined by its seed and the run continues, but not bit for bit",
                stacklevel=2,
            )

    def _next(self) -> tuple[Block, int]:
        """The row that is to be filled in."""
        if self._row == self._block.num_rows:
            self._count()
            self._block, self._row, self._counted = Block(self._layout), 0, 0
        return self._block, self._row

    def _filled(self) -> EnvStep:
        """That row, once it is checked."""
        block, row = self._block, self._row
        block.check(row)
        step = block.step(row)
        self._observation, self._row = step.observation, row + 1
        if self._keeps_score and (done := block.terminated[row] | block.truncated[row]).any():
            scores = self._envs.get_attr("score")
            self._scores += [Episode(*score) for score, ended in zip(scores, done, strict=True) if ended and score]
        return step if self._is_complete else self._completed(step)

    def _count(self) -> None:
        """Let the statistics know of the newest rows: of many at once, which costs less."""
        if self._counted == self._row:
            return
        new, block = slice(self._counted, self._row), self._block
        self._statistics.update(block.reward[new], block.terminated[new] | block.truncated[new], block.is_first[new])
        self._counted = self._row

    def _completed(self, row: EnvStep) -> EnvStep:
        """With action masks if there are any, and on the device."""
        if self.spec.has_action_mask:
            row = row._replace(action_mask=torch.from_numpy(self._envs.action_masks()))
        if self.device.type == "cpu":
            return row
        observation, *others = row
        return EnvStep(
            map_leaves(lambda leaf: leaf.to(self.device, non_blocking=True), observation),
            *(tensor.to(self.device, non_blocking=True) for tensor in others if tensor is not None),
        )

    def _has_action_mask(self) -> bool:
        """Whether rows have masks: each environment begins its episode 0 to find out, and keeps it for the first reset.

        ValueError if some have one and some have not.
        """
        found = self._envs.has_action_mask()
        if any(found) and not all(found):
            self.close()
            without = [i for i, has_one in enumerate(found) if not has_one]
            raise ValueError(f"{self.spec.id}: all environments must have an action mask or none; without: {without}")
        return all(found)


def _addressed(make: Callable[[], AnyEnv], seed: int, stream: int, env_index: int, autoreset: bool) -> AddressedEnv:
    return AddressedEnv(in_arrays(make()), seed, stream, env_index, autoreset)


def _spec(envs: SyncEnvs | AsyncEnvs) -> EnvSpec:
    found = choices(envs.action_space)
    branches = found.sizes if found is not None and found.is_branched else None
    start: int | tuple[int, ...] = 0
    if found is not None:
        start = found.start if branches else found.start[0]
    return EnvSpec(
        id=envs.get_attr("env_id")[0],
        observation_space=envs.get_attr("own_space")[0],
        num_actions=None if found is None or branches else found.sizes[0],
        action_start=start,
        action_space=one_line(envs.action_space),
        branches=branches,
        frame_stack=envs.get_attr("frame_stack")[0],
    )
