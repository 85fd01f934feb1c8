"""An agent as a model of Stable-Baselines3."""

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from ..agents.dqn import DQN
from ..agents.reinforce import Reinforce
from ..engine import Agent
from ..envs import EnvSpec
from ..networks import MLP, Conv, Encoder, NormalisedValueHead
from ..runs import load
from ..spaces import one_line
from ..training.durable import replace_file
from .extra import stable_baselines3
from .sb3_names import activation, dqn_names, policy_names, target_names, to_theirs, value_names
from .sb3_spaces import is_image_of_bytes


def to_sb3(agent: Agent | str | Path, path: str | Path) -> Path:
    """Write the agent as a model that `DQN.load(path)`, or `A2C.load(path)` of a Reinforce, loads; the file's path.

    agent: or a run directory, of which it is the newest good checkpoint. The model acts as the agent does, on the same
    observations. Discount, number of steps and, of DQN, the size of the replay are taken over; how it would learn on is
    otherwise SB3's default. A learned baseline becomes SB3's value, with an MLP of its own that has the policy's
    weights; without one the value is 0. A path without a suffix gets ".zip", as in SB3; a file that is there is
    replaced as a whole. Needs stable-baselines3, which writes the file.
    ValueError, which names the field, for what it has no counterpart of.
    """
    path = Path(path).expanduser()
    if not path.name:
        raise ValueError(f"path={str(path)!r} names no file; to_sb3 writes one such as model.zip")
    library = stable_baselines3()
    trained = load(agent) if isinstance(agent, str | Path) else agent
    if not isinstance(trained, DQN | Reinforce):
        raise ValueError(
            f"a {type(trained).__name__} cannot become a model of Stable-Baselines3; DQN and Reinforce can"
        )
    _check_spec(trained.spec)
    with torch.random.fork_rng(devices=()):  # torch's layers draw weights of their own before the agent's replace them
        model = _dqn(library, trained) if isinstance(trained, DQN) else _a2c(library, trained)
    model.gamma, model.num_timesteps = trained.config.discount, trained.step
    file = BytesIO()
    model.save(file)
    return _write(path if path.suffix else path.with_name(f"{path.name}.zip"), file.getvalue())


def _dqn(library: ModuleType, agent: DQN) -> Any:
    network = agent.network
    names = dqn_names(network)
    hidden = [layer.out_features for layer in network.head.modules() if isinstance(layer, nn.Linear)][:-1]
    model = library.DQN(
        _policy(network.encoder),
        None,
        buffer_size=1,
        policy_kwargs={
            **_policy_settings(agent.spec, network.encoder),
            "net_arch": [*_mlp_widths(network.encoder), *hidden],
        },
        device="cpu",
        _init_setup_model=False,
    )
    _set_up(model, agent.spec, network.encoder)
    model.buffer_size = agent.config.replay_capacity  # only now, so that none of it is allocated
    _copy(model, to_theirs(network.state_dict(), names))
    _copy(model, to_theirs(agent.target.state_dict(), target_names(network)))
    return model


def _a2c(library: ModuleType, agent: Reinforce) -> Any:
    network = agent.network
    names = policy_names(network)
    widths, has_value = _mlp_widths(network.encoder), agent.config.baseline == "learned"
    model = library.A2C(
        _policy(network.encoder),
        None,
        policy_kwargs={
            **_policy_settings(agent.spec, network.encoder),
            "net_arch": {"pi": widths, "vf": widths if has_value else []},
        },
        device="cpu",
        _init_setup_model=False,
    )
    _set_up(model, agent.spec, network.encoder)
    _copy(model, to_theirs(network.state_dict(), names))
    value, theirs = network.head.value, model.policy.value_net
    with torch.no_grad():
        if has_value:
            _copy(model, to_theirs(network.state_dict(), value_names(network)))
        else:
            theirs.weight.zero_()
            theirs.bias.zero_()
        if isinstance(value, NormalisedValueHead):  # its layer's units are not the return's
            theirs.weight.mul_(value.deviation)
            theirs.bias.mul_(value.deviation).add_(value.mean)
    return model


