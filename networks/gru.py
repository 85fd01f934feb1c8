"""Gated recurrent unit."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from .encoder import State
from .recurrent import Recurrent, RecurrentConfig


class GRUConfig(RecurrentConfig):
    kind: Literal["gru"] = "gru"

    def build(self, space: spaces.Space[Any]) -> "GRU":
        return GRU(
            self.inner.build(space),
            self.hidden_size,
            self.num_layers,
            dropout=self.dropout,
            bidirectional=self.bidirectional,
        )


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014, in torch's form: the reset gate acts after the recurrent product)."""

    num_gates, num_states = 3, 1

    def _fused(self, features: Tensor, state: State, weights: Sequence[Sequence[Tensor]]) -> tuple[Tensor, State]:
        hidden = state[0].transpose(0, 1).contiguous()
        flat = [weight for each in weights for weight in each]
        num_layers, train = len(weights) // len(self._directions), torch.is_grad_enabled()
        output, hidden = torch.gru(features, hidden, flat, True, num_layers, 0.0, train, self.bidirectional, False)
        return output, (hidden.transpose(0, 1),)

    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        (hidden,) = state
        recurrent = nn.functional.linear(hidden, weight_hh, bias_hh)
        reset_x, update_x, new_x = projected.chunk(3, 1)
        reset_h, update_h, new_h = recurrent.chunk(3, 1)
        update = (update_x + update_h).sigmoid()
        candidate = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return (candidate + update * (hidden - candidate),)
