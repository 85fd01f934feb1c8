"""A scripted environment whose observation is its own address, and an agent that acts by what it observes."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from torch import Tensor

from graftwork.engine import Step
from graftwork.envs import GymnasiumEnvs, episode_seed
from graftwork.spaces import Observation

NUM_ACTIONS = 5
# What an environment knows of its address is its seed.
ADDRESSES = {episode_seed(0, 0, env, episode): (env, episode) for env in range(3) for episode in range(200)}


def length_of(env: int, episode: int) -> int:
    """1 to 7 steps, another row of lengths in each environment."""
    return 1 + (3 * env + 4 * episode) % 7


class ScriptedEnv(gymnasium.Env[Any, Any]):
    """Observes (environment, episode, step); ends by termination and truncation in turn.

    It checks the actions: each must be the action of `Reader` for the observation before it.
    """

    observation_space = Box(0, np.inf, (3,), np.float32)
    action_space = Discrete(NUM_ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.address, self.count = ADDRESSES[seed], 0
        return self.observe(), {}

    def step(self, action: np.int64) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        env, episode = self.address
        assert action == (env + 2 * episode + 3 * self.count) % NUM_ACTIONS
        self.count += 1
        assert self.count <= length_of(env, episode), "stepped after its end"
        ends, odd = self.count == length_of(env, episode), bool((env + episode) % 2)
        return self.observe(), 100.0 * env + 10.0 * episode + self.count, ends and not odd, ends and odd, {}

    def observe(self) -> Any:
        return np.array([*self.address, self.count], np.float32)


class InDict(gymnasium.ObservationWrapper[Any, Any, Any]):
    """The same in a dict of choices: of environment and episode, and of step."""

    observation_space = Dict({"where": MultiDiscrete([3, 200]), "step": Discrete(8)})

    def observation(self, observation: Any) -> dict[str, Any]:
        env, episode, step = observation.astype(np.int64)
        return {"where": np.array([env, episode]), "step": step}


def address_of(observation: Observation) -> Tensor:
    """(environment, episode, step) of each observation, [..., 3]."""
    if isinstance(observation, Tensor):
        return observation
    return torch.cat((observation["where"], observation["step"].unsqueeze(-1)), -1).float()


class Reader:
    """Acts by the address that it observes; its state, if it has one, counts the rows of the running episode."""

    def __init__(self, *, recurrent: bool = False, log_prob: bool = False) -> None:
        self.recurrent, self.log_prob = recurrent, log_prob

    def initial_state(self, num_envs: int) -> tuple[Tensor, ...]:
        return (torch.zeros(num_envs, 1),) if self.recurrent else ()

    def act(
        self,
        observation: Observation,
        state: tuple[Tensor, ...],
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        assert explore
        action = ((address_of(observation) * torch.tensor([1.0, 2.0, 3.0])).sum(-1) % NUM_ACTIONS).long()
        if self.recurrent:
            state = (torch.where(is_first.unsqueeze(-1), 0.0, state[0]) + 1.0,)
        return Step(action, state, -action / 10 if self.log_prob else None)


@pytest.fixture
def scripted_envs() -> Iterator[Callable[..., GymnasiumEnvs]]:
    """Makes scripted environments, three unless told otherwise."""
    opened = []

    def open_(num_envs: int = 3, *, autoreset: bool = True, in_dict: bool = False) -> GymnasiumEnvs:
        make = (lambda: InDict(ScriptedEnv())) if in_dict else ScriptedEnv
        opened.append(GymnasiumEnvs(make, num_envs, 0, autoreset=autoreset))
        return opened[-1]

    yield open_
    for envs in opened:
        envs.close()


@pytest.fixture(scope="session")
def reader() -> type[Reader]:
    return Reader


@pytest.fixture(scope="session")
def address() -> Callable[[Observation], Tensor]:
    return address_of


@pytest.fixture(scope="session")
def length() -> Callable[[int, int], int]:
    """Steps of an environment's episode."""
    return length_of
