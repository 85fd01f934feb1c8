"""Auxiliary heads: what else the features have to tell of the action taken, so that they learn from every step.

As the auxiliary tasks of Jaderberg et al. 2017 (UNREAL) do, here on the same batch as the agent's own loss.
"""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any

import torch
from gymnasium.spaces import Box
from pydantic import Field
from torch import Tensor

from ..configs.config import Config
from ..engine import Metrics, Rollout
from ..envs import EnvSpec
from ..losses import squared
from ..networks import AuxiliaryHead, Heads, Network
from ..spaces import one_line


class AuxiliaryConfig(Config):
    """It teaches the encoder, and picks no action."""

    reward: Annotated[float, Field(ge=0)] = 0.0  # weight of the squared error; 0 is no such head
    next_observation: Annotated[float, Field(ge=0)] = 0.0  # likewise

    @property
    def weights(self) -> dict[str, float]:
        """Of the heads that there are."""
        return {name: weight for name, weight in self if weight}

    def heads(self, in_features: int, spec: EnvSpec) -> Heads[Tensor] | None:
        """One for each thing to be told, a prediction for every action. ValueError if it cannot be told."""
        shapes = self._shapes(spec)
        if not shapes:
            return None
        heads = {name: AuxiliaryHead(in_features, spec.discrete("dqn"), shape) for name, shape in shapes.items()}
        return Heads(heads)

    def check(self, network: Network[Any], spec: EnvSpec) -> None:
        """ValueError if the network lacks a head, or has another in its place."""
        for name, shape in self._shapes(spec).items():
            num_actions = spec.discrete("dqn")
            has_one = network.auxiliary is not None and name in network.auxiliary.names
            head = network.auxiliary[name] if network.auxiliary is not None and has_one else None
            if not isinstance(head, AuxiliaryHead) or head.shape != (num_actions, *shape):
                raise ValueError(
                    f"agent.auxiliary.{name}: the network must have an AuxiliaryHead of that name and of {num_actions} "
                    f"actions and shape {list(shape)}"
                )

    def targets(self, rollout: Rollout) -> list[Tensor]:
        """What each head should tell of each row, [L, N, ...]; bytes of an image as shares of 255."""
        found = []
        for name in self.weights:
            if name == "reward":
                found.append(rollout.reward)
                continue
            assert isinstance(rollout.observation, Tensor)
            successor = rollout.observation[1:].reshape(*rollout.action.shape, -1)  # one, if it is a number
            found.append(successor / 255 if successor.dtype == torch.uint8 else successor.float())
        return found

    def _shapes(self, spec: EnvSpec) -> dict[str, tuple[int, ...]]:
        """What each head tells of one action."""
        space = spec.observation_space
        if self.weights and spec.branches is not None:
            raise ValueError(
                f"agent.auxiliary.{next(iter(self.weights))}: it tells of one action, but env.id={spec.id} has "
                f"{spec.action_space}; use 0"
            )
        if self.next_observation and not isinstance(space, Box):
            raise ValueError(f"agent.auxiliary.next_observation: {spec.id} observes {one_line(space)}; allowed: a Box")
        return {name: () if name == "reward" else (prod(space.shape or ()),) for name in self.weights}

    def loss(
        self, network: Network[Any], features: Tensor, action: Tensor, targets: Sequence[Tensor], weight: Tensor
    ) -> tuple[Tensor, Metrics]:
        """Weighted sum over heads of half the squared error, the mean over what a head tells, for the action taken.

        features [L, N, F]; action, weight (of each row) [L, N]; targets as above.
        """
        total, metrics = features.new_zeros(()), Metrics()
        for (name, share), target in zip(self.weights.items(), targets, strict=True):
            assert network.auxiliary is not None
            head = network.auxiliary[name]
            assert isinstance(head, AuxiliaryHead)
            prediction = head.taken(head(features), action)
            entries = squared(prediction - target).reshape(*action.shape, -1)  # one, if it is a reward
            told = (entries.mean(-1) * weight).sum()
            total, metrics[f"{name}_loss"] = total + share * told, told.detach()
        return total, metrics
