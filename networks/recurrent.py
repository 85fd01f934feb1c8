"""What LSTM and GRU share: layers over any inner encoder, explicit state, episode resets inside a sequence."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from ..configs.config import Config
from ..spaces import Observation, first_leaf
from .blocks import Positive, Share
from .encoder import Encoder, State
from .mlp import MLPConfig

if TYPE_CHECKING:
    from . import EncoderConfig


class RecurrentConfig(Config):
    hidden_size: Positive = 64  # units of each layer, in each direction
    num_layers: Positive = 1
    dropout: Share = 0.0  # of what one layer hands to the next, while learning
    bidirectional: bool = False  # for whole sequences; no agent can act on the future
    inner: "EncoderConfig" = MLPConfig(hidden=(64,))

    @model_validator(mode="after")
    def _dropout_has_a_place(self) -> Self:
        if self.dropout and self.num_layers == 1:
            raise ValueError(
                f"dropout={self.dropout} is between layers, and num_layers=1: take 2 or more, or set inner.dropout"
            )
        return self


class Recurrent(Encoder):
    """Recurrent layers over an inner encoder's features; the state is the inner encoder's and then our own [B, L, H].

    Without `is_first` the whole sequence goes through torch's fused kernel; with it, step by step, the input projection
    of all rows hoisted into one matrix product. Both agree to float tolerance. Parameters bear torch.nn.LSTM's names,
    so weights can be exchanged with it.

    Dropout is between layers and anew for each row, never from row to row (Zaremba et al. 2014).

    Bidirectional (Schuster & Paliwal 1997), each layer reads both ways, and features are 2 H wide, forward first. What
    is given are whole sequences then: no state goes in or comes out, and `step` is refused. `is_first` parts sequences
    in both directions, so rows of padding have no influence on those before if the first of them is marked.
    """

    num_gates: int
    num_states: int  # tensors of recurrent state that a layer carries

    def __init__(
        self,
        inner: Encoder,
        hidden_size: int,
        num_layers: int = 1,
        *,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.hidden_size, self.num_layers, self.bidirectional = hidden_size, num_layers, bidirectional
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.is_causal = inner.is_causal and not bidirectional
        self._directions = ("", "_reverse") if bidirectional else ("",)
        self.out_features = hidden_size * len(self._directions)
        rows = self.num_gates * hidden_size
        for layer in range(num_layers):
            fan_in = inner.out_features if layer == 0 else self.out_features
            shapes = ((rows, fan_in), (rows, hidden_size), (rows,), (rows,))
            for direction in self._directions:
                for name, shape in zip(_names(layer, direction), shapes, strict=True):
                    self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self.initialise_own_weights(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def initialise_own_weights(self, generator: torch.Generator) -> None:
        """Input weights Xavier, recurrent weights orthogonal gate by gate, biases 0 but for an LSTM's forget gate."""
        for weight_ih, weight_hh, bias_ih, bias_hh in self._passes():
            for gate in weight_ih.chunk(self.num_gates):
                nn.init.xavier_uniform_(gate, generator=generator)
            for gate in weight_hh.chunk(self.num_gates):
                nn.init.orthogonal_(gate, generator=generator)
            bias_ih.zero_()
            bias_hh.zero_()

    def initial_state(self, batch_size: int) -> State:
        if self.bidirectional:
            return ()
        return (*self.inner.initial_state(batch_size), *self._zeros(batch_size))

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Tensor, State]:
        assert not (self.bidirectional and state)
        own_state = state[-self.num_states :] or self._zeros(first_leaf(observation).shape[1])
        features, inner_state = self.inner(observation, state[: -self.num_states], is_first)
        if is_first is None:
            features, own_state = self._whole(features, own_state)
        else:
            features, own_state = self._stepwise(features, own_state, is_first)
        return features, () if self.bidirectional else (*inner_state, *own_state)

    def step(self, observation: Observation, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        if not self.is_causal:
            raise ValueError("encoder.bidirectional=true reads the future, which no step has; set it to false to act")
        return super().step(observation, state, is_first)

    def blocks(self) -> list[list[str]]:
        """The inner encoder's, and then one a layer."""
        inner = [[f"inner.{name}" for name in block] for block in self.inner.blocks()]
        return inner + [
            [name for direction in self._directions for name in _names(layer, direction)]
            for layer in range(self.num_layers)
        ]

    def _whole(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        weights, each = self._passes(), len(self._directions)
        if self.dropout is None or not self.dropout.training:
            return self._fused(features, state, weights)
        # Layer by layer: cuDNN would drop from a stream of its own, which nothing can put back.
        last: list[State] = []
        for start in range(0, len(weights), each):
            own = slice(start, start + each)
            features = self.dropout(features) if start else features
            features, after = self._fused(features, tuple(part[:, own] for part in state), weights[own])
            last.append(after)
        return features, tuple(torch.cat(parts, 1) for parts in zip(*last, strict=True))

    def _stepwise(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        keep = is_first.logical_not().unsqueeze(-1).to(features.dtype)
        keeps = [keep.unbind(0)]
        if self.bidirectional:
            # Read backwards, a row is reset if the one after it is first; what row 0 puts last meets a state of 0.
            keeps.append(keep.flip(0).roll(1, 0).unbind(0))
        weights, each = self._passes(), len(self._directions)
        last: list[State] = []
        for start in range(0, len(weights), each):
            if self.dropout is not None and start:
                features = self.dropout(features)
            outputs = []
            for place in range(start, start + each):
                is_back = place > start
                carried = tuple(part[:, place] for part in state)
                rows = features.flip(0) if is_back else features
                read, carried = self._read(rows, carried, keeps[is_back], weights[place])
                outputs.append(read.flip(0) if is_back else read)
                last.append(carried)
            features = outputs[0] if each == 1 else torch.cat(outputs, -1)
        return features, tuple(torch.stack(parts, 1) for parts in zip(*last, strict=True))

    def _read(
        self, features: Tensor, state: State, keep: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, State]:
        """One pass of one layer, each row's state multiplied by `keep` before it is read."""
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        outputs = []
        for row, keep_row in zip(nn.functional.linear(features, weight_ih, bias_ih).unbind(0), keep, strict=True):
            state = self._cell(row, tuple(part * keep_row for part in state), weight_hh, bias_hh)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def _zeros(self, batch_size: int) -> State:
        shape = (batch_size, self.num_layers * len(self._directions), self.hidden_size)
        zeros = self._weights("weight_hh_l0")[0].new_zeros(shape)
        return tuple(zeros.clone() for _ in range(self.num_states))

    def _passes(self) -> list[tuple[Tensor, ...]]:
        """weight_ih, weight_hh, bias_ih, bias_hh of each layer and direction, in torch's order."""
        return [
            self._weights(*_names(layer, direction))
            for layer in range(self.num_layers)
            for direction in self._directions
        ]

    def _weights(self, *names: str) -> tuple[Tensor, ...]:
        # Not get_parameter, which refuses what vmap puts in a parameter's place.
        return tuple(getattr(self, name) for name in names)

    @abstractmethod
    def _fused(self, features: Tensor, state: State, weights: Sequence[Sequence[Tensor]]) -> tuple[Tensor, State]:
        """The whole sequence in torch's kernel, with `train` wherever gradients are on: cuDNN has no backward else.

        weights: as of `_passes`, of one or more whole layers; state: of these alone.
        """

    @abstractmethod
    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        """One step of one layer: projected [B, gates * H] = W_ih x + b_ih, state each [B, H] -> state."""


def _names(layer: int, direction: str) -> list[str]:
    return [f"{name}_l{layer}{direction}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
