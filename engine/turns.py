"""A row of acting and stepping: an agent's choice for every environment, and what comes of it."""

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from ..envs.contract import EnvStep, VectorEnv
from ..envs.native import Live, NativeEnvs
from ..networks.encoder import State
from ..spaces import Observation, map_leaves
from .acting import Actor, Step
from .agent import Agent
from .phases import ACTING, ENVIRONMENT
from .recorded import Recorded


class Turns(Protocol):
    def __call__(self, row: EnvStep, state: State, columns: Tensor | None) -> tuple[Step, EnvStep]:
        """What is done with a row of all environments, and the next row.

        columns: of the environments that are acted for, None is all; `state` and that of the step are theirs alone. The
        others are told a 0, as is their probability.
        """


class Apart:
    """The agent acts, then the environments step."""

    def __init__(self, env: VectorEnv, agent: Actor) -> None:
        self._env, self._agent = env, agent

    def __call__(self, row: EnvStep, state: State, columns: Tensor | None) -> tuple[Step, EnvStep]:
        with ACTING:
            mask = None if row.action_mask is None else _chosen(columns, row.action_mask)
            observation, is_first = _chosen(columns, row.observation), _chosen(columns, row.is_first)
            step = self._agent.act(observation, state, is_first, explore=True, action_mask=mask)
            step = _spread(columns, step, len(row.is_first))
        with ENVIRONMENT:
            return step, self._env.step(step.action)


class Together:
    """Both in one function of tensors, recorded and compiled as a whole; counted as acting."""

    def __init__(self, env: NativeEnvs, agent: Agent) -> None:
        self._env, self._agent = env, agent
        self._recorded = {ended: Recorded(partial(self._turn, ended), agent.network) for ended in (True, False)}

    @torch.no_grad()
    def __call__(self, row: EnvStep, state: State, columns: Tensor | None) -> tuple[Step, EnvStep]:
        env, agent = self._env, self._agent
        with ACTING:
            chance = agent.chance(len(row.is_first) if columns is None else len(columns), is_free=True)
            turn = self._recorded[env.some_ended]
            with agent.exploring():
                step, after = turn(row.observation, row.is_first, state, chance, columns, env.live)
            return step, env.settle(after)

    def _turn(
        self,
        some_ended: bool,
        network: Any,
        observation: Observation,
        is_first: Tensor,
        state: State,
        chance: tuple[Tensor, ...],
        columns: Tensor | None,
        live: Live,
    ) -> tuple[Step, tuple[Tensor, ...]]:
        chosen = _chosen(columns, observation), state, _chosen(columns, is_first)
        step = _spread(columns, self._agent.policy(network, *chosen, None, chance), len(is_first))
        return step, self._env.next(some_ended, live, step.action)


def _chosen(columns: Tensor | None, part: Any) -> Any:
    """Those columns of a tensor or of an observation's."""
    return part if columns is None else map_leaves(lambda leaf: leaf.index_select(0, columns), part)


def _spread(columns: Tensor | None, step: Step, num_envs: int) -> Step:
    """Actions and probabilities of all environments."""
    if columns is None:
        return step

    def spread(part: Tensor) -> Tensor:
        return part.new_zeros((num_envs, *part.shape[1:])).index_copy(0, columns, part)

    log_prob = None if step.log_prob is None else spread(step.log_prob)
    return Step(spread(step.action), step.state, log_prob)
