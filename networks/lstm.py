"""Long short-term memory."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor

from .blocks import FORGET_GATE_BIAS
from .encoder import Encoder, State
from .recurrent import Recurrent, RecurrentConfig


class LSTMConfig(RecurrentConfig):
    kind: Literal["lstm"] = "lstm"
    forget_gate_bias: float = FORGET_GATE_BIAS  # at first; 2 keeps for long, 1 is sooner at differences of single steps

    def build(self, space: spaces.Space[Any]) -> "LSTM":
        return LSTM(
            self.inner.build(space),
            self.hidden_size,
            self.num_layers,
            self.forget_gate_bias,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
        )


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    num_gates, num_states = 4, 2

    def __init__(
        self,
        inner: Encoder,
        hidden_size: int,
        num_layers: int = 1,
        forget_gate_bias: float = FORGET_GATE_BIAS,
        *,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        self._forget_gate_bias = forget_gate_bias
        super().__init__(inner, hidden_size, num_layers, dropout=dropout, bidirectional=bidirectional)

    def initialise_own_weights(self, generator: torch.Generator) -> None:
        super().initialise_own_weights(generator)
        with torch.no_grad():
            for _, _, bias_ih, _ in self._passes():
                bias_ih[self.hidden_size : 2 * self.hidden_size].fill_(self._forget_gate_bias)

    def _fused(self, features: Tensor, state: State, weights: Sequence[Sequence[Tensor]]) -> tuple[Tensor, State]:
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        flat = [weight for each in weights for weight in each]
        num_layers, train = len(weights) // len(self._directions), torch.is_grad_enabled()
        output, hidden, cell = torch.lstm(
            features, (hidden, cell), flat, True, num_layers, 0.0, train, self.bidirectional, False
        )
        return output, (hidden.transpose(0, 1), cell.transpose(0, 1))

    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        hidden, cell = state
        gates = torch.addmm(projected, hidden, weight_hh.t()) + bias_hh
        input_, forget, candidate, output = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + input_.sigmoid() * candidate.tanh()
        return output.sigmoid() * cell.tanh(), cell
