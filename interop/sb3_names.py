"""What our networks' weights are called in Stable-Baselines3's policies, where there is a counterpart.

Theirs is a features extractor (nothing, or the Nature CNN), then an MLP, then one linear layer. A DQN has it under
`q_net`, and its target network under `q_net_target`. An actor-critic policy has two MLPs behind the extractor; that of
the policy is ours.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from ..networks import (
    MLP,
    CategoricalHead,
    Conv,
    ConvLayer,
    DuelingQHead,
    Encoder,
    Network,
    PolicyValue,
    PolicyValueHead,
    QHead,
)
from ..networks.blocks import ACTIVATIONS
from ..networks.conv import NATURE


def dqn_names(network: Network[Tensor]) -> dict[str, str]:
    """Name of each weight here -> its name in the policy of SB3's DQN.

    Heads that only teach the encoder are left out. ValueError, which names the field, for what SB3 has not.
    """
    head, place = network.head, 2 * num_mlp_layers(network.encoder)
    if isinstance(head, DuelingQHead):
        raise _lacks("agent.head.dueling", "dueling values")
    if type(head) is not QHead or head.atoms is not None:
        raise _lacks("agent.value.kind", "DQN that learns more than a number for each action")
    if len(head.shape) != 1:
        raise _lacks("the action space", "DQN with branches of an action")
    layers = {"head.linear": head.linear}
    if isinstance(head.linear, nn.Sequential):
        if place and activation(network.encoder) is not nn.ReLU:
            raise _lacks("agent.head.hidden", f"ReLU layer behind those with {activation(network.encoder).__name__}")
        layers = {f"head.linear.{index}": layer for index, layer in enumerate(head.linear) if index != 1}
    if any(type(layer) is not nn.Linear for layer in layers.values()):
        raise _lacks("agent.head.noise", "noisy layers")
    modules = _encoder(network.encoder, "q_net.features_extractor", "q_net.q_net")
    modules |= {ours: f"q_net.q_net.{place + 2 * index}" for index, ours in enumerate(layers)}
    return _weights(modules)


def target_names(network: Network[Tensor]) -> dict[str, str]:
    """As `dqn_names`, of the target network."""
    return {ours: f"q_net_target.{theirs.removeprefix('q_net.')}" for ours, theirs in dqn_names(network).items()}


def policy_names(network: Network[PolicyValue]) -> dict[str, str]:
    """Name of each weight here -> its name in the actor-critic policy of SB3's A2C and PPO.

    With a value head its linear layer is among them, see `value_names`. ValueError as of `dqn_names`.
    """
    modules = _encoder(network.encoder, "features_extractor", "mlp_extractor.policy_net")
    head = network.head
    if type(head) is not PolicyValueHead or type(head.policy) is not CategoricalHead:
        raise _lacks("the network", f"{type(head).__name__}")
    modules["head.policy.linear"] = "action_net"
    if head.value is not None:
        modules["head.value.linear"] = "value_net"
    return _weights(modules)


def value_names(network: Network[PolicyValue]) -> dict[str, str]:
    """Name of each weight of our MLP -> its name in theirs of the value: in SB3 the two share no MLP."""
    return _weights({ours: f"mlp_extractor.value_net.{place}" for ours, place in _mlp_layers(network.encoder).items()})


def to_ours(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """SB3's weights that `names` knows, under our names. KeyError for one that is missing."""
    return {ours: weights[theirs] for ours, theirs in names.items()}


def to_theirs(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our weights that `names` knows, under SB3's names. KeyError for one that is missing."""
    return {theirs: weights[ours] for ours, theirs in names.items()}


def activation(encoder: Encoder) -> type[nn.Module]:
    """Of the encoder's layers."""
    kinds = tuple(ACTIVATIONS.values())
    return next(type(module) for module in encoder.modules() if isinstance(module, kinds))


def num_mlp_layers(encoder: Encoder) -> int:
    """Layers of the encoder that are in SB3's MLP."""
    return len(_mlp_layers(encoder))


def _mlp_layers(encoder: Encoder) -> dict[str, int]:
    """Name of each linear layer of an MLP -> its place, which is the same in both libraries."""
    if type(encoder) is not MLP:
        return {}
    linear = (place for place, layer in enumerate(encoder.layers) if isinstance(layer, nn.Linear))
    return {f"encoder.layers.{place}": place for place in linear}


def _encoder(encoder: Encoder, extractor: str, mlp: str) -> dict[str, str]:
    """Name of each module with weights here -> its name under SB3's extractor or MLP."""
    if type(encoder) is not MLP and type(encoder) is not Conv:
        raise _lacks("agent.encoder.kind", f"{type(encoder).__name__}, but MLPs and the Nature CNN")
    known = (nn.Linear, nn.Conv2d, *ACTIVATIONS.values())
    for module in encoder.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            raise _lacks("agent.encoder.dropout", "dropout")
        if any(True for _ in module.parameters(recurse=False)) and not isinstance(module, known):
            raise _lacks("agent.encoder.norm", type(module).__name__)
    if type(encoder) is MLP:
        return {ours: f"{mlp}.{place}" for ours, place in _mlp_layers(encoder).items()}
    assert type(encoder) is Conv
    convolutions = [module for module in encoder.modules() if isinstance(module, nn.Conv2d)]
    if tuple(map(_layer, convolutions)) != NATURE:
        raise _lacks("agent.encoder.layers", "convolutions but those of the Nature CNN")
    if encoder.hidden is None:
        raise _lacks("agent.encoder.hidden", "Nature CNN without its hidden layer")
    if activation(encoder) is not nn.ReLU:
        raise _lacks("agent.encoder.activation", f"Nature CNN with {activation(encoder).__name__}")
    modules = {f"encoder.layers.{place}.0": f"{extractor}.cnn.{2 * place}" for place in range(len(convolutions))}
    return modules | {"encoder.hidden.0": f"{extractor}.linear.0"}


def _layer(convolution: nn.Conv2d) -> ConvLayer:
    kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], convolution.padding[0]
    assert isinstance(padding, int)
    return ConvLayer(channels=convolution.out_channels, kernel=kernel, stride=stride, padding=padding)


def _weights(modules: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{entry}": f"{theirs}.{entry}" for ours, theirs in modules.items() for entry in ("weight", "bias")}


def _lacks(field: str, what: str) -> ValueError:
    return ValueError(f"{field}: Stable-Baselines3 has no {what}")
