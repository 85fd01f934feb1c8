"""What a zip file of Stable-Baselines3 says of a model: its weights, and what is needed to rebuild their network.

Beside the weights there is `data`, a JSON of the model's attributes. What JSON cannot hold is in it as a pickle, with
the attributes of the pickled object next to it, as text for people. That text is all that is read here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from gymnasium import spaces
from torch import Tensor, nn

from .archive import Archive, shown
from .sb3_spaces import VectorSpace, action_space, class_name, is_image_of_bytes, observation_space, size
from .torch_zip import read_tensors

Algorithm: TypeAlias = Literal["DQN", "A2C", "PPO"]

WEIGHTS_LIMIT, DATA_LIMIT = 1 << 30, 1 << 28  # bytes that are unpacked

# By the module of their policy class; its name is not in the file.
_OTHERS = {
    "stable_baselines3.sac.policies": "SAC",
    "stable_baselines3.td3.policies": "TD3 or DDPG",
    "sb3_contrib.ars.policies": "ARS",
    "sb3_contrib.common.maskable.policies": "MaskablePPO",
    "sb3_contrib.common.recurrent.policies": "RecurrentPPO",
    "sb3_contrib.crossq.policies": "CrossQ",
    "sb3_contrib.qrdqn.policies": "QR-DQN",
    "sb3_contrib.tqc.policies": "TQC",
}
_EXTRACTORS = {f"stable_baselines3.common.torch_layers.{name}" for name in ("FlattenExtractor", "NatureCNN")}


@dataclass(frozen=True)
class SB3Model:
    """A model as its file describes it."""

    name: str  # of the file
    algorithm: Algorithm
    weights: Mapping[str, Tensor]  # float32, of the whole policy, by SB3's names
    observation_space: VectorSpace
    action_space: spaces.Discrete
    activation: str  # of the MLP, such as torch.nn.modules.activation.Tanh
    divides_images: bool  # observations are divided by 255
    discount: float
    step: int  # environment steps learnt from

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self.name}: {what}")


def read(path: str | Path) -> SB3Model:
    """The model that SB3 saved there; nothing in the file is run, and of its pickles that of the weights alone is read.

    ValueError, in one line, for a file that is damaged, of another algorithm or of SB3 1.x, and for what this package
    has no counterpart of: actions that are no choice of one, observations in a Dict, feature extractors of the user's
    own, gSDE, a features extractor for policy and value each.
    """
    name = str(path)
    with closing(Archive(Path(path).expanduser(), name)) as archive:
        if "policy.pth" not in archive.members or "data" not in archive.members:
            raise ValueError(f"{name}: is no model of Stable-Baselines3: it has no data and policy.pth")
        _check_version(archive)
        attributes = _json(archive)
        with _naming(name):
            data = _Data(attributes)
            algorithm = data.algorithm()
            data.check_policy()
            actions = action_space(data.part("action_space"))
            observations = observation_space(data.part("observation_space"))
            activation, divides_images = data.activation(algorithm), data.divides_images(observations)
            discount, step = data.discount(), data.step()
        weights = read_tensors(archive.read("policy.pth", WEIGHTS_LIMIT), f"{name}/policy.pth")
    for weight, tensor in weights.items():
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name}: {shown(weight)} is of type {tensor.dtype}; SB3's weights are torch.float32")
    return SB3Model(name, algorithm, weights, observations, actions, activation, divides_images, discount, step)


def _check_version(archive: Archive) -> None:
    member = "_stable_baselines3_version"
    version = (
        archive.read(member, 100).decode("ascii", "replace").strip() if member in archive.members else "1 or older"
    )
    if not re.match(r"2\.\d", version):
        written_by = shown(version) or "of no version"
        raise ValueError(f"{archive.name}: was written by Stable-Baselines3 {written_by}; 2.0 to 2.x are read")


def _json(archive: Archive) -> Mapping[str, Any]:
    text = archive.read("data", DATA_LIMIT)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{archive.name}: data is no JSON ({shown(error)})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{archive.name}: data is no table of a model's attributes")
    return data


class _Data:
    """The attributes of a model. Whatever a hostile file puts into them, they are text and numbers."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data
        self._policy = {} if data.get("policy_kwargs") is None else self.part("policy_kwargs")

    def part(self, field: str) -> Mapping[str, Any]:
        part = self._data.get(field)
        if not isinstance(part, dict):
            raise ValueError(f"data says nothing of its {field}")
        return part

    def algorithm(self) -> Algorithm:
        module = str(self.part("policy_class").get("__module__"))
        if module == "stable_baselines3.dqn.policies":
            return "DQN"
        is_trpo = "cg_max_steps" in self._data  # whose policy is that of A2C and PPO
        if module == "stable_baselines3.common.policies" and not is_trpo:
            return "PPO" if "clip_range" in self._data else "A2C"
        known = "TRPO" if is_trpo else _OTHERS.get(module)
        of = f"its policy is a class of {shown(module)}" if known is None else f"is a model of {known}"
        raise ValueError(f"{of}; DQN, A2C and PPO can be imported, with the policies that SB3 has for them")

    def check_policy(self) -> None:
        """ValueError for what would make another network of the same weights."""
        if self._data.get("use_sde"):
            raise ValueError("use_sde=True: there is no counterpart of generalised state-dependent exploration")
        if self._policy.get("share_features_extractor", True) is not True:
            raise ValueError("share_features_extractor=False: a network here has one encoder")
        extractor = self._policy.get("features_extractor_class")
        if extractor is not None and class_name(extractor) not in _EXTRACTORS:
            raise ValueError(f"features_extractor_class={shown(extractor)}: must be FlattenExtractor or NatureCNN")

    def activation(self, algorithm: Algorithm) -> str:
        default = nn.ReLU if algorithm == "DQN" else nn.Tanh
        return class_name(self._policy.get("activation_fn", default))

    def divides_images(self, space: VectorSpace) -> bool:
        """Whether the network gets observations divided by 255."""
        return self._policy.get("normalize_images", True) is True and is_image_of_bytes(space)

    def discount(self) -> float:
        gamma = self._data.get("gamma")
        if isinstance(gamma, bool) or not isinstance(gamma, float | int) or not 0 <= gamma <= 1:
            raise ValueError(f"gamma={shown(gamma)}: must be a number from 0 to 1")
        return float(gamma)

    def step(self) -> int:
        return size("num_timesteps", self._data.get("num_timesteps"), least=0)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name}: {error}") from error
