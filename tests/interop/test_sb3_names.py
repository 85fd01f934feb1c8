import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN

from graftwork.agents.dqn import DQNConfig
from graftwork.agents.reinforce import ReinforceConfig
from graftwork.envs import EnvSpec
from graftwork.interop.sb3_names import dqn_names, policy_names, target_names, to_ours, to_theirs, value_names
from graftwork.networks import ConvConfig, MLPConfig
from graftwork.training.seeding import Seeds

VECTOR, IMAGE = spaces.Box(-1, 1, (4,)), spaces.Box(0, 255, (2, 36, 36), np.uint8)


def network(config, space=VECTOR):
    return config.network(EnvSpec("test", space, 3, 0, "Discrete(3)"), Seeds(0))


def test_names_of_an_mlp_are_those_of_its_layers():
    names = dqn_names(network(DQNConfig(encoder=MLPConfig(hidden=(5, 7)))))
    assert names == {
        f"{ours}.{entry}": f"q_net.q_net.{place}.{entry}"
        for ours, place in {"encoder.layers.0": 0, "encoder.layers.2": 2, "head.linear": 4}.items()
        for entry in ("weight", "bias")
    }


def test_names_of_a_policy_are_those_of_its_layers():
    mlp = network(ReinforceConfig(encoder=MLPConfig(hidden=(5,)), baseline="none"))
    assert policy_names(mlp) == {
        "encoder.layers.0.weight": "mlp_extractor.policy_net.0.weight",
        "encoder.layers.0.bias": "mlp_extractor.policy_net.0.bias",
        "head.policy.linear.weight": "action_net.weight",
        "head.policy.linear.bias": "action_net.bias",
    }


def test_names_of_the_nature_cnn_are_those_of_its_layers():
    names = dqn_names(network(DQNConfig(encoder=ConvConfig()), IMAGE))
    assert {theirs for theirs in names.values() if theirs.endswith("weight")} == {
        *(f"q_net.features_extractor.cnn.{place}.weight" for place in (0, 2, 4)),
        "q_net.features_extractor.linear.0.weight",
        "q_net.q_net.0.weight",
    }


@pytest.mark.parametrize(
    ("config", "policy", "space", "kwargs"),
    [
        (DQNConfig(encoder=MLPConfig(hidden=(5, 7))), "MlpPolicy", VECTOR, {"net_arch": [5, 7]}),
        (DQNConfig(encoder=MLPConfig(hidden=(5,)), head={"hidden": 7}), "MlpPolicy", VECTOR, {"net_arch": [5, 7]}),
        (DQNConfig(encoder=ConvConfig()), "CnnPolicy", IMAGE, {}),
        (DQNConfig(encoder=ConvConfig(), head={"hidden": 7}), "CnnPolicy", IMAGE, {"net_arch": [7]}),
        (
            DQNConfig(encoder=MLPConfig(hidden=(5, 7)), auxiliary={"reward": 1.0}),
            "MlpPolicy",
            VECTOR,
            {"net_arch": [5, 7]},
        ),
    ],
)
def test_every_weight_of_a_dqn_has_a_name(build, config, policy, space, kwargs):
    ours, theirs = network(config, space), build(DQN, policy, space, **kwargs).policy.state_dict()
    names, targets = dqn_names(ours), target_names(ours)
    assert {*names.values(), *targets.values()} == theirs.keys()
    assert names.keys() == targets.keys() == {name for name in ours.state_dict() if not name.startswith("auxiliary.")}
    assert all(ours.state_dict()[name].shape == theirs[other].shape for name, other in names.items())


@pytest.mark.parametrize(
    ("config", "policy", "space"),
    [
        (ReinforceConfig(encoder=MLPConfig(hidden=(5, 7))), "MlpPolicy", VECTOR),
        (ReinforceConfig(encoder=ConvConfig()), "CnnPolicy", IMAGE),
    ],
)
def test_every_weight_of_a_policy_with_a_value_has_a_name(build, config, policy, space):
    ours, kwargs = network(config, space), {"net_arch": [5, 7]} if policy == "MlpPolicy" else {}
    theirs = dict(build(A2C, policy, space, **kwargs).policy.named_parameters())
    names, values = policy_names(ours), value_names(ours)
    assert {*names.values(), *values.values()} == theirs.keys()
    assert names.keys() == ours.state_dict().keys()
    assert all(
        ours.state_dict()[name].shape == theirs[other].shape for name, other in [*names.items(), *values.items()]
    )


def test_weights_go_there_and_back():
    names, weights = {"a": "x.a", "b": "x.b"}, {"a": torch.ones(2), "b": torch.zeros(3), "scale": torch.ones(1)}
    theirs = to_theirs(weights, names)
    assert theirs.keys() == {"x.a", "x.b"}
    assert to_ours(theirs | {"x.c": torch.ones(1)}, names) == {"a": weights["a"], "b": weights["b"]}
