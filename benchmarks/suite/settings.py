"""Hyper-parameters as every side is told them: one object, that each peer puts into its library's own words."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Device: TypeAlias = Literal["cpu", "cuda"]

NATIVE = "graftwork/"  # what ids of native environments begin with


@dataclass(frozen=True)
class DQN:
    env: str
    hidden: tuple[int, ...]  # of an MLP with ReLU, or what follows the convolution
    learning_rate: float
    batch: int
    capacity: int  # transitions
    starts: int  # environment steps before the first update
    target_period: int  # environment steps
    train_rows: int  # rows (steps of each environment) between two bursts of updates
    updates: int  # of a burst
    epsilon_end: float
    epsilon_fraction: float  # of all steps, over which it falls from 1
    loss: Literal["huber", "squared"]
    max_norm: float | None  # of gradients
    steps: int  # environment steps, over all environments
    num_envs: int = 1
    convolution: int | None = None  # channels of one 3x3 layer before the MLP
    discount: float = 0.99
    adam_epsilon: float = 1e-8
    seeds: int = 1  # agents trained at once
    device: Device = "cpu"

    @property
    def train_steps(self) -> int:
        """Environment steps between two bursts."""
        return self.train_rows * self.num_envs

    @property
    def skip(self) -> int:
        """Environment steps before learning begins."""
        return self.starts

    @property
    def epsilon_steps(self) -> int:
        return round(self.epsilon_fraction * self.steps)


@dataclass(frozen=True)
class Reinforce:
    """One update from one episode of each environment, returns standardised, no learned baseline."""

    env: str
    num_envs: int
    hidden: tuple[int, ...]  # tanh
    learning_rate: float
    steps: int
    discount: float = 0.99
    skip: int = 0
    device: Device = "cpu"


@dataclass(frozen=True)
class A2C:
    """A library's A2C at its defaults: how fast environments can be stepped and learnt from without a replay."""

    env: str
    num_envs: int
    steps: int
    skip: int = 0
    device: Device = "cpu"


@dataclass(frozen=True)
class Preset:
    """A preset of ours as it stands but for overrides."""

    name: str
    env: str
    steps: int | None = None  # None: the preset's
    num_envs: int = 1
    overrides: tuple[str, ...] = ()
    skip: int = 0
    device: Device = "cpu"


@dataclass(frozen=True)
class Limits:
    """What a device can do at most: a copy of so many bytes, and a product of two square matrices of such a side."""

    copied: int
    side: int
    device: Device
    env: str = ""
    skip: int = 0
    steps: int = 0


Settings: TypeAlias = DQN | Reinforce | A2C | Preset | Limits
