"""Residual networks of He et al. 2016."""

from typing import Any, Literal, Self

from gymnasium import spaces
from pydantic import Field, model_validator
from torch import Tensor, nn

from ..spaces import Observation
from .blocks import ACTIVATIONS, ChannelRMSNorm, Norm, Positive, after_layer, has_idle_bias, make_norm
from .encoder import Encoder
from .images import ImageConfig, Images

EXPANSION = {"basic": 1, "bottleneck": 4}  # channels after a block, in those of its 3x3 convolution


class ResNetConfig(ImageConfig):
    """By default a small one, for images of 8x8 to 32x32; ResNet-18 is stem=imagenet width=64 blocks=[2, 2, 2, 2].

    norm_position moves the norms that have an activation beside them; those before a sum stay. dropout is of channels
    between the convolutions of each block (Zagoruyko & Komodakis 2016, section 2.4), and of the features.
    """

    kind: Literal["resnet"] = "resnet"
    norm: Norm = "batch"
    block: Literal["basic", "bottleneck"] = "basic"
    blocks: tuple[Positive, ...] = Field(default=(1, 1, 1), min_length=1)  # of each stage
    width: Positive = 16  # channels of the first stage; each later one has twice as many, on half the height and width
    stem: Literal["imagenet", "small"] = "small"  # 7x7 stride 2, then max-pooling 3x3 stride 2; or 3x3 stride 1
    zero_init_residual: bool = False  # blocks start as their shortcuts (Goyal et al. 2017, section 5.1)

    @model_validator(mode="after")
    def _zero_is_of_a_norm(self) -> Self:
        if self.zero_init_residual and self.norm == "none":
            raise ValueError("zero_init_residual is about the scale of each block's last norm, but norm is none")
        return self

    def build(self, space: spaces.Space[Any]) -> "ResNet":
        return ResNet(space, self)


class ResNet(Encoder):
    """A stem, stages of residual blocks, and the average over all pixels: the last stage's channels are the features.

    Images of any size will do.
    """

    def __init__(self, space: spaces.Space[Any], config: ResNetConfig | None = None) -> None:
        super().__init__()
        config = ResNetConfig() if config is None else config
        self.images = Images(space, config)
        imagenet = config.stem == "imagenet"
        kernel, stride = (7, 2) if imagenet else (3, 1)
        channels = config.width
        self.stem = nn.Sequential(
            _convolution(self.images.channels, channels, kernel, stride, bias=not has_idle_bias(config)),
            *after_layer(config.model_copy(update={"dropout": 0.0}), channels, spatial=True),
            *([nn.MaxPool2d(3, stride=2, padding=1)] if imagenet else []),
        )
        self.stages = nn.Sequential()
        for stage, num_blocks in enumerate(config.blocks):
            blocks = nn.Sequential()
            for place in range(num_blocks):
                block = Residual(channels, config.width * 2**stage, 2 if stage and not place else 1, config)
                blocks.append(block)
                channels = block.out_channels
            self.stages.append(blocks)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.out_features = channels

    def encode(self, observation: Observation) -> Tensor:
        maps: Tensor = self.stages(self.stem(self.images(observation)))
        features: Tensor = self.dropout(maps.mean((2, 3)))
        return features

    def blocks(self) -> list[list[str]]:
        stages = (name for name, module in self.named_modules() if isinstance(module, Residual))
        return [["stem"], *([name] for name in stages)]


class Residual(nn.Module):
    """activation(branch(x) + shortcut(x)), equations 1 and 2: [N, C, H, W] -> [N, out_channels, H/stride, W/stride].

    The branch has two 3x3 convolutions, or 1x1, 3x3 and 1x1 (a bottleneck, figure 5). The shortcut is the identity, or
    a 1x1 convolution with a norm where the shapes differ (option B).
    """

    def __init__(self, in_channels: int, channels: int, stride: int, config: ResNetConfig) -> None:
        super().__init__()
        self.out_channels = EXPANSION[config.block] * channels
        # Deviation: the paper has a bottleneck's stride in its first 1x1 convolution, which skips three pixels of four.
        # Here it is in the 3x3 one, as in torchvision (and so its weights).
        inner = [(3, stride)] if config.block == "basic" else [(1, 1), (3, stride)]
        self.branch = nn.Sequential()
        width = in_channels
        for kernel, its_stride in inner:
            self.branch.append(_convolution(width, channels, kernel, its_stride, bias=not has_idle_bias(config)))
            self.branch.extend(after_layer(config, channels, spatial=True))
            width = channels
        bias = config.norm != "batch"  # idle: here the norm comes next, whatever norm_position
        self.branch.append(_convolution(width, self.out_channels, 3 if config.block == "basic" else 1, bias=bias))
        last = make_norm(config.norm, self.out_channels, spatial=True, groups=config.norm_groups)
        self.branch.append(_silent(last) if config.zero_init_residual else last)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != self.out_channels:
            self.shortcut = nn.Sequential(
                _convolution(in_channels, self.out_channels, 1, stride, bias=bias),
                make_norm(config.norm, self.out_channels, spatial=True, groups=config.norm_groups),
            )
        self.activation = ACTIVATIONS[config.activation]()

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.activation(self.branch(image) + self.shortcut(image))
        return result


def _convolution(fan_in: int, fan_out: int, kernel: int, stride: int = 1, *, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(fan_in, fan_out, kernel, stride, kernel // 2, bias=bias)


# Norms whose scale starts at 0. `reset_parameters` is what their constructors and `initialise` call: no block need
# remember to undo it.
class _SilentBatchNorm2d(nn.BatchNorm2d):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)


class _SilentGroupNorm(nn.GroupNorm):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)


class _SilentRMSNorm(nn.RMSNorm):
    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)


def _silent(norm: nn.Module) -> nn.Module:
    """The same norm with a scale of 0 at the start."""
    if isinstance(norm, nn.BatchNorm2d):
        return _SilentBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
    if isinstance(norm, nn.GroupNorm):
        return _SilentGroupNorm(norm.num_groups, norm.num_channels, norm.eps)
    assert isinstance(norm, ChannelRMSNorm)
    norm.norm = _SilentRMSNorm(norm.norm.normalized_shape, norm.norm.eps)
    return norm
