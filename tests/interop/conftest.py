"""Models as Stable-Baselines3 makes and saves them, and zip files with one member replaced."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

VECTOR = spaces.Box(np.array([-1, -2, -np.inf, -3]), np.array([1, 2, np.inf, 3]), dtype=np.float64)


def observations(space: spaces.Space[Any], count: int) -> np.ndarray[Any, Any]:
    space.seed(0)
    return np.stack([space.sample() for _ in range(count)])


def build_model(
    kind: type[Any],
    policy: str = "MlpPolicy",
    space: spaces.Space[Any] = VECTOR,
    actions: spaces.Space[Any] | None = None,
    **policy_kwargs: Any,
) -> Any:
    """A model without an environment, each of whose actions is taken in some states."""
    actions = spaces.Discrete(3) if actions is None else actions
    torch.manual_seed(0)
    model = kind(policy, None, policy_kwargs=policy_kwargs, device="cpu", _init_setup_model=False)
    if hasattr(model, "buffer_size"):
        model.buffer_size = 1
    model.observation_space, model.action_space, model.n_envs, model.num_timesteps = space, actions, 1, 1234
    model._setup_model()
    if isinstance(actions, spaces.Discrete) and policy != "MultiInputPolicy":
        _spread(model)
    return model


@torch.no_grad()
def _spread(model: Any) -> None:
    """Biases that are not 0, and a last layer that prefers no action over all states."""
    for parameter in model.policy.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    batch = model.policy.obs_to_tensor(observations(model.observation_space, 50))[0]
    if hasattr(model, "q_net"):
        last = model.q_net.q_net[-1]
        last.bias.sub_(model.q_net(batch).mean(0))
        model.q_net_target.load_state_dict({k: 2 * v for k, v in model.q_net.state_dict().items()})
    else:
        policy = model.policy
        features = BasePolicy.extract_features(policy, batch, policy.pi_features_extractor)
        policy.action_net.bias.sub_(policy.action_net(policy.mlp_extractor.forward_actor(features)).mean(0))


def replaced_member(archive: bytes, member: str, content: bytes) -> bytes:
    """The zip file with other content in a member, or with one member more; uncompressed, as torch and SB3 have it."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(archive)) as before, zipfile.ZipFile(out, "w") as after:
        for name in dict.fromkeys([*before.namelist(), member]):
            after.writestr(name, content if name == member else before.read(name))
    return out.getvalue()


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    return build_model


@pytest.fixture(scope="session")
def replaced() -> Callable[[bytes, str, bytes], bytes]:
    return replaced_member


@pytest.fixture(scope="session")
def sampled() -> Callable[[spaces.Space[Any], int], Any]:
    return observations


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """A model, built so, and the path that it is saved at."""

    def save(*arguments: Any, **policy_kwargs: Any) -> tuple[Any, Path]:
        model = build_model(*arguments, **policy_kwargs)
        model.save(tmp_path / "model.zip")
        return model, tmp_path / "model.zip"

    return save
