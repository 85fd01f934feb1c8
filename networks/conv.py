"""Convolutional network: any stack of layers, by default that of the Nature DQN."""

from typing import Annotated, Any, Literal

from gymnasium import spaces
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from ..spaces import Observation
from .blocks import Positive, after_layer, has_idle_bias
from .encoder import Encoder
from .images import ImageConfig, Images, Window


class ConvLayer(Config):
    channels: Positive
    kernel: Positive  # pixels, as are stride and padding, along both axes
    stride: Positive = 1
    padding: Annotated[int, Field(ge=0)] = 0  # zeros at each edge


# Mnih et al. 2015, methods, "Model architecture"; needs images of at least 36x36.
NATURE = (
    ConvLayer(channels=32, kernel=8, stride=4),
    ConvLayer(channels=64, kernel=4, stride=2),
    ConvLayer(channels=64, kernel=3),
)


class ConvConfig(ImageConfig):
    kind: Literal["conv"] = "conv"
    layers: tuple[ConvLayer, ...] = Field(default=NATURE, min_length=1)
    hidden: Positive | None = 512  # units of the fully connected layer; None: the features are the flattened maps

    def build(self, space: spaces.Space[Any]) -> "Conv":
        return Conv(space, self)


class Conv(Encoder):
    """Convolutions and a fully connected layer, each followed by what the config says of layers."""

    def __init__(self, space: spaces.Space[Any], config: ConvConfig | None = None) -> None:
        super().__init__()
        config = ConvConfig() if config is None else config
        bias = not has_idle_bias(config)
        self.images = Images(space, config)
        height, width = self.images.through(
            [
                Window(f"layers[{place}]", layer.kernel, layer.stride, layer.padding)
                for place, layer in enumerate(config.layers)
            ]
        )
        self.layers = nn.Sequential()
        channels = self.images.channels
        for layer in config.layers:
            convolution = nn.Conv2d(channels, layer.channels, layer.kernel, layer.stride, layer.padding, bias=bias)
            channels = layer.channels
            self.layers.append(nn.Sequential(convolution, *after_layer(config, channels, spatial=True)))
        self.out_features = channels * height * width
        self.hidden: nn.Sequential | None = None
        if config.hidden is not None:
            linear = nn.Linear(self.out_features, config.hidden, bias=bias)
            self.hidden = nn.Sequential(linear, *after_layer(config, config.hidden, spatial=False))
            self.out_features = config.hidden

    def encode(self, observation: Observation) -> Tensor:
        features: Tensor = self.layers(self.images(observation)).flatten(1)
        return features if self.hidden is None else self.hidden(features)

    def blocks(self) -> list[list[str]]:
        convolutions = [[f"layers.{place}"] for place in range(len(self.layers))]
        return convolutions if self.hidden is None else [*convolutions, ["hidden"]]
