"""A sensible encoder for any observation space.

| space | encoder |
|---|---|
| Box of rank 2 or 3, an image with sides of 36 or more | `conv`: the Nature CNN |
| such a Box, its shorter side from 8 to 35 | `impala`: the residual CNN of IMPALA |
| any other Box | `mlp`: flattened, two layers of 64 |
| Discrete of at most 64, MultiDiscrete, MultiBinary | `mlp` on one-hot rows |
| larger Discrete, Text | `embedding`: a vector learnt for each value; the mean over a text's characters |
| Dict, Tuple | `combined`: an encoder for each entry by this table, side by side |
"""

from typing import Any, Literal

from gymnasium import spaces

from ..configs.config import Config
from ..spaces import leaves
from .combined import CombinedConfig, parts_of
from .conv import ConvConfig
from .encoder import Encoder
from .images import Images
from .impala import ImpalaConfig
from .mlp import MLPConfig
from .tokens import EmbeddingConfig

Chosen = ConvConfig | ImpalaConfig | MLPConfig | EmbeddingConfig | CombinedConfig

# Pixels of an image's shorter side.
_NATURE_FROM = 36  # what its three layers need
_IMPALA_FROM = 8  # what its three stages halve to one
_MOST_ONE_HOT = 64  # values of a Discrete that is given to an MLP


class AutoConfig(Config):
    """Whatever `encoder_for` picks."""

    kind: Literal["auto"] = "auto"

    def build(self, space: spaces.Space[Any]) -> Encoder:
        return encoder_for(space)


def encoder_for(space: spaces.Space[Any]) -> Encoder:
    """Built from `config_for`; ValueError for a space that has no fixed shape."""
    return config_for(space).build(space)


def config_for(space: spaces.Space[Any]) -> Chosen:
    """An encoder for that space by the table above, entries of a Dict or Tuple written out."""
    leaves(space)
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return CombinedConfig(encoders={name: config_for(part) for name, part in parts_of(space).items()})
    if isinstance(space, spaces.Text) or (isinstance(space, spaces.Discrete) and space.n > _MOST_ONE_HOT):
        return EmbeddingConfig()
    if isinstance(space, spaces.Box) and len(space.shape) in (2, 3) and all(space.shape):
        images = Images(space, ConvConfig())
        side = min(images.height, images.width)
        if side >= _IMPALA_FROM:
            return ConvConfig() if side >= _NATURE_FROM else ImpalaConfig()
    return MLPConfig()
