"""What NativeEnvs asks of a game: pure functions of tensors, a row for each environment."""

from abc import ABC, abstractmethod
from typing import ClassVar

from gymnasium.spaces import Box
from torch import Tensor

from ...configs import Config


class Game(Config, ABC):
    """The rules of one environment, alike for all rows; its fields are the settings that `env.kwargs` may give.

    The functions work on each row by itself, on any device, and neither look at numbers nor let a shape depend on them.
    So they can be traced, compiled, captured in a CUDA graph, and mapped by torch.func.vmap. Rewards are whole numbers.
    """

    env_id: ClassVar[str]
    num_actions: ClassVar[int]
    max_episode_steps: ClassVar[int | None]  # None where nothing limits them
    num_initial_draws: ClassVar[int]  # random numbers that an episode begins with

    @property
    @abstractmethod
    def observation_space(self) -> Box:
        """Of one environment."""

    @property
    def has_chance(self) -> bool:
        """Whether each step takes a random number."""
        return False

    @abstractmethod
    def initial(self, bits: Tensor) -> Tensor:
        """State before the first step, [B, S]. bits: [B, num_initial_draws], see draws.py."""

    @abstractmethod
    def step(self, state: Tensor, action: Tensor, bits: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """State [B, S], reward [B] float32, terminated [B] bool. action: [B]; bits: [B], None without a chance.

        A state that has terminated, or is all zeros, may be stepped too; what comes of it means nothing.
        """

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """[B, *obs], of the state [B, S]; perhaps the state itself, which nobody writes to."""
