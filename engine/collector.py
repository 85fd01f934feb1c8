"""Turns an agent and a vector of environments into rollouts."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..envs.contract import EnvStep, Episode, VectorEnv
from ..networks.encoder import State
from ..spaces import Observation, map_leaves, stack
from .phases import ACTING, ENVIRONMENT
from .rollout import Rollout
from .stateful import StateDict, expect_keys


class Step(NamedTuple):
    """What an agent does with one row of observations."""

    action: Tensor  # [B], or [B, D] for D branches
    state: State  # after the observation, each [B, ...]
    log_prob: Tensor | None = None  # [B]


class Actor(Protocol):
    """What the Collector asks of an agent."""

    def initial_state(self, num_envs: int) -> State: ...

    def act(
        self,
        observation: Observation,
        state: State,
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        """observation: [B, *obs]; state: before it; is_first: [B], where the state is reset first.

        action_mask: [B, A] or [B, D, A], the legal actions, None where all are.
        """


class Collector:
    """A Source of rollouts: `num_rows` rows each or, with None, exactly one whole episode of each environment.

    Whole episodes need environments with autoreset=False. Taking the first so many that finish, from environments that
    go on, would over-sample short episodes.
    """

    def __init__(self, env: VectorEnv, agent: Actor, num_rows: int | None, groups: int = 1) -> None:
        """groups: of environments, whose mean number of steps is counted."""
        self._env, self._agent, self._num_rows, self._groups = env, agent, num_rows, groups
        self._total_steps = 0  # environment steps over all environments, fillers not counted
        self._row: EnvStep | None = None
        self._state: State = ()

    def next(self) -> Rollout:
        """The next rollout; of whole episodes, as long as the longest, the others' rows after their end invalid."""
        if self._row is None or self._num_rows is None:
            with ENVIRONMENT:
                self._row = self._env.reset()
            self._state = self._agent.initial_state(self._env.num_envs)
        first_state, rows = self._state, [self._row]
        steps: list[Step] = []
        resting = torch.zeros_like(self._row.is_first)
        while not (resting.all() if self._num_rows is None else len(steps) == self._num_rows):
            row = rows[-1]
            with ACTING:
                step = self._agent.act(
                    row.observation, self._state, row.is_first, explore=True, action_mask=row.action_mask
                )
            self._state = step.state
            steps.append(step)
            with ENVIRONMENT:
                rows.append(self._env.step(step.action))
            if self._num_rows is None:
                resting |= rows[-1].terminated | rows[-1].truncated
        self._row = rows[-1]
        rollout = Rollout(
            observation=stack([row.observation for row in rows]),
            is_first=torch.stack([row.is_first for row in rows]),
            action=_rows([step.action for step in steps]),
            log_prob=_stack([step.log_prob for step in steps]),
            reward=_rows([row.reward for row in rows[1:]]),
            terminated=_rows([row.terminated for row in rows[1:]]),
            truncated=_rows([row.truncated for row in rows[1:]]),
            state=first_state,
            action_mask=_stack([row.action_mask for row in rows]),
        )
        self._total_steps += int(rollout.valid.sum())
        return rollout

    @property
    def num_steps(self) -> int:
        """Environment steps over all environments, fillers not counted; of groups the mean, rounded down."""
        return self._total_steps // self._groups

    def finished(self) -> list[Episode]:
        """Episodes that ended since the last call."""
        return self._env.finished()

    def state_dict(self) -> StateDict:
        row: StateDict | None = None
        if self._row is not None:
            row = {"observation": self._row.observation, "is_first": self._row.is_first}
            if self._row.action_mask is not None:
                row["action_mask"] = self._row.action_mask
        return {
            "env": self._env.state_dict() if self._row is not None else None,
            "row": row,
            "recurrent": list(self._state),
            "num_steps": self._total_steps,
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("collector", state, {"env", "row", "recurrent", "num_steps"})
        self._total_steps = state["num_steps"]
        if state["row"] is None:
            self._row, self._state = None, ()
            return
        self._env.load_state_dict(state["env"])
        device = self._env.device
        self._state = tuple(part.to(device) for part in state["recurrent"])
        observation = map_leaves(lambda leaf: leaf.to(device), state["row"]["observation"])
        is_first = state["row"]["is_first"].to(device)
        nothing = torch.zeros_like(is_first)
        mask = state["row"].get("action_mask")
        mask = mask if mask is None else mask.to(device)
        self._row = EnvStep(observation, nothing.float(), nothing, nothing, is_first, mask)


def _stack(parts: list[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return _rows(tensors) if tensors else None


def _rows(parts: list[Tensor]) -> Tensor:
    """[B, ...] each -> [T, B, ...]; a lone one is no copy."""
    return torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
