"""Dict and Tuple observations: an encoder for each entry, joined."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import torch
from gymnasium import spaces
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from ..configs.suggest import suggest
from ..spaces import Observation, leaves, observation_of, one_line
from .blocks import Positive
from .encoder import Encoder, State

if TYPE_CHECKING:
    from . import EncoderConfig


class CombinedConfig(Config):
    kind: Literal["combined"] = "combined"
    # By key of the Dict, or "0", "1" of the Tuple; an entry without one gets what `encoder_for` picks.
    encoders: dict[str, "EncoderConfig"] = Field(default_factory=dict)
    hidden: Positive | None = None  # units of a ReLU layer over the joined features; None leaves them side by side

    def build(self, space: spaces.Space[Any]) -> "Combined":
        from .choose import encoder_for  # which picks this encoder in its turn

        parts = parts_of(space)
        for name in self.encoders.keys() - parts.keys():
            raise ValueError(
                f"encoder.encoders.{name}: the observation has no entry {name!r}{suggest(name, parts)}"
                f" (it has {', '.join(parts)})"
            )
        encoders: dict[str, Encoder] = {}
        for name, part in parts.items():
            try:
                encoders[name] = self.encoders[name].build(part) if name in self.encoders else encoder_for(part)
            except ValueError as error:
                raise ValueError(f"observation {name!r}: {error}") from error
        return Combined(space, encoders, hidden=self.hidden)


class Combined(Encoder):
    """The features of an encoder for each entry of a Dict or Tuple space, one after the other, in the space's order.

    An entry that is a Dict or Tuple itself is handed to its encoder as one. States are the encoders', in that order.
    """

    def __init__(self, space: spaces.Space[Any], encoders: Mapping[str, Encoder], *, hidden: int | None = None) -> None:
        """encoders: by key of the Dict, or "0", "1" of the Tuple; one for each."""
        super().__init__()
        parts = parts_of(space)
        if encoders.keys() != parts.keys():
            raise ValueError(f"encoders are for {', '.join(encoders)}, the observation has {', '.join(parts)}")
        # A list, because ModuleDict refuses keys that are names of its own, such as "keys".
        self.encoders = nn.ModuleList(encoders[name] for name in parts)
        self._leaves = [
            {leaf: f"{name}.{leaf}" if leaf else name for leaf in leaves(part)} for name, part in parts.items()
        ]
        self._num_states = [len(encoders[name].initial_state(1)) for name in parts]
        self.is_causal = all(encoder.is_causal for encoder in encoders.values())
        width = sum(encoder.out_features for encoder in encoders.values())
        self.joint = None if hidden is None else nn.Sequential(nn.Linear(width, hidden), nn.ReLU())
        self.out_features = width if hidden is None else hidden

    def initial_state(self, batch_size: int) -> State:
        return tuple(part for encoder in self._each() for part in encoder.initial_state(batch_size))

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Tensor, State]:
        return self._join([encoder(*part, is_first) for encoder, part in self._parts(observation, state)])

    def step(self, observation: Observation, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        return self._join([encoder.step(*part, is_first) for encoder, part in self._parts(observation, state)])

    def blocks(self) -> list[list[str]]:
        """The first blocks of all encoders, then their second ones, and so on; last the layer that joins them."""
        by_encoder = [
            [[f"encoders.{place}.{name}" for name in block] for block in encoder.blocks()]
            for place, encoder in enumerate(self._each())
        ]
        by_depth = [[name for block in depth for name in block] for depth in zip_longest(*by_encoder, fillvalue=[])]
        return by_depth if self.joint is None else [*by_depth, ["joint"]]

    def _each(self) -> Iterator[Encoder]:
        for encoder in self.encoders:
            assert isinstance(encoder, Encoder)
            yield encoder

    def _parts(self, observation: Observation, state: State) -> Iterator[tuple[Encoder, tuple[Observation, State]]]:
        """Each encoder with its part of the observation and of the state."""
        assert not isinstance(observation, Tensor)
        start = 0
        for encoder, names, count in zip(self._each(), self._leaves, self._num_states, strict=True):
            part: Observation = observation_of({leaf: observation[name] for leaf, name in names.items()})
            yield encoder, (part, state[start : start + count])
            start += count

    def _join(self, parts: Sequence[tuple[Tensor, State]]) -> tuple[Tensor, State]:
        features = torch.cat([features for features, _ in parts], -1)
        return features if self.joint is None else self.joint(features), tuple(s for _, state in parts for s in state)


def parts_of(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The entries of a Dict by key, or of a Tuple by place; ValueError for any other space, and as of `leaves`."""
    if isinstance(space, spaces.Dict):
        parts = {str(key): part for key, part in space.spaces.items()}
    elif isinstance(space, spaces.Tuple):
        parts = {str(place): part for place, part in enumerate(space.spaces)}
    else:
        raise ValueError(f"encoder.kind=combined can't take {one_line(space)}: it takes a Dict or a Tuple")
    leaves(space)
    return parts
