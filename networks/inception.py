"""Inception modules, and a small network of them."""

from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..configs.config import Config
from ..spaces import Observation
from .blocks import BlockConfig, Positive, after_layer, has_idle_bias
from .conv import ConvLayer
from .encoder import Encoder
from .images import ImageConfig, Images, Window


class InceptionWidths(Config):
    """Channels of each convolution of a module: a quarter of the first of Szegedy et al. 2015 (table 1, 3a)."""

    one: Positive = 16  # the 1x1 convolution
    before_three: Positive = 24  # the 1x1 convolution that spares the 3x3 one channels
    three: Positive = 32
    before_five: Positive = 4
    five: Positive = 8
    pool: Positive = 8  # the 1x1 convolution behind the max-pooling


class InceptionConfig(ImageConfig):
    kind: Literal["inception"] = "inception"
    stem: ConvLayer = ConvLayer(channels=32, kernel=3, stride=2, padding=1)
    modules: Positive = 2
    widths: InceptionWidths = InceptionWidths()  # of every module

    def build(self, space: spaces.Space[Any]) -> "InceptionNet":
        return InceptionNet(space, self)


class InceptionNet(Encoder):
    """One convolution, then Inception modules, averaged over all pixels."""

    def __init__(self, space: spaces.Space[Any], config: InceptionConfig | None = None) -> None:
        super().__init__()
        config = InceptionConfig() if config is None else config
        stem = config.stem
        self.images = Images(space, config)
        self.images.through([Window("stem", stem.kernel, stem.stride, stem.padding)])
        self.stem = _convolution(
            self.images.channels, stem.channels, stem.kernel, config, stride=stem.stride, padding=stem.padding
        )
        self.inceptions = nn.Sequential()
        self.out_features = stem.channels
        for _ in range(config.modules):
            inception = Inception(self.out_features, config.widths, config)
            self.inceptions.append(inception)
            self.out_features = inception.out_channels

    def encode(self, observation: Observation) -> Tensor:
        maps: Tensor = self.inceptions(self.stem(self.images(observation)))
        # With dropout: whole channels were dropped, so it is also dropout of these means.
        return maps.mean((2, 3))

    def blocks(self) -> list[list[str]]:
        return [["stem"], *([f"inceptions.{place}"] for place in range(len(self.inceptions)))]


class Inception(nn.Module):
    """Kernels of several sizes side by side, joined by channel: [N, C, H, W] -> [N, out_channels, H, W].

    With dimension reduction (Szegedy et al. 2015, figure 2b). Every convolution is followed by what `block` says.
    """

    def __init__(
        self, in_channels: int, widths: InceptionWidths | None = None, block: BlockConfig | None = None
    ) -> None:
        super().__init__()
        widths = InceptionWidths() if widths is None else widths
        block = BlockConfig() if block is None else block
        self.out_channels = widths.one + widths.three + widths.five + widths.pool
        self.one = _convolution(in_channels, widths.one, 1, block)
        self.three = nn.Sequential(
            _convolution(in_channels, widths.before_three, 1, block),
            _convolution(widths.before_three, widths.three, 3, block, padding=1),
        )
        self.five = nn.Sequential(
            _convolution(in_channels, widths.before_five, 1, block),
            _convolution(widths.before_five, widths.five, 5, block, padding=2),
        )
        self.pool = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1), _convolution(in_channels, widths.pool, 1, block)
        )

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat((self.one(image), self.three(image), self.five(image), self.pool(image)), 1)


def _convolution(
    fan_in: int, fan_out: int, kernel: int, block: BlockConfig, *, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    convolution = nn.Conv2d(fan_in, fan_out, kernel, stride, padding, bias=not has_idle_bias(block))
    return nn.Sequential(convolution, *after_layer(block, fan_out, spatial=True))
