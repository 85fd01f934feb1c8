"""Images moved and mirrored at random, each by an offset of its own."""

from collections.abc import Sequence
from typing import Annotated, Any

import gymnasium
import torch
from gymnasium import spaces
from pydantic import Field
from torch import Tensor

from ..configs.config import Config
from ..networks.images import Channels, first_is_channels
from ..spaces import one_line

NonNegative = Annotated[int, Field(ge=0)]

_OFF = "leave shift, flip and crop at their defaults"


class AugmentConfig(Config):
    shift: NonNegative = 0  # pixels at most, up or down and sideways; the edge is repeated (Kostrikov et al. 2020)
    flip: bool = False  # left to right, each image with probability 1/2
    crop: NonNegative = 0  # pixels of zeros put around it, and cut off again at random (He et al. 2016)
    channels: Channels = "auto"  # [C, H, W] or [H, W, C]; auto: as encoders of images take it

    @property
    def is_on(self) -> bool:
        return self.shift > 0 or self.flip or self.crop > 0

    def check(self, space: gymnasium.Space[Any], *, is_sequence: bool = False) -> None:
        """ValueError if something is on that inputs of this space, or sequences of them, cannot take."""
        if not self.is_on:
            return
        if not isinstance(space, spaces.Box):
            raise ValueError(f"data.augment: takes images, got {one_line(space)}; {_OFF}")
        if is_sequence:
            raise ValueError(f"data.augment: takes images, got sequences; {_OFF}")
        row, column = _axes(space.shape, self.channels)
        height, width = space.shape[row], space.shape[column]
        for name, pixels in (("shift", self.shift), ("crop", self.crop)):
            if pixels >= min(height, width):
                raise ValueError(
                    f"data.augment.{name}={pixels}: must be less than height and width, {height} x {width}"
                )


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The images [N, H, W], [N, C, H, W] or [N, H, W, C], of the same shape and type, moved and flipped.

    ValueError, in one line, for any other shape.
    """
    if not config.is_on:
        return images
    row, column = _axes(images.shape[1:], config.channels)
    spatial = images.movedim((1 + row, 1 + column), (1, 2))  # [N, H, W] or [N, H, W, C]
    if config.shift:
        spatial = _moved(spatial, _draw(len(images), config.shift, generator), pad_with_edge=True)
    if config.crop:
        spatial = _moved(spatial, _draw(len(images), config.crop, generator), pad_with_edge=False)
    if config.flip:
        coin = torch.randint(2, (len(images),), generator=generator, device=generator.device).bool().to(images.device)
        spatial = torch.where(coin.view(-1, *[1] * (spatial.ndim - 1)), spatial.flip(2), spatial)
    return spatial.movedim((1, 2), (1 + row, 1 + column)).contiguous()


def _axes(shape: Sequence[int], channels: Channels) -> tuple[int, int]:
    """Which axes of one image are its rows and its columns."""
    if len(shape) == 2:
        return 0, 1
    if len(shape) != 3:
        raise ValueError(
            f"data.augment: takes images [H, W], [C, H, W] or [H, W, C], got the shape {list(shape)}; {_OFF}"
        )
    first = first_is_channels(shape) if channels == "auto" else channels == "first"
    return (1, 2) if first else (0, 1)


def _draw(num: int, most: int, generator: torch.Generator) -> Tensor:
    """Offsets [2, N] of rows and columns, each uniform in -most..most."""
    return torch.randint(-most, most + 1, (2, num), generator=generator, device=generator.device)


def _moved(images: Tensor, offset: Tensor, *, pad_with_edge: bool) -> Tensor:
    """The images [N, H, W, ...], each moved by its own offset [2, N]; what moves in is the edge, or zero."""
    num, height, width = images.shape[:3]
    place = torch.arange(max(height, width), device=images.device)
    down, right = offset.to(images.device).unsqueeze(-1)
    rows, columns = place[:height] - down, place[:width] - right  # where each pixel comes from: [N, H], [N, W]
    sample = torch.arange(num, device=images.device).view(-1, 1, 1)
    moved = images[sample, rows.clamp(0, height - 1).unsqueeze(2), columns.clamp(0, width - 1).unsqueeze(1)]
    if pad_with_edge:
        return moved
    is_inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    return moved.masked_fill(~is_inside.view(num, height, width, *[1] * (images.ndim - 3)), 0)
