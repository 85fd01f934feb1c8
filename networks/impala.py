"""The residual network of IMPALA."""

from typing import Annotated, Any, Literal

from gymnasium import spaces
from pydantic import Field
from torch import Tensor, nn

from ..spaces import Observation
from .blocks import ACTIVATIONS, BlockConfig, Positive, after_layer, has_idle_bias
from .encoder import Encoder
from .images import ImageConfig, Images, Window


class ImpalaConfig(ImageConfig):
    """norm stands before (or after) the activations of the residual blocks, and nowhere else."""

    kind: Literal["impala"] = "impala"
    stages: tuple[Positive, ...] = Field(default=(16, 32, 32), min_length=1)  # channels of each
    residual_blocks: Positive = 2  # of each stage
    width: Annotated[float, Field(gt=0)] = 1.0  # factor of all channels
    hidden: Positive | None = 256  # units of the fully connected layer; None: the features are the flattened maps

    def build(self, space: spaces.Space[Any]) -> "Impala":
        return Impala(space, self)


class Impala(Encoder):
    """Stages of a convolution, max-pooling and residual blocks, then one fully connected layer.

    Espeholt et al. 2018, figure 3 (right), without its LSTM. Images of any size will do.
    """

    def __init__(self, space: spaces.Space[Any], config: ImpalaConfig | None = None) -> None:
        super().__init__()
        config = ImpalaConfig() if config is None else config
        self.images = Images(space, config)
        channels = self.images.channels
        self.stages = nn.Sequential()
        for stage in config.stages:
            fan_in, channels = channels, max(1, round(config.width * stage))
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(fan_in, channels, 3, padding=1),
                    # Deviation from the authors' code: they pad even sizes at the far edge only; sizes are the same.
                    nn.MaxPool2d(3, stride=2, padding=1),
                    *(ImpalaResidual(channels, config) for _ in range(config.residual_blocks)),
                )
            )
        height, width = self.images.through([Window("max-pooling", 3, 2, 1)] * len(config.stages))
        self.activation = ACTIVATIONS[config.activation]()
        self.out_features = channels * height * width
        self.hidden: nn.Sequential | None = None
        if config.hidden is not None:
            linear = nn.Linear(self.out_features, config.hidden)
            self.hidden = nn.Sequential(linear, *after_layer(_without(config, "norm"), config.hidden, spatial=False))
            self.out_features = config.hidden

    def encode(self, observation: Observation) -> Tensor:
        features: Tensor = self.activation(self.stages(self.images(observation))).flatten(1)
        return features if self.hidden is None else self.hidden(features)

    def blocks(self) -> list[list[str]]:
        stages = [[f"stages.{place}"] for place in range(len(self.stages))]
        return stages if self.hidden is None else [*stages, ["hidden"]]


class ImpalaResidual(nn.Module):
    """x + convolution(activation(convolution(activation(x)))): [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, config: BlockConfig) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *after_layer(_without(config, "dropout"), channels, spatial=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=not has_idle_bias(config)),
            *after_layer(config, channels, spatial=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        branch: Tensor = self.branch(image)
        return image + branch


def _without(config: BlockConfig, part: Literal["norm", "dropout"]) -> BlockConfig:
    return config.model_copy(update={"norm": "none"} if part == "norm" else {"dropout": 0.0})
