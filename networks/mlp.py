"""Multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from .blocks import ACTIVATIONS, Activation
from .encoder import Encoder


class MLPConfig(Config):
    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(64, 64), min_length=1)  # units of each layer
    activation: Activation = "relu"
    scale: tuple[float, ...] | None = None  # factor of each observation entry; None leaves them as they are

    def build(self, observation_shape: Sequence[int]) -> "MLP":
        return MLP(observation_shape, self.hidden, self.activation, self.scale)


class MLP(Encoder):
    """Fully connected layers, each followed by the activation; observations are flattened and cast to float32.

    The scale is part of the encoder, so that it goes wherever the encoder is reused.
    """

    scale: Tensor | None

    def __init__(
        self,
        observation_shape: Sequence[int],
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "relu",
        scale: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if scale is not None and len(scale) != prod(observation_shape):
            raise ValueError(
                f"encoder.scale has {len(scale)} entries, but the observation has {prod(observation_shape)}: "
                "give one for each"
            )
        self.register_buffer("scale", None if scale is None else torch.tensor(scale))
        widths = [prod(observation_shape), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def encode(self, observation: Tensor) -> Tensor:
        inputs = observation.float()
        if inputs.ndim != 2:
            inputs = inputs.unsqueeze(-1).flatten(1)
        features: Tensor = self.layers(inputs if self.scale is None else inputs * self.scale)
        return features
