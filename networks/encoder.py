"""The contract between observations and everything that learns from them."""

from typing import Self, TypeAlias

from torch import Tensor, nn

from ..spaces import Observation, first_leaf, map_leaves

State: TypeAlias = tuple[Tensor, ...]
"""Recurrent state before an observation, each [B, ...]; `()` when feed-forward."""


class Encoder(nn.Module):
    """Maps time-major observations to features, with the recurrent state explicit: in as an argument, out as a result.

    An encoder holds parameters only. A feed-forward one writes `encode` and inherits the rest; a recurrent one
    overrides `initial_state` and `forward`. An observation [..., *obs] is a tensor, or a dict of them where the space
    is a Dict or a Tuple (see spaces.leaves).
    """

    out_features: int
    rate_decay = 1.0  # each block learns at this share of the rate of the one after it, see freezing.parameter_groups
    is_causal = True  # features of a row depend on no later row; an agent cannot act on others
    is_to_train = True  # the mode last asked for; `training` is False too while all of it is frozen

    def initial_state(self, batch_size: int) -> State:
        """State at the start of an episode, each [batch_size, ...], on the parameters' device."""
        return ()

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Features and the state after the last row.

        observation: [T, B, *obs]; state: before row 0; is_first: [T, B] bool, rows whose state is reset before they are
        read, None to promise that no row is. -> [T, B, F], state.
        """
        time, batch = first_leaf(observation).shape[:2]
        features = self.encode(map_leaves(_rows, observation))
        return features.view(time, batch, self.out_features), state

    def step(self, observation: Observation, state: State, is_first: Tensor) -> tuple[Tensor, State]:
        """`forward` of one row: [B, *obs], state, [B] -> [B, F], state."""
        if type(self).forward is Encoder.forward:  # it writes `encode`: spare what puts rows together
            return self.encode(observation), state
        features, state = self(map_leaves(_one_row, observation), state, is_first.unsqueeze(0))
        return features[0], state

    def encode(self, observation: Observation) -> Tensor:
        """Features of independent observations: [N, *obs] -> [N, F]."""
        raise NotImplementedError(f"{type(self).__name__} defines neither encode nor forward")

    def blocks(self) -> list[list[str]]:
        """What is frozen together and learns at one rate, from the input on: names of sub-modules and parameters.

        Every parameter belongs to one block. One whole, unless an encoder says more.
        """
        return [[name for name, _ in self.named_parameters()]]

    def train(self, mode: bool = True) -> Self:
        """As of any module, but what is frozen stays in eval mode: no dropout there, and norm statistics stand still.

        Frozen is a module, or a block, all of whose parameters have requires_grad=False.
        """
        super().train(mode)
        self.is_to_train = mode
        if mode and not all(parameter.requires_grad for parameter in self.parameters()):
            _rest_if_frozen(self)
            modules = dict(self.named_modules())
            for block in self.blocks():  # which may have dropout beside the layers that it is made of
                members = [modules[name] for name in block if name in modules]
                parameters = [parameter for module in members for parameter in module.parameters()]
                if parameters and not any(parameter.requires_grad for parameter in parameters):
                    for module in members:
                        _rest(module)
        return self


def _rest_if_frozen(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        _rest(module)
    else:
        for child in module.children():
            _rest_if_frozen(child)


def _rest(module: nn.Module) -> None:
    """Eval mode, but not by `train`: nobody asked for it."""
    for part in module.modules():
        part.training = False


def _rows(leaf: Tensor) -> Tensor:
    return leaf.flatten(0, 1)


def _one_row(leaf: Tensor) -> Tensor:
    return leaf.unsqueeze(0)
