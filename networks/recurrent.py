"""LSTM and GRU over any inner encoder, with explicit state and episode resets inside a sequence."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..configs.config import Config
from .blocks import FORGET_GATE_BIAS
from .encoder import Encoder, State
from .mlp import MLPConfig

if TYPE_CHECKING:
    from . import EncoderConfig


class _RecurrentConfig(Config):
    hidden_size: Annotated[int, Field(gt=0)] = 64  # units of each layer
    num_layers: Annotated[int, Field(gt=0)] = 1
    inner: "EncoderConfig" = MLPConfig(hidden=(64,))


class LSTMConfig(_RecurrentConfig):
    kind: Literal["lstm"] = "lstm"
    forget_gate_bias: float = FORGET_GATE_BIAS  # at first; 2 keeps for long, 1 is sooner at differences of single steps

    def build(self, observation_shape: Sequence[int]) -> "LSTM":
        return LSTM(self.inner.build(observation_shape), self.hidden_size, self.num_layers, self.forget_gate_bias)


class GRUConfig(_RecurrentConfig):
    kind: Literal["gru"] = "gru"

    def build(self, observation_shape: Sequence[int]) -> "GRU":
        return GRU(self.inner.build(observation_shape), self.hidden_size, self.num_layers)


class Recurrent(Encoder):
    """Recurrent layers over an inner encoder's features; the state is the inner encoder's and then our own [B, L, H].

    Without `is_first` the whole sequence goes through torch's fused kernel; with it, step by step, the input projection
    of all rows hoisted into one matrix product. Both agree to float tolerance. Parameters bear torch.nn.LSTM's names,
    so weights can be exchanged with it.
    """

    num_gates: int
    num_states: int  # tensors of recurrent state that a layer carries

    def __init__(self, inner: Encoder, hidden_size: int, num_layers: int = 1) -> None:
        super().__init__()
        self.inner = inner
        self.hidden_size, self.num_layers, self.out_features = hidden_size, num_layers, hidden_size
        for layer in range(num_layers):
            fan_in = inner.out_features if layer == 0 else hidden_size
            rows = self.num_gates * hidden_size
            for name, shape in (
                ("weight_ih", (rows, fan_in)),
                ("weight_hh", (rows, hidden_size)),
                ("bias_ih", (rows,)),
                ("bias_hh", (rows,)),
            ):
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(torch.empty(shape)))
        self.initialise_own_weights(torch.Generator().manual_seed(0))

    @torch.no_grad()
    def initialise_own_weights(self, generator: torch.Generator) -> None:
        """Input weights Xavier, recurrent weights orthogonal gate by gate, biases 0 but for an LSTM's forget gate."""
        for layer in range(self.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = self._layer(layer)
            for gate in weight_ih.chunk(self.num_gates):
                nn.init.xavier_uniform_(gate, generator=generator)
            for gate in weight_hh.chunk(self.num_gates):
                nn.init.orthogonal_(gate, generator=generator)
            bias_ih.zero_()
            bias_hh.zero_()

    def initial_state(self, batch_size: int) -> State:
        zeros = self.get_parameter("weight_hh_l0").new_zeros(batch_size, self.num_layers, self.hidden_size)
        return (*self.inner.initial_state(batch_size), *(zeros.clone() for _ in range(self.num_states)))

    def forward(self, observation: Tensor, state: State = (), is_first: Tensor | None = None) -> tuple[Tensor, State]:
        state = state or self.initial_state(observation.shape[1])
        inner_state, own_state = state[: -self.num_states], state[-self.num_states :]
        features, inner_state = self.inner(observation, inner_state, is_first)
        if is_first is None:
            features, own_state = self._fused(features, own_state)
        else:
            features, own_state = self._stepwise(features, own_state, is_first)
        return features, (*inner_state, *own_state)

    def _stepwise(self, features: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        keep = is_first.logical_not().unsqueeze(-1).to(features.dtype).unbind(0)
        last: list[State] = []
        for layer in range(self.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = self._layer(layer)
            projected = nn.functional.linear(features, weight_ih, bias_ih).unbind(0)
            carried = tuple(part[:, layer] for part in state)
            outputs = []
            for row, keep_row in zip(projected, keep, strict=True):
                carried = self._cell(row, tuple(part * keep_row for part in carried), weight_hh, bias_hh)
                outputs.append(carried[0])
            features = torch.stack(outputs)
            last.append(carried)
        return features, tuple(torch.stack(parts, 1) for parts in zip(*last, strict=True))

    def _layer(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Its weight_ih, weight_hh, bias_ih, bias_hh."""
        get, of = self.get_parameter, f"l{layer}"
        return get(f"weight_ih_{of}"), get(f"weight_hh_{of}"), get(f"bias_ih_{of}"), get(f"bias_hh_{of}")

    def _flat_weights(self) -> list[Tensor]:
        return [weight for layer in range(self.num_layers) for weight in self._layer(layer)]

    @abstractmethod
    def _fused(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        """The whole sequence in torch's kernel, with `train` wherever gradients are on: cuDNN has no backward else."""

    @abstractmethod
    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        """One step of one layer: projected [B, gates * H] = W_ih x + b_ih, state each [B, H] -> state."""


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    num_gates, num_states = 4, 2

    def __init__(
        self, inner: Encoder, hidden_size: int, num_layers: int = 1, forget_gate_bias: float = FORGET_GATE_BIAS
    ) -> None:
        self._forget_gate_bias = forget_gate_bias
        super().__init__(inner, hidden_size, num_layers)

    def initialise_own_weights(self, generator: torch.Generator) -> None:
        super().initialise_own_weights(generator)
        with torch.no_grad():
            for layer in range(self.num_layers):
                bias_ih = self._layer(layer)[2]
                bias_ih[self.hidden_size : 2 * self.hidden_size].fill_(self._forget_gate_bias)

    def _fused(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        hidden, cell = (part.transpose(0, 1).contiguous() for part in state)
        train = torch.is_grad_enabled()
        output, hidden, cell = torch.lstm(
            features, (hidden, cell), self._flat_weights(), True, self.num_layers, 0.0, train, False, False
        )
        return output, (hidden.transpose(0, 1), cell.transpose(0, 1))

    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        hidden, cell = state
        gates = torch.addmm(projected, hidden, weight_hh.t()) + bias_hh
        input_, forget, candidate, output = gates.chunk(4, 1)
        cell = forget.sigmoid() * cell + input_.sigmoid() * candidate.tanh()
        return output.sigmoid() * cell.tanh(), cell


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014, in torch's form: the reset gate acts after the recurrent product)."""

    num_gates, num_states = 3, 1

    def _fused(self, features: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = state[0].transpose(0, 1).contiguous()
        train = torch.is_grad_enabled()
        output, hidden = torch.gru(
            features, hidden, self._flat_weights(), True, self.num_layers, 0.0, train, False, False
        )
        return output, (hidden.transpose(0, 1),)

    def _cell(self, projected: Tensor, state: State, weight_hh: Tensor, bias_hh: Tensor) -> State:
        (hidden,) = state
        recurrent = nn.functional.linear(hidden, weight_hh, bias_hh)
        reset_x, update_x, new_x = projected.chunk(3, 1)
        reset_h, update_h, new_h = recurrent.chunk(3, 1)
        update = (update_x + update_h).sigmoid()
        candidate = (new_x + (reset_x + reset_h).sigmoid() * new_h).tanh()
        return (candidate + update * (hidden - candidate),)
