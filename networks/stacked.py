"""Networks of one form as one network, each with columns of its own: many runs side by side.

Letters: S networks, n columns of each. Columns are grouped: those of the s-th network are s * n to (s + 1) * n.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..spaces import Observation, map_leaves
from .encoder import Encoder, State
from .heads import Head
from .network import Network
from .noisy import noisy_layers

Module = TypeVar("Module", bound=nn.Module)


class StackedNetwork(Network[Tensor]):
    """S networks with weights of their own, each parameter and buffer [S, ...]; nothing passes from one to another.

    The loss of a stack is the sum of its networks' losses: then the gradient of each is that of its own loss.
    """

    encoder: "StackedEncoder"
    head: "StackedHead"

    def __init__(self, networks: Sequence[Network[Tensor]]) -> None:
        """Copies of their weights. ValueError for what cannot be stacked: what has a memory, counts or draws."""
        _check(networks[0])
        encoders, heads = zip(*((network.encoder, network.head) for network in networks), strict=True)
        super().__init__(StackedEncoder(encoders), StackedHead(heads))
        self.groups = len(networks)

    def unstacked(self, index: int) -> Network[Tensor]:
        return Network(_taken(self.encoder.inner, index), _taken(self.head.inner, index)).train(self.training)


class StackedEncoder(Encoder):
    """S feed-forward encoders: [T, S*n, *obs] -> [T, S*n, F]."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self._groups, self.inner = len(encoders), _stacked(encoders)
        self.out_features, self.is_causal = self.inner.out_features, self.inner.is_causal

    def forward(
        self, observation: Observation, state: State = (), is_first: Tensor | None = None
    ) -> tuple[Tensor, State]:
        parts = map_leaves(lambda leaf: _in_groups(leaf, self._groups, 1), observation)
        features: Tensor = _each(self.inner, 1, parts)[0]
        return _in_columns(features, 1), state


class StackedHead(Head[Tensor]):
    """S heads: [..., S*n, F], and what else a head is asked for, [..., S*n, K] -> [..., S*n, *shape]."""

    def __init__(self, heads: Sequence[Head[Tensor]]) -> None:
        super().__init__()
        self._groups, self.inner = len(heads), _stacked(heads)

    def forward(self, features: Tensor, *more: Tensor) -> Tensor:
        axis = features.ndim - 2
        parts = (_in_groups(each, self._groups, axis) for each in (features, *more))
        output: Tensor = _each(self.inner, axis, *parts)
        return _in_columns(output, axis)


def _in_groups(columns: Tensor, groups: int, axis: int) -> Tensor:
    """[..., S*n, ...] -> [..., S, n, ...]."""
    return columns.view(*columns.shape[:axis], groups, -1, *columns.shape[axis + 1 :])


def _in_columns(groups: Tensor, axis: int) -> Tensor:
    """[..., S, n, ...] -> [..., S*n, ...], strides included as of an ordinary network."""
    rows = groups.flatten(0, axis + 1)
    return rows.view(*groups.shape[:axis], -1, *groups.shape[axis + 2 :])


def _each(module: nn.Module, axis: int, *inputs: Observation) -> Any:
    """What each module of a stack makes of its inputs, which lie along that axis, as do the outputs."""
    held = dict([*module.named_parameters(), *module.named_buffers()])

    def of_one(held: dict[str, Tensor], *inputs: Observation) -> Any:
        return torch.func.functional_call(module, held, inputs)

    return torch.func.vmap(of_one, (0, *(axis for _ in inputs)), axis)(held, *inputs)


def _stacked(modules: Sequence[Module]) -> Module:
    """One like the first with the parameters and buffers of all, [S, ...]; its `forward` is of no use by itself."""
    stack = deepcopy(modules[0])
    made: dict[int, nn.Parameter] = {}  # by the parameter in whose place it is, as modules may share one
    for own, *each in zip(stack.modules(), *(module.modules() for module in modules), strict=True):
        for name, parameter in own._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                entries = torch.stack([part.get_parameter(name).detach() for part in each])
                made[id(parameter)] = nn.Parameter(entries, parameter.requires_grad)
            own._parameters[name] = made[id(parameter)]
        for name, buffer in own._buffers.items():
            if buffer is not None:
                own._buffers[name] = torch.stack([part.get_buffer(name) for part in each])
    return stack


def _taken(stack: Module, index: int) -> Module:
    """The ordinary module of that place, with weights of its own."""
    one = deepcopy(stack)
    made: dict[int, nn.Parameter] = {}
    for part in one.modules():
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(parameter[index].detach().clone(), parameter.requires_grad)
            part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer[index].clone()
    return one


def _check(network: Network[Tensor]) -> None:
    """ValueError for what a function that is mapped over networks cannot be."""
    kind = type(network.encoder).__name__
    if network.initial_state(1):
        raise ValueError(f"agent.encoder: {kind} has a memory, and seeds above 1 take only feed-forward ones")
    modules = list(network.modules())
    if any(isinstance(module, nn.modules.batchnorm._NormBase) for module in modules):
        raise ValueError(f"agent.encoder: {kind} has batch norm; seeds above 1 take norm=layer, group, rms or none")
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in modules):
        raise ValueError(f"agent.encoder: {kind} has dropout; seeds above 1 take dropout=0")
    if noisy_layers(network):
        raise ValueError("agent.head.noise: seeds above 1 take no noisy layers; use null")
    if network.auxiliary is not None:
        raise ValueError("agent.auxiliary: seeds above 1 take no auxiliary heads; use 0")
