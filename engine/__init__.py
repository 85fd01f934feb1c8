"""The replay/rollout engine: rollouts, their collection and replay, and the gradient step."""

from .adam import Adam
from .agent import Agent, Player
from .collector import Actor, Collector, Step
from .gradient_step import GradientStep, NonFiniteError
from .gradients import Metrics
from .recorded import Recorded
from .replay import ReplayBuffer, Sample
from .rollout import Rollout
from .stateful import StateDict, Stateful, expect_keys, load_weights

__all__ = [
    "Actor",
    "Adam",
    "Agent",
    "Collector",
    "GradientStep",
    "Metrics",
    "NonFiniteError",
    "Player",
    "Recorded",
    "ReplayBuffer",
    "Rollout",
    "Sample",
    "StateDict",
    "Stateful",
    "Step",
    "expect_keys",
    "load_weights",
]
