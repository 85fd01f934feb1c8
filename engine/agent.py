"""What every agent offers: acting inside the engine, and outside it on plain arrays."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..envs.contract import EnvSpec
from ..networks import Network, State
from .collector import Step
from .gradients import Metrics
from .rollout import Rollout
from .stateful import Stateful


class Agent(Stateful, Protocol):
    """Acts on observations and learns from rollouts."""

    network: Network[Any]
    spec: EnvSpec
    step: int  # environment steps learnt from
    rollout_rows: int | None  # rows of the rollouts it learns from; None for one whole episode of each environment

    def initial_state(self, num_envs: int) -> State:
        """Recurrent state before an episode."""
        return self.network.initial_state(num_envs)

    def act(self, observation: Tensor, state: State, is_first: Tensor, *, explore: bool) -> Step: ...

    def learn(self, batch: Rollout) -> Metrics: ...

    def notes(self) -> list[str]:
        """What a user should know before a run begins, a line each."""
        return []

    def player(self, *, deterministic: bool = True) -> "Player":
        """A player of episodes, with the recurrent state that a network with a memory needs."""
        return Player(self, deterministic=deterministic)

    def predict(self, observation: Any, *, deterministic: bool = True) -> npt.NDArray[Any]:
        """Action for one observation [*obs], or for each of a batch [B, *obs] -> [B]; greedy unless told otherwise.

        Where the environment's observations are flattened (Discrete, Dict and the like), one of its own does as well.
        ValueError if the agent has a memory: a lone observation does not say what it should remember; use `player`.
        """
        if self.initial_state(1):
            raise ValueError("this agent has a memory: play = agent.player(), then play(observation) step by step")
        return self.player(deterministic=deterministic)(observation)


class Player:
    """Calls the agent on numpy observations step by step and carries its recurrent state; begins with an episode."""

    def __init__(self, agent: Agent, *, deterministic: bool = True) -> None:
        self._agent, self._deterministic = agent, deterministic
        self._state: State | None = None

    def reset(self) -> None:
        """The next observation begins an episode."""
        self._state = None

    def __call__(self, observation: Any) -> npt.NDArray[Any]:
        """Action for the observation [*obs] -> [], or for each of a batch [B, *obs] -> [B]."""
        spec = self._agent.spec
        device = next(self._agent.network.parameters()).device
        observation = spec.flat(observation)
        try:
            if not isinstance(observation, Tensor):
                observation = np.asarray(observation, order="C")  # a flipped image is a view that torch refuses
            batch = torch.as_tensor(observation, dtype=spec.observation_dtype, device=device)
        except (TypeError, ValueError) as error:
            raise ValueError(f"observation is no array of numbers: {error}") from error
        is_single = batch.ndim == len(spec.observation_shape)
        if is_single:
            batch = batch.unsqueeze(0)
        if batch.shape[1:] != spec.observation_shape:
            raise ValueError(f"observation has shape {tuple(batch.shape)}, expected [B, *{spec.observation_shape}]")
        begins = self._state is None
        state = self._agent.initial_state(len(batch)) if self._state is None else self._state
        if state and len(state[0]) != len(batch):
            raise ValueError(f"{len(batch)} observations, but {len(state[0])} at the step before; reset() begins anew")
        is_first = torch.full((len(batch),), begins, device=device)
        step = self._agent.act(batch, state, is_first, explore=not self._deterministic)
        self._state = step.state
        action: npt.NDArray[Any] = step.action.cpu().numpy() + spec.action_start
        return action[0] if is_single else action
