"""Turns an agent and a vector of environments into rollouts."""

import torch
from torch import Tensor

from ..envs.contract import EnvStep, Episode, VectorEnv
from ..networks.encoder import State
from ..spaces import map_leaves, stack
from .acting import Actor, Step
from .arrays import ops_of
from .phases import ENVIRONMENT
from .rollout import Rollout
from .stateful import StateDict, expect_keys
from .turns import Apart, Turns

_FEWEST = 32  # environments to act for: a network takes hardly longer for them than for one


class Collector:
    """A Source of rollouts: `num_rows` rows each or, with None, exactly one whole episode of each environment.

    Whole episodes need environments with autoreset=False. Taking the first so many that finish, from environments that
    go on, would over-sample short episodes.
    """

    def __init__(
        self, env: VectorEnv, agent: Actor, num_rows: int | None, groups: int = 1, turns: Turns | None = None
    ) -> None:
        """groups: of environments, whose mean number of steps is counted; turns: of agent and env, None for Apart."""
        self._env, self._agent, self._num_rows, self._groups = env, agent, num_rows, groups
        self._turns = Apart(env, agent) if turns is None else turns
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
        awake = _Awake(self._env.num_envs, self._row.is_first.device)
        while not (awake.is_over if self._num_rows is None else len(steps) == self._num_rows):
            step, row = self._turns(rows[-1], self._state, awake.columns)
            steps.append(step)
            rows.append(row)
            self._state = step.state
            if self._num_rows is None:
                self._state = awake.narrow(self._state, row)
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


class _Awake:
    """Environments whose episode goes on, and those that the agent acts for.

    Half of them or more would often act for nobody: the longest of many episodes is several times the mean.
    """

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.is_over = False  # all rest
        self.columns: Tensor | None = None  # that are acted for, None is all; few numbers of them, so few forms
        self._size = num_envs  # their number
        self._fewest = _FEWEST if device.type == "cpu" else num_envs  # elsewhere fewer take hardly less time
        self._ops = ops_of(device)
        self._rests = self._ops.array(torch.zeros(num_envs, dtype=torch.bool, device=device))

    def narrow(self, state: State, row: EnvStep) -> State:
        """That of those acted for from this row on, the number halved as often as it can be."""
        self._rests |= self._ops.array(row.terminated)
        self._rests |= self._ops.array(row.truncated)
        number, size = len(self._rests) - self._ops.counts(self._rests)[0], self._size
        self.is_over = number == 0
        while size // 2 >= max(number, self._fewest):
            size //= 2
        if size == self._size:
            return state
        columns = torch.arange(len(self._rests)) if self.columns is None else self.columns
        kept = self._ops.tensor(self._rests)[columns].sort(stable=True).indices[:size]
        self.columns, self._size = columns[kept], size
        return tuple(part.index_select(0, kept) for part in state)


def _stack(parts: list[Tensor | None]) -> Tensor | None:
    tensors = [part for part in parts if part is not None]
    return _rows(tensors) if tensors else None


def _rows(parts: list[Tensor]) -> Tensor:
    """[B, ...] each -> [T, B, ...]; a lone one is no copy."""
    return torch.stack(parts) if len(parts) > 1 else parts[0].unsqueeze(0)
