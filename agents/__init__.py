"""Algorithms: one file each, its config included."""

from typing import Annotated, TypeAlias

from pydantic import Field

from .dqn import DQN, DQNConfig
from .pqn import PQN, PQNConfig
from .reinforce import Reinforce, ReinforceConfig

AgentConfig: TypeAlias = Annotated[DQNConfig | PQNConfig | ReinforceConfig, Field(discriminator="kind")]
"""Every agent that a config can name."""

__all__ = ["DQN", "PQN", "AgentConfig", "DQNConfig", "PQNConfig", "Reinforce", "ReinforceConfig"]
