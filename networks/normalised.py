"""Inputs shifted and scaled to what a data set looks like, in front of any encoder."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..configs.config import Config
from ..spaces import Observation, one_line
from .encoder import Encoder, State
from .mlp import MLPConfig

if TYPE_CHECKING:
    from . import EncoderConfig

_CHUNK = 4096  # inputs that are float64 at once


class NormalisedConfig(Config):
    kind: Literal["normalised"] = "normalised"
    inner: "EncoderConfig" = MLPConfig()
    shared: bool = False  # one mean and std for all entries of an input, as for pixels, in place of one each

    def build(self, space: spaces.Space[Any]) -> "Normalised":
        """Of a Box; the inner encoder is built for floats of the same shape."""
        if not isinstance(space, spaces.Box):
            raise ValueError(f"encoder.kind=normalised can't take {one_line(space)}: it takes a Box")
        inner = self.inner.build(spaces.Box(-np.inf, np.inf, space.shape, np.float32))
        return Normalised(inner, space.shape, shared=self.shared)


class Normalised(Encoder):
    """(x - mean) / std before an inner encoder, which sees float32 whatever the observation was.

    The statistics are buffers: they belong to checkpoints and exports, and stand still unless `fit` is called. At first
    they are 0 and 1.
    """

    mean: Tensor  # [*obs]
    std: Tensor  # [*obs]

    def __init__(self, inner: Encoder, observation_shape: Sequence[int], *, shared: bool = False) -> None:
        super().__init__()
        self.inner, self.shared = inner, shared
        self.out_features, self.is_causal = inner.out_features, inner.is_causal
        self.register_buffer("mean", torch.zeros(tuple(observation_shape)))
        self.register_buffer("std", torch.ones(tuple(observation_shape)))

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Take over the mean and std of `inputs` [N, *obs], which should be the training part alone.

        In float64; the std is the population's. An entry that never changes gets std 1.
        Raises ValueError for inputs that are none, of another shape, or not finite.
        """
        if inputs.shape[1:] != self.mean.shape or not len(inputs):
            raise ValueError(
                f"inputs have shape {list(inputs.shape)}, expected [N, {', '.join(map(str, self.mean.shape))}], N >= 1"
            )
        if not inputs.isfinite().all():
            row = int(inputs.flatten(1).isfinite().all(1).logical_not().nonzero()[0])
            raise ValueError(f"inputs[{row}] is not finite; leave such rows out or fill them in")
        over: list[int] | int = list(range(inputs.ndim)) if self.shared else 0
        chunks = torch.split(inputs, _CHUNK)
        count = inputs.numel() / (1 if self.shared else self.mean.numel())
        mean = torch.stack([chunk.double().sum(over) for chunk in chunks]).sum(0) / count
        variance = torch.stack([(chunk.double() - mean).square().sum(over) for chunk in chunks]).sum(0) / count
        # Not variance == 0: that of a constant float64 is not quite, once its mean is rounded.
        is_constant = inputs.amin(over) == inputs.amax(over)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(is_constant, 1.0, variance.sqrt()))

    def initial_state(self, batch_size: int) -> State:
        return self.inner.initial_state(batch_size)

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Tensor, State]:
        features, state = self.inner(self._normalise(observation), state, is_first)
        return features, state

    def step(self, observation: Observation, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        return self.inner.step(self._normalise(observation), state, is_first)

    def encode(self, observation: Observation) -> Tensor:
        return self.inner.encode(self._normalise(observation))

    def blocks(self) -> list[list[str]]:
        return [[f"inner.{name}" for name in block] for block in self.inner.blocks()]

    def _normalise(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        return (observation.float() - self.mean) / self.std
