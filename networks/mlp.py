"""Multi-layer perceptron."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from .blocks import ACTIVATIONS, Activation
from .encoder import Encoder


class MLPConfig(Config):
    kind: Literal["mlp"] = "mlp"
    hidden: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(64, 64), min_length=1)  # units of each layer
    activation: Activation = "relu"

    def build(self, observation_shape: Sequence[int]) -> "MLP":
        return MLP(observation_shape, self.hidden, self.activation)


class MLP(Encoder):
    """Fully connected layers, each followed by the activation; observations are flattened and cast to float32."""

    def __init__(
        self, observation_shape: Sequence[int], hidden: Sequence[int] = (64, 64), activation: Activation = "relu"
    ) -> None:
        super().__init__()
        widths = [prod(observation_shape), *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)
        self.out_features = widths[-1]

    def encode(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layers(observation.flatten(1).float())
        return features
