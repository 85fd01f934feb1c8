"""A stack of networks says of each group of columns what the network of that group would say alone."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from graftwork.networks import (
    MLP,
    ConvConfig,
    ConvLayer,
    DuelingQHead,
    EncoderConfig,
    Heads,
    ImpalaConfig,
    ImplicitQuantileHead,
    LSTMConfig,
    MLPConfig,
    Network,
    QHead,
    ResNetConfig,
    StackedNetwork,
    ValueHead,
)
from graftwork.spaces import Observation, leaves, map_leaves, observation_of

S, T, N, A, K = 3, 4, 5, 7, 6
VECTOR, IMAGE = (spaces.Box(-np.inf, np.inf, shape, np.float32) for shape in ((2,), (2, 6, 5)))
DICT = spaces.Dict({"vector": VECTOR, "choice": spaces.Discrete(4)})
CONV = (ConvLayer(channels=8, kernel=3),)

ENCODERS: dict[str, tuple[EncoderConfig, spaces.Space[Any]]] = {
    "mlp": (MLPConfig(hidden=(9, 8)), VECTOR),
    "mlp-scaled": (MLPConfig(hidden=(9,), scale=(0.5, 2.0), norm="layer"), VECTOR),
    "mlp-dict": (MLPConfig(hidden=(9,), norm="rms"), DICT),
    "conv": (ConvConfig(layers=CONV, hidden=9, norm="group", norm_groups=2), IMAGE),
    "impala": (ImpalaConfig(stages=(8,), residual_blocks=1, hidden=9), IMAGE),
    "resnet": (ResNetConfig(blocks=(1, 1), width=8, norm="layer"), IMAGE),
}
HEADS = {
    "values": lambda width: QHead(width, A),
    "dueling": lambda width: DuelingQHead(width, A, hidden=8),
    "atoms": lambda width: DuelingQHead(width, A, atoms=K),
    "branches": lambda width: QHead(width, (2, A), hidden=8),
    "implicit": lambda width: ImplicitQuantileHead(width, QHead(width, A), num_fractions=K),
}


def networks(encoder: str = "mlp", head: str = "values") -> list[Network[Tensor]]:
    config, space = ENCODERS[encoder]
    torch.manual_seed(0)
    encoders = [config.build(space) for _ in range(S)]
    return [Network(each, HEADS[head](each.out_features)) for each in encoders]


def observations(encoder: str, *shape: int) -> Observation:
    """Random ones, integers among the leaves that take such."""
    generator, found = torch.Generator().manual_seed(1), {}
    for name, leaf in leaves(ENCODERS[encoder][1]).items():
        form = (*shape, *leaf.shape)
        found[name] = (
            torch.randn(form, generator=generator)
            if leaf.dtype == np.float32
            else torch.randint(4, form, generator=generator)
        )
    return observation_of(found)


def columns(part: Observation, s: int, axis: int = 1) -> Observation:
    return map_leaves(lambda leaf: leaf.narrow(axis, s * N, N), part)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_network_sees_its_own_columns(encoder: str) -> None:
    alone = networks(encoder)
    stack, observation = StackedNetwork(alone), observations(encoder, T, S * N)
    output, state = stack(observation)
    step, _ = stack.step(map_leaves(lambda leaf: leaf[2], observation), (), torch.zeros(S * N, dtype=torch.bool))
    assert (stack.groups, state, output.shape) == (S, (), (T, S * N, A))
    for s, network in enumerate(alone):
        expected = network(columns(observation, s))[0]
        close(output[:, s * N : (s + 1) * N], expected)
        close(step[s * N : (s + 1) * N], expected[2])
        assert (expected - output[:, (s + 1) % S * N :][:, :N]).abs().max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_each_head_sees_its_own_columns(head: str) -> None:
    alone = networks(head=head)
    stack, features = StackedNetwork(alone), torch.randn(T, S * N, 8, generator=torch.Generator().manual_seed(1))
    more = (torch.rand(T, S * N, K, generator=torch.Generator().manual_seed(2)),) if head == "implicit" else ()
    for inputs in ((features, *more), (features[1],)):  # of rows, and of one row
        output = stack.head(*inputs)
        for s, network in enumerate(alone):
            own = (part.narrow(part.ndim - 2, s * N, N) for part in inputs)
            close(output.narrow(inputs[0].ndim - 2, s * N, N), network.head(*own))


def test_gradient_of_the_sum_of_losses_is_that_of_each_network_alone() -> None:
    alone = networks("conv", "dueling")
    stack, observation = StackedNetwork(alone), observations("conv", T, S * N)
    total = stack(observation)[0].square().sum()
    gradients = torch.autograd.grad(total, list(stack.parameters()))
    for s, network in enumerate(alone):
        own = torch.autograd.grad(network(columns(observation, s))[0].square().sum(), list(network.parameters()))
        for stacked, expected in zip(gradients, own, strict=True):
            torch.testing.assert_close(stacked[s], expected, rtol=1e-4, atol=1e-5)


def test_weights_go_in_and_come_out_bit_for_bit() -> None:
    alone = networks("mlp-scaled", "dueling")
    stack = StackedNetwork(alone)
    for s, network in enumerate(alone):
        own, out = network.state_dict(), stack.unstacked(s).state_dict()
        assert own.keys() == out.keys()
        assert all(torch.equal(own[name], out[name]) for name in own)
    with torch.no_grad():
        for parameter in stack.unstacked(1).parameters():
            parameter.zero_()  # copies
    assert torch.equal(stack.unstacked(1).head.value[0].weight, alone[1].head.value[0].weight)


def test_a_parameter_that_two_modules_share_stays_shared() -> None:
    def tied() -> Network[Tensor]:
        encoder = MLP((8,), (8, 8))
        encoder.layers[2].weight = encoder.layers[0].weight
        return Network(encoder, QHead(8, A))

    alone = [tied() for _ in range(S)]
    stack = StackedNetwork(alone)
    observation = torch.randn(T, S * N, 8, generator=torch.Generator().manual_seed(1))
    assert len(list(stack.parameters())) == len(list(stack.unstacked(2).parameters())) == 5
    close(stack(observation)[0][:, 2 * N :], alone[2](observation[:, 2 * N :])[0])


def test_an_ordinary_network_is_the_only_one_of_itself() -> None:
    network = networks()[0]
    assert network.groups == 1
    assert network.unstacked(0) is network


def with_part(**parts: nn.Module) -> Network[Tensor]:
    network = networks()[0]
    return Network(parts.get("encoder", network.encoder), parts.get("head", network.head), parts.get("auxiliary"))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (with_part(encoder=LSTMConfig(hidden_size=8).build(VECTOR)), "agent.encoder: LSTM has a memory, and seeds"),
        (with_part(encoder=MLPConfig(hidden=(8,), norm="batch").build(VECTOR)), "agent.encoder: MLP has batch norm"),
        (with_part(encoder=MLPConfig(hidden=(8,), dropout=0.1).build(VECTOR)), "agent.encoder: MLP has dropout"),
        (with_part(head=QHead(8, A, noise=0.5)), "agent.head.noise: seeds above 1 take no noisy layers; use null"),
        (with_part(auxiliary=Heads({"reward": ValueHead(8)})), "agent.auxiliary: seeds above 1 take no auxiliary"),
    ],
    ids=["memory", "batch norm", "dropout", "noise", "auxiliary"],
)
def test_what_cannot_be_stacked_is_refused(network: Network[Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(reason)}") as error:
        StackedNetwork([network] * S)
    assert "\n" not in str(error.value)
