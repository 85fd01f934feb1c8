"""Image observations as [N, C, H, W] floats."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level

from ..spaces import Observation, one_line
from .blocks import BlockConfig

Channels: TypeAlias = Literal["auto", "first", "last"]


class ImageConfig(BlockConfig):
    """What every encoder of images has."""

    kind: str
    channels: Channels = "auto"  # [C, H, W] or [H, W, C]; auto: see first_is_channels


@dataclass(frozen=True)
class Window:
    """What a layer sees of its input at once, in pixels along either axis."""

    layer: str  # as errors call it
    kernel: int
    stride: int = 1
    padding: int = 0

    def outputs(self, size: int) -> int:
        """Pixels after the layer, none at the least."""
        return max(0, (size + 2 * self.padding - self.kernel) // self.stride + 1)

    def inputs(self, size: int) -> int:
        """The fewest pixels before the layer that lead to `size` after it."""
        return max(1, (size - 1) * self.stride + self.kernel - 2 * self.padding)


class Images(nn.Module):
    """Observations [N, H, W], [N, C, H, W] or [N, H, W, C] as float32 [N, C, H, W], bytes divided by 255.

    Floats are taken as they are, and bools as 0 and 1. Where the channels are follows from the space, never from an
    observation.
    Raises ValueError, in one line, for a space that holds no images.
    """

    def __init__(self, space: spaces.Space[Any], config: ImageConfig) -> None:
        super().__init__()
        self._name = f"encoder.kind={config.kind}"
        self._space, self._channels = one_line(space), config.channels
        if not isinstance(space, spaces.Box) or len(space.shape) not in (2, 3) or not prod(space.shape):
            raise ValueError(
                f"{self._name} can't take {self._space}: it takes images, a Box of shape [height, width], "
                "[channels, height, width] or [height, width, channels]"
            )
        self._axis = _channel_axis(space.shape, config.channels)
        size = list(space.shape)
        self.channels = 1 if self._axis is None else size.pop(self._axis)
        self.height, self.width = size

    def forward(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        image = observation.unsqueeze(1) if self._axis is None else observation.movedim(self._axis + 1, 1)
        image = image.contiguous(memory_format=_layout(image))
        return image.float() / 255 if observation.dtype == torch.uint8 else image.float()

    def through(self, windows: Sequence[Window]) -> tuple[int, int]:
        """Height and width after one layer after another.

        Raises ValueError, in one line, for images smaller than the receptive field: some layer would leave no pixels.
        """
        height, width = self.height, self.width
        for window in windows:
            before, height, width = f"{height}x{width}", window.outputs(height), window.outputs(width)
            if not (height and width):
                least = 1
                for earlier in reversed(windows):
                    least = earlier.inputs(least)
                raise ValueError(
                    f"{self._name} can't take {self._space}, {self.channels} channels of {self.height}x{self.width} "
                    f"pixels by encoder.channels={self._channels}: {window.layer}, kernel {window.kernel}, would make "
                    f"{height}x{width} out of {before}; it takes images of at least {least}x{least}"
                )
        return height, width


def first_is_channels(shape: Sequence[int]) -> bool:
    """Whether three sizes are [C, H, W], not [H, W, C]: two neighbours that alone are equal are height and width.

    Else channels are fewer than pixels along an axis, and come last if that tells nothing.
    """
    first, middle, last = shape
    if (middle == last) != (first == middle):
        return middle == last
    return first < last


def _layout(image: Tensor) -> torch.memory_format:
    """How the numbers are to lie in memory, which all layers behind keep to."""
    # On a CPU torch's max-pooling, and its convolutions of so few channels, take half to two thirds of the time with
    # channels last. But vmap, and so an ensemble, knows no layout but the usual one.
    vectorised = image.device.type == "cpu" and maybe_current_level() is None
    return torch.channels_last if vectorised else torch.contiguous_format


def _channel_axis(shape: Sequence[int], channels: Channels) -> int | None:
    """Of a single observation; None where it has but one channel and no axis for it."""
    if len(shape) == 2:
        return None
    if channels == "auto":
        return 0 if first_is_channels(shape) else 2
    return 0 if channels == "first" else 2
