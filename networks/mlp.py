"""Multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import torch
from gymnasium import spaces
from pydantic import Field
from torch import Tensor, nn

from ..spaces import Observation
from .blocks import BlockConfig, Positive, after_layer, has_idle_bias
from .encoder import Encoder
from .flat import Flat


class MLPConfig(BlockConfig):
    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = Field(default=(64, 64), min_length=1)  # units of each layer
    scale: tuple[float, ...] | None = None  # factor of each observation entry; None leaves them as they are

    def build(self, space: spaces.Space[Any]) -> "MLP":
        if isinstance(space, spaces.Box):
            return MLP(space.shape, self.hidden, self.scale, self)
        flat = Flat(space)
        return MLP((flat.out_features,), self.hidden, self.scale, self, flat)


class MLP(Encoder):
    """Fully connected layers, each followed by what `block` says; observations are flattened and cast to float32.

    The scale is part of the encoder, so that it goes wherever the encoder is reused.
    """

    scale: Tensor | None

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        scale: Sequence[float] | None = None,
        block: BlockConfig | None = None,
        flat: Flat | None = None,
    ) -> None:
        """flat: makes rows of what is no plain tensor of numbers; then observation_shape is that of a row."""
        super().__init__()
        block = BlockConfig() if block is None else block
        if scale is not None and len(scale) != prod(observation_shape):
            raise ValueError(
                f"encoder.scale has {len(scale)} entries, but the observation has {prod(observation_shape)}: "
                "give one for each"
            )
        self.register_buffer("scale", None if scale is None else torch.tensor(scale))
        self.flat = flat
        widths = [prod(observation_shape), *hidden]
        layers: list[nn.Module] = []
        self._blocks: list[list[str]] = []
        for fan_in, fan_out in pairwise(widths):
            block_layers = [
                nn.Linear(fan_in, fan_out, bias=not has_idle_bias(block)),
                *after_layer(block, fan_out, spatial=False),
            ]
            self._blocks.append([f"layers.{len(layers) + place}" for place in range(len(block_layers))])
            layers += block_layers
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def encode(self, observation: Observation) -> Tensor:
        if isinstance(observation, Tensor) and self.flat is None:
            inputs = observation.float()
            if inputs.ndim != 2:
                inputs = inputs.unsqueeze(-1).flatten(1)
        else:
            assert self.flat is not None
            inputs = self.flat(observation)
        features: Tensor = self.layers(inputs if self.scale is None else inputs * self.scale)
        return features

    def blocks(self) -> list[list[str]]:
        return self._blocks