def _set_up(model: Any, spec: EnvSpec, encoder: Encoder) -> None:
    """Networks for an environment that is not there."""
    model.observation_space = _observation_space(spec.observation_space, encoder)
    model.action_space = spaces.Discrete(spec.discrete("sb3"))
    model.n_envs = 1
    model._setup_model()


@torch.no_grad()
def _copy(model: Any, weights: dict[str, Tensor]) -> None:
    state = model.policy.state_dict()
    for name, tensor in weights.items():
        assert state[name].shape == tensor.shape, name
        state[name].copy_(tensor)


def _policy(encoder: Encoder) -> str:
    return "CnnPolicy" if isinstance(encoder, Conv) else "MlpPolicy"


def _policy_settings(spec: EnvSpec, encoder: Encoder) -> dict[str, object]:
    settings: dict[str, object] = {"activation_fn": activation(encoder)}
    if isinstance(encoder, Conv):
        settings["features_extractor_kwargs"] = {"features_dim": encoder.out_features}
    divides, is_image = _divides(spec.observation_space, encoder), is_image_of_bytes(spec.observation_space)
    if not divides and (is_image or isinstance(encoder, Conv)):
        settings["normalize_images"] = False
    return settings


def _mlp_widths(encoder: Encoder) -> list[int]:
    if not isinstance(encoder, MLP):
        return []
    return [layer.out_features for layer in encoder.layers if isinstance(layer, nn.Linear)]


def _divides(space: gymnasium.Space[Any], encoder: Encoder) -> bool:
    """Whether observations are divided by 255, as SB3 does with images of bytes whatever the network."""
    if isinstance(encoder, Conv):
        return space.dtype == np.uint8
    assert isinstance(encoder, MLP)
    if encoder.scale is None:
        return False
    if not is_image_of_bytes(space) or not torch.allclose(encoder.scale.cpu() * 255, torch.ones(())):
        raise ValueError("agent.encoder.scale: Stable-Baselines3 has no counterpart, but of 1/255 for images of bytes")
    return True


def _observation_space(space: gymnasium.Space[Any], encoder: Encoder) -> gymnasium.Space[Any]:
    """What SB3's model observes: images with the channels first, which it turns around itself if they come last."""
    if not isinstance(encoder, Conv):
        is_known = isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        start = np.asarray(getattr(space, "start", 0))
        if not is_known or start.any() or (isinstance(space, spaces.MultiDiscrete) and len(space.shape) != 1):
            raise ValueError(
                f"the observation space {one_line(space)} has no counterpart in Stable-Baselines3: it takes a Box, or "
                "choices that count from 0"
            )
        return deepcopy(space)  # it draws from the space's generator
    assert isinstance(space, spaces.Box)
    channels, size = encoder.images.channels, (encoder.images.height, encoder.images.width)
    is_first, is_last = space.shape == (channels, *size), space.shape == (*size, channels)
    is_of_bytes = space.dtype == np.uint8
    if is_of_bytes and not is_image_of_bytes(space):
        raise ValueError(f"the observation space {one_line(space)}: Stable-Baselines3's images are from 0 to 255")
    if is_first == is_last or (is_last and not is_of_bytes):
        raise ValueError(
            f"the observation space {one_line(space)}: Stable-Baselines3's Nature CNN takes [channels, height, width], "
            "and of bytes [height, width, channels]"
        )
    low, high = (np.moveaxis(bound, 2, 0) if is_last else bound for bound in (space.low, space.high))
    return spaces.Box(low, high, dtype=space.dtype.type)


def _check_spec(spec: EnvSpec) -> None:
    if spec.has_action_mask:
        raise ValueError(f"env.id={spec.id}: has action masks, which Stable-Baselines3's DQN and A2C do not heed")
    if spec.num_actions is None or spec.action_start != 0:
        raise ValueError(
            f"env.id={spec.id}: its actions are {spec.action_space}; Stable-Baselines3's models give one number from 0"
        )


def _write(path: Path, content: bytes) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise ValueError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path
