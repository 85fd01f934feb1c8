"""Tokens as vectors that are learnt."""

from typing import Annotated, Any, Literal

from gymnasium import spaces
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from ..spaces import Observation, one_line
from .blocks import Positive
from .encoder import Encoder


class EmbeddingConfig(Config):
    kind: Literal["embedding"] = "embedding"
    size: Positive = 64  # of each token's vector
    padding: Annotated[int, Field(ge=0)] | None = None  # token of a MultiDiscrete, counted from 0, that stands for none

    def build(self, space: spaces.Space[Any]) -> "TokenEmbedding":
        """Of Discrete, Text, and a MultiDiscrete whose entries are all tokens of one vocabulary."""
        if self.padding is not None and not isinstance(space, spaces.MultiDiscrete):
            raise ValueError(
                f"encoder.padding={self.padding} is for MultiDiscrete, not for {one_line(space)}; leave it out"
            )
        if isinstance(space, spaces.Discrete):
            return TokenEmbedding(int(space.n), self.size)
        if isinstance(space, spaces.Text):
            return TokenEmbedding(len(space.character_set) + 1, self.size, padding=0)
        if not isinstance(space, spaces.MultiDiscrete):
            raise ValueError(
                f"encoder.kind=embedding can't take {one_line(space)}: it takes Discrete, MultiDiscrete or Text"
            )
        sizes = {int(size) for size in space.nvec.flatten()}
        if len(sizes) != 1:
            raise ValueError(
                f"encoder.kind=embedding can't take {one_line(space)}: it takes equal sizes; encoder.kind=mlp takes any"
            )
        (num_tokens,) = sizes
        if self.padding is not None and self.padding >= num_tokens:
            raise ValueError(f"encoder.padding={self.padding} is none of the tokens, which are 0 to {num_tokens - 1}")
        return TokenEmbedding(num_tokens, self.size, padding=self.padding)


class TokenEmbedding(Encoder):
    """A vector for each token; for several at once, the mean over those that are not padding, 0 if all are.

    Takes int64 tokens counted from 0, [N] or [N, ...]. Raises IndexError for one out of range.
    """

    def __init__(self, num_tokens: int, size: int = 64, *, padding: int | None = None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_tokens, size, padding_idx=padding)
        self.out_features = size

    def encode(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        vectors: Tensor = self.embedding(observation)
        if observation.ndim == 1:
            return vectors
        vectors = vectors.flatten(1, -2)
        padding = self.embedding.padding_idx
        if padding is None:
            return vectors.mean(1)
        is_token = (observation.flatten(1) != padding).unsqueeze(-1).to(vectors.dtype)
        return (vectors * is_token).sum(1) / is_token.sum(1).clamp(min=1)
