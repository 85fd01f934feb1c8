"""A model of Stable-Baselines3 as an agent."""

import re
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from ..agents.action_values import HeadConfig
from ..agents.dqn import DQN, DQNConfig
from ..agents.reinforce import Reinforce, ReinforceConfig
from ..configs.suggest import suggest
from ..engine import load_weights
from ..envs import EnvSpec
from ..networks import ConvConfig, MLPConfig, Network
from ..networks.blocks import ACTIVATIONS, Activation
from ..networks.flat import Flat
from ..training.seeding import Seeds
from .archive import shown
from .sb3_names import dqn_names, policy_names, target_names, to_ours
from .sb3_zip import SB3Model, read

_CAPACITY = 1_000  # transitions of the replay: enough to be built, and little memory even for images


def from_sb3(path: str | Path) -> DQN | Reinforce:
    """The agent that acts as the DQN, A2C or PPO model saved there by SB3 2.x; SB3 need not be installed.

    Of a DQN it is a DQN, online and target weights alike. Of A2C and PPO it is a Reinforce without a baseline: the
    policy alone, for in SB3 the value has an MLP of its own. Nothing in the file is run, whatever it holds.
    Observations are those that SB3's model gets, of images with the channels first. Discount and number of steps are
    taken over; how it would learn on is our default, with a small replay: to train on, give its network to a run.
    ValueError, in one line, for whatever cannot be imported.
    """
    path = Path(path).expanduser()
    if path.name and not path.suffix and not path.exists():
        path = path.with_name(f"{path.name}.zip")  # as SB3 has called it
    model = read(path)
    with torch.random.fork_rng(devices=()):  # torch's layers draw weights of their own before the model's replace them
        return _dqn(model) if model.algorithm == "DQN" else _reinforce(model)


def _dqn(model: SB3Model) -> DQN:
    layers = _layers(model, "q_net.q_net")
    hidden = _widths(model, "q_net.features_extractor", layers)
    encoder, behind = _encoder(model, "q_net.features_extractor", hidden)
    if len(behind) > 1 or (behind and _activation(model) != "relu"):
        raise model.error(f"net_arch={behind} behind the Nature CNN: at most one layer, with ReLU, can be imported")
    config = DQNConfig(
        encoder=encoder,
        head=HeadConfig(hidden=behind[0] if behind else None),
        discount=model.discount,
        double=False,
        replay_capacity=_CAPACITY,
        learning_starts=_CAPACITY,
    )
    spec, seeds = _spec(model, encoder), Seeds(0)
    network = config.network(spec, seeds)
    names, targets = dqn_names(network), target_names(network)
    _check_names(model, {*names.values(), *targets.values()})
    _load(model, network, names)
    agent = config.build(network, spec, 1, seeds, torch.device("cpu"))
    _load(model, agent.target, targets)
    agent.step = model.step
    return agent


def _reinforce(model: SB3Model) -> Reinforce:
    layers = [*_layers(model, "mlp_extractor.policy_net"), _weight(model, "action_net.weight")]
    hidden = _widths(model, "features_extractor", layers)
    encoder, behind = _encoder(model, "features_extractor", hidden)
    if behind:
        raise model.error(f"net_arch={behind} behind the Nature CNN: a policy here is linear in its features")
    config = ReinforceConfig(encoder=encoder, discount=model.discount, baseline="none")
    spec, seeds = _spec(model, encoder), Seeds(0)
    network = config.network(spec, seeds)
    names = policy_names(network)
    _check_names(model, set(names.values()))
    _load(model, network, names)
    agent = config.build(network, spec, 1, seeds, torch.device("cpu"))
    agent.step = model.step
    return agent


def _layers(model: SB3Model, mlp: str) -> list[Tensor]:
    """The weights of an MLP's layers, which stand at every other place, activations between them."""
    found = (re.fullmatch(rf"{re.escape(mlp)}\.(\d{{1,6}})\.weight", name) for name in model.weights)
    places = sorted(int(match[1]) for match in found if match)
    if places != list(range(0, 2 * len(places), 2)):
        raise model.error(f"{mlp} has layers at the places {shown(places)}; only linear layers can be imported")
    return [model.weights[f"{mlp}.{place}.weight"] for place in places]


