"""What every agent offers: acting inside the engine, and outside it on plain arrays."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..envs.contract import EnvSpec
from ..networks import Network, State
from ..spaces import Observation, first_leaf, one_line, to_tensors
from .acting import Step
from .gradients import Metrics
from .recorded import Recorded
from .rollout import Rollout
from .stateful import Stateful


class Agent(Stateful, Protocol):
    """Acts on observations and learns from rollouts."""

    network: Network[Any]
    spec: EnvSpec
    step: int  # environment steps learnt from
    rollout_rows: int | None  # rows of the rollouts it learns from; None for one whole episode of each environment
    _policy: Recorded[Any, Step]  # its own `policy`, of its network

    def initial_state(self, num_envs: int) -> State:
        """Recurrent state before an episode."""
        return self.network.initial_state(num_envs)

    def policy(
        self,
        network: Any,
        observation: Observation,
        state: State,
        is_first: Tensor,
        action_mask: Tensor | None,
        chance: Sequence[Tensor],
    ) -> Step:
        """What `act` does, as a function of a network and of tensors alone, which can be recorded.

        network: the agent's own; chance: as drawn for these rows, nothing to act greedily.
        """

    def chance(self, num_envs: int, *, is_free: bool) -> Sequence[Tensor]:
        """The random numbers that the next row's exploration takes. is_free: there is no action mask."""

    def exploring(self) -> AbstractContextManager[object]:
        """Inside, `policy` explores, given chance."""
        return _ALWAYS

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        state: State,
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        """See Actor."""
        if not explore:
            return self._policy(observation, state, is_first, action_mask, ())
        chance = self.chance(len(is_first), is_free=action_mask is None)
        with self.exploring():
            return self._policy(observation, state, is_first, action_mask, chance)

    def learn(self, batch: Rollout) -> Metrics: ...

    def examine(self, wanted: bool) -> None:
        """Whether the metrics of the next update should tell of each layer's activations and gradients."""

    @property
    def num_updates(self) -> int:
        """Gradient updates since it was built; 0 of an agent that does not count them."""
        return 0

    def notes(self) -> list[str]:
        """What a user should know before a run begins, a line each."""
        return []

    def check_room(self) -> None:
        """ValueError if learning takes more memory than there is; nothing of it is needed to act."""
        return None

    def player(self, *, deterministic: bool = True) -> "Player":
        """A player of episodes, with the recurrent state that a network with a memory needs.

        ValueError if these are several agents at once.
        """
        if self.network.groups > 1:
            raise ValueError(
                f"these are {self.network.groups} agents at once: load one of them, gw.load(run, seed=...)"
            )
        return Player(self, deterministic=deterministic)

    def predict(
        self, observation: Any, *, deterministic: bool = True, action_mask: npt.ArrayLike | None = None
    ) -> npt.NDArray[Any]:
        """Action for one observation [*obs], or for each of a batch [B, *obs] -> [B]; greedy unless told otherwise.

        action_mask: the legal actions [A], or [B, A]; of branches the legal actions of each, one after another, or for
        one observation as many arrays.

        Observations are as the environment gives them: arrays, numbers, texts, dicts, tuples. A batch of dicts is a
        dict of batches, by the space's own keys or by leaf name (see spaces.leaves).
        ValueError if the agent has a memory: a lone observation does not say what it should remember; use `player`.
        """
        if self.initial_state(1):
            raise ValueError("this agent has a memory: play = agent.player(), then play(observation) step by step")
        return self.player(deterministic=deterministic)(observation, action_mask)


_ALWAYS: AbstractContextManager[object] = nullcontext()


class Player:
    """Calls the agent on numpy observations step by step and carries its recurrent state; begins with an episode."""

    def __init__(self, agent: Agent, *, deterministic: bool = True) -> None:
        self._agent, self._deterministic = agent, deterministic
        self._state: State | None = None

    def reset(self) -> None:
        """The next observation begins an episode."""
        self._state = None

    def __call__(self, observation: Any, action_mask: npt.ArrayLike | None = None) -> npt.NDArray[Any]:
        """Action for the observation [*obs] -> [], or for each of a batch [B, *obs] -> [B]; see Agent.predict."""
        spec = self._agent.spec
        device = next(self._agent.network.parameters()).device
        batch, is_single = to_tensors(spec.observation_space, observation, device)
        size = len(first_leaf(batch))
        begins = self._state is None
        state = self._agent.initial_state(size) if self._state is None else self._state
        if state and len(state[0]) != size:
            raise ValueError(f"{size} observations, but {len(state[0])} at the step before; reset() begins anew")
        is_first = torch.full((size,), begins, device=device)
        mask = None if action_mask is None else _mask(spec, action_mask, size).to(device)
        step = self._agent.act(
            batch,
            state,
            is_first,
            explore=not self._deterministic,
            action_mask=mask,
        )
        self._state = step.state
        action: npt.NDArray[Any] = step.action.cpu().numpy() + spec.action_start
        return action[0] if is_single else action


def _mask(spec: EnvSpec, given: npt.ArrayLike, size: int) -> Tensor:
    """Of so many observations; ValueError for another shape, or where no action is legal."""
    parts: Any = given
    if spec.branches is not None and np.iterable(parts) and tuple(map(np.size, parts)) == spec.branches:
        parts = np.hstack([*parts])  # as an environment may give it, branch by branch
    try:
        legal = np.asarray(parts)
    except ValueError as error:
        raise ValueError(f"action mask is no array of numbers: {one_line(error)}") from error
    if legal.dtype != np.bool_ and not np.isin(legal, (0, 1)).all():
        raise ValueError(f"action mask holds {one_line(legal[~np.isin(legal, (0, 1))][0])}; allowed: 0 and 1")
    legal = legal.astype(np.bool_)
    mask = spec.action_mask(np.expand_dims(legal, 0) if legal.ndim == 1 else legal)
    if len(mask) != size:
        raise ValueError(f"action mask has {len(mask)} rows, but there are {size} observations")
    if not mask.any(-1).all():
        raise ValueError("action mask leaves an observation no legal action; each needs one at least, of each branch")
    return mask


def check_causal(network: Network[Any]) -> None:
    """Raise ValueError if features of a row depend on later rows."""
    if not network.encoder.is_causal:
        raise ValueError(
            f"agent.encoder: an agent cannot act on the future, and this {type(network.encoder).__name__} reads it "
            "(it is not causal); for a recurrent one set bidirectional=false"
        )
