"""The contract between observations and everything that learns from them."""

from typing import TypeAlias

from torch import Tensor, nn

State: TypeAlias = tuple[Tensor, ...]
"""Recurrent state before an observation, each [B, ...]; `()` when feed-forward."""


class Encoder(nn.Module):
    """Maps time-major observations to features, with the recurrent state explicit: in as an argument, out as a result.

    An encoder holds parameters only. A feed-forward one writes `encode` and inherits the rest; a recurrent one
    overrides `initial_state` and `forward`.
    """

    out_features: int

    def initial_state(self, batch_size: int) -> State:
        """State at the start of an episode, each [batch_size, ...], on the parameters' device."""
        return ()

    def forward(self, observation: Tensor, state: State = (), is_first: Tensor | None = None) -> tuple[Tensor, State]:
        """Features and the state after the last row.

        observation: [T, B, *obs]; state: before row 0; is_first: [T, B] bool, rows whose state is reset before they are
        read, None to promise that no row is. -> [T, B, F], state.
        """
        time, batch = observation.shape[:2]
        features = self.encode(observation.flatten(0, 1))
        return features.view(time, batch, self.out_features), state

    def step(self, observation: Tensor, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """`forward` of one row: [B, *obs], state, [B] -> [B, F], state."""
        if type(self).forward is Encoder.forward:  # it writes `encode`: spare what puts rows together
            return self.encode(observation), state
        features, state = self(observation.unsqueeze(0), state, is_first.unsqueeze(0))
        return features[0], state

    def encode(self, observation: Tensor) -> Tensor:
        """Features of independent observations: [N, *obs] -> [N, F]."""
        raise NotImplementedError(f"{type(self).__name__} defines neither encode nor forward")