def _widths(model: SB3Model, extractor: str, layers: Sequence[Tensor]) -> list[int]:
    """Units of each layer but the last; ValueError unless each takes what the one before it gives.

    Else a small file could ask for a network of any size.
    """
    if _has_cnn(model, extractor):
        inputs, space = len(_weight(model, f"{extractor}.linear.0.weight")), "Nature CNN"
    else:
        inputs, space = Flat(model.observation_space).out_features, "observation"
    for layer in layers:
        if layer.ndim != 2 or layer.shape[1] != inputs:
            raise model.error(f"a layer of shape {list(layer.shape)} does not fit the {inputs} numbers of the {space}")
        inputs, space = len(layer), "layer before"
    if not layers or inputs != model.action_space.n:
        raise model.error(f"the last layer gives {inputs} numbers for {model.action_space.n} actions")
    return [len(layer) for layer in layers[:-1]]


def _encoder(model: SB3Model, extractor: str, hidden: list[int]) -> tuple[MLPConfig | ConvConfig, list[int]]:
    """The encoder, and the widths of the layers behind it."""
    space = model.observation_space
    if not _has_cnn(model, extractor):
        if not hidden:
            raise model.error("net_arch=[]: an encoder here has one layer at least")
        scale = (1 / 255,) * Flat(space).out_features if model.divides_images else None
        return MLPConfig(hidden=tuple(hidden), activation=_activation(model), scale=scale), []
    linear = _weight(model, f"{extractor}.linear.0.weight")
    try:
        maps = ConvConfig(hidden=None, channels="first").build(space).out_features
    except ValueError as error:
        raise model.error(str(error)) from error
    if linear.ndim != 2 or linear.shape[1] != maps:
        raise model.error(f"{extractor}.linear.0.weight is {list(linear.shape)}, the convolutions give {maps} numbers")
    return ConvConfig(hidden=len(linear), channels="first"), hidden


def _spec(model: SB3Model, encoder: MLPConfig | ConvConfig) -> EnvSpec:
    space: spaces.Space[Any] = model.observation_space
    if isinstance(space, spaces.Box) and isinstance(encoder, ConvConfig) and not model.divides_images:
        # Its bytes are not to be divided, so let them be floats, which are taken as they are.
        space = spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
    count = int(model.action_space.n)
    return EnvSpec(Path(model.name).name, space, count, action_start=0, action_space=str(model.action_space))


def _activation(model: SB3Model) -> Activation:
    known = {f"{kind.__module__}.{kind.__name__}": name for name, kind in ACTIVATIONS.items()}
    if model.activation not in known:
        allowed = ", ".join(kind.__name__ for kind in ACTIVATIONS.values())
        raise model.error(f"activation_fn={shown(model.activation)}: must be one of torch.nn's {allowed}")
    return known[model.activation]


def _has_cnn(model: SB3Model, extractor: str) -> bool:
    return any(name.startswith(f"{extractor}.cnn.") for name in model.weights)


def _weight(model: SB3Model, name: str) -> Tensor:
    if name not in model.weights:
        raise model.error(f"its policy has no {name}{suggest(name, model.weights)}")
    return model.weights[name]


def _check_names(model: SB3Model, wanted: Set[str]) -> None:
    """ValueError for a weight that would go nowhere, unless it is the value's."""
    for name, tensor in model.weights.items():
        shared = re.sub("^(pi|vf)_features_extractor", "features_extractor", name)
        is_of_value = re.fullmatch(r"(mlp_extractor\.value_net\.\d+|value_net)\.(weight|bias)", name)
        if name in wanted or (is_of_value and model.algorithm != "DQN"):
            continue
        if shared == name or shared not in wanted:
            raise model.error(f"its policy has {shown(name)}, which SB3's own for {model.algorithm} has not")
        if not torch.equal(tensor, _weight(model, shared)):
            raise model.error("share_features_extractor=False: a network here has one encoder")


def _load(model: SB3Model, network: Network[Any], names: Mapping[str, str]) -> None:
    state = network.state_dict()
    for ours, theirs in names.items():
        shape = list(_weight(model, theirs).shape)
        if shape != list(state[ours].shape):
            raise model.error(f"{theirs} is {shape}, but by the layers around it {list(state[ours].shape)}")
    load_weights("network", network, {**state, **to_ours(model.weights, names)})
