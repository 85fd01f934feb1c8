"""The replay/rollout engine: rollouts, their collection and replay, and the gradient step."""

from .acting import Actor, Step
from .adam import Adam
from .agent import Agent, Player
from .collector import Collector
from .diagnostics import GradientCheck, gradient_check
from .gradient_step import GradientStep, NonFiniteError
from .gradients import Metrics
from .microbatches import Microbatches, transitions
from .optimizers import AdagradConfig, AdamConfig, AdamWConfig, OptimizerConfig, RMSpropConfig, SGDConfig
from .priorities import Priorities, PriorityError, PrioritySettings, sequence_priority
from .recorded import Recorded, record
from .replay import Places, ReplayBuffer
from .rollout import Rollout
from .stateful import StateDict, Stateful, expect_keys, load_weights
from .storage import Storage
from .stream import draws
from .turns import Apart, Together, Turns
from .window import Sample, Window

__all__ = [
    "Actor",
    "AdagradConfig",
    "Adam",
    "AdamConfig",
    "AdamWConfig",
    "Agent",
    "Apart",
    "Collector",
    "GradientCheck",
    "GradientStep",
    "Metrics",
    "Microbatches",
    "NonFiniteError",
    "OptimizerConfig",
    "Places",
    "Player",
    "Priorities",
    "PriorityError",
    "PrioritySettings",
    "RMSpropConfig",
    "Recorded",
    "ReplayBuffer",
    "Rollout",
    "SGDConfig",
    "Sample",
    "StateDict",
    "Stateful",
    "Step",
    "Storage",
    "Together",
    "Turns",
    "Window",
    "draws",
    "expect_keys",
    "gradient_check",
    "load_weights",
    "record",
    "sequence_priority",
    "transitions",
]
