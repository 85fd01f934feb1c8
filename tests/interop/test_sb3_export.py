import os
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

import graftwork as gw
from graftwork.agents.dqn import DQNConfig
from graftwork.agents.pqn import PQNConfig
from graftwork.agents.reinforce import Reinforce, ReinforceConfig
from graftwork.envs import EnvSpec
from graftwork.interop import from_sb3, to_sb3
from graftwork.networks import (
    CombinedConfig,
    ConvConfig,
    ConvLayer,
    EmbeddingConfig,
    ImpalaConfig,
    LSTMConfig,
    MLPConfig,
    NormalisedConfig,
    ResNetConfig,
)
from graftwork.spaces import to_tensors
from graftwork.training.seeding import Seeds

VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (3, 40, 44), np.uint8)
LAST = spaces.Box(0, 255, (40, 44, 3), np.uint8)
FLOATS = spaces.Box(0, 1, (4, 36, 38), np.float32)
MLP, CNN = MLPConfig(hidden=(9, 5)), ConvConfig()


def made(config, space=VECTOR, actions=3, **spec):
    """An agent with random weights, its biases too."""
    spec = {"num_actions": actions, "action_start": 0, "action_space": f"Discrete({actions})", **spec}
    spec, seeds = EnvSpec("test", space, **spec), Seeds(0)
    if isinstance(config, DQNConfig):
        config = config.model_copy(update={"replay_capacity": 500, "learning_starts": 100})
    agent = config.build(config.network(spec, seeds), spec, 1, seeds, torch.device("cpu"))
    torch.manual_seed(0)
    with torch.no_grad():
        for network in (agent.network, *([agent.target] if isinstance(config, DQNConfig) else [])):
            for parameter in network.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        _prefer_none(agent, space)
    agent.step = 77
    return agent


def _prefer_none(agent, space):
    """Take off the last layer's biases what it says on average, so that each action is taken somewhere."""
    head = agent.network.head
    layer = head.policy.linear if isinstance(agent, Reinforce) else getattr(head, "linear", None)
    layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
    if not isinstance(layer, nn.Linear) or isinstance(space, spaces.Dict | spaces.Text):
        return
    space.seed(0)
    batch, _ = to_tensors(space, np.stack([space.sample() for _ in range(50)]))
    output, _ = agent.network(batch.unsqueeze(0))
    logits = output.policy.log_probs if isinstance(agent, Reinforce) else output
    if logits.shape[-1:] == layer.bias.shape:
        layer.bias.sub_(logits.flatten(0, 1).mean(0))


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name], right[name]) for name in left)


DQNS = [
    (DQNConfig(encoder=MLP), VECTOR),
    (DQNConfig(encoder=MLPConfig(hidden=(9,), activation="silu")), VECTOR),
    (DQNConfig(encoder=MLP, head={"hidden": 7}), VECTOR),
    (DQNConfig(encoder=MLP, auxiliary={"reward": 1.0}), VECTOR),
    (DQNConfig(encoder=MLP), spaces.Box(-np.inf, np.inf, (2, 3), np.float64)),
    (DQNConfig(encoder=MLP), spaces.Discrete(7)),
    (DQNConfig(encoder=MLP), spaces.MultiDiscrete([3, 5])),
    (DQNConfig(encoder=MLP), spaces.MultiBinary(6)),
    (DQNConfig(encoder=MLP), spaces.Box(0, 255, (3, 5, 4), np.uint8)),
    (DQNConfig(encoder=MLPConfig(hidden=(9,), scale=(1 / 255,) * 60)), spaces.Box(0, 255, (3, 5, 4), np.uint8)),
    (DQNConfig(encoder=CNN), IMAGE),
    (DQNConfig(encoder=CNN), LAST),
    (DQNConfig(encoder=CNN), FLOATS),
    (DQNConfig(encoder=ConvConfig(hidden=33), head={"hidden": 7}), IMAGE),
]
REINFORCES = [
    *((ReinforceConfig(encoder=MLP, baseline=each), VECTOR) for each in ("none", "standardised", "learned")),
    (ReinforceConfig(encoder=MLP), spaces.Discrete(7)),
    (ReinforceConfig(encoder=CNN, baseline="none"), IMAGE),
    (ReinforceConfig(encoder=CNN), LAST),
]


@pytest.mark.parametrize(
    ("kind", "config", "space"),
    [*((DQN, config, space) for config, space in DQNS), *((A2C, config, space) for config, space in REINFORCES)],
)
def test_model_acts_as_the_agent(tmp_path, sampled, kind, config, space):
    agent = made(config, space)
    model = kind.load(to_sb3(agent, tmp_path / "model.zip"), device="cpu")
    batch = sampled(space, 1000)
    actions = agent.predict(batch)
    assert len(set(actions.tolist())) > 1
    np.testing.assert_array_equal(model.predict(batch, deterministic=True)[0], actions)
    for observation in batch[:5]:
        assert model.predict(observation, deterministic=True)[0] == agent.predict(observation)


@pytest.mark.parametrize(("config", "space"), [*DQNS, *REINFORCES])
def test_agent_comes_back_with_its_weights_bit_for_bit(tmp_path, config, space):
    agent = made(config, space)
    back = from_sb3(to_sb3(agent, tmp_path / "model.zip"))
    left_out = ("head.value.", "auxiliary.", "encoder.scale")  # of the first two the policy has nothing
    ours = [[v for k, v in agent.network.state_dict().items() if not k.startswith(left_out)]]
    theirs = [[v for k, v in back.network.state_dict().items() if not k.startswith(left_out)]]
    if isinstance(config, DQNConfig):
        ours += [[v for k, v in agent.target.state_dict().items() if not k.startswith(left_out)]]
        theirs += [[v for k, v in back.target.state_dict().items() if not k.startswith(left_out)]]
    assert all(torch.equal(a, b) for one, two in zip(ours, theirs, strict=True) for a, b in zip(one, two, strict=True))
    assert back.step == 77
    assert back.config.discount == config.discount


@pytest.mark.parametrize(
    ("kind", "policy", "space", "settings"),
    [
        (DQN, "MlpPolicy", VECTOR, {}),
        (DQN, "CnnPolicy", IMAGE, {}),
        (A2C, "CnnPolicy", FLOATS, {"normalize_images": False}),
        (A2C, "MlpPolicy", VECTOR, {"net_arch": {"pi": [9], "vf": []}}),
        (PPO, "MlpPolicy", spaces.MultiBinary([2, 3]), {"net_arch": {"pi": [9], "vf": []}}),
    ],
)
def test_model_comes_back_with_its_weights_bit_for_bit(saved, kind, policy, space, settings):
    model, path = saved(kind, policy, space, **settings)
    back = (DQN if kind is DQN else A2C).load(to_sb3(from_sb3(path), path.with_name("back.zip")), device="cpu")
    before, after = model.policy.state_dict(), back.policy.state_dict()
    assert before.keys() == after.keys()
    values = {name for name in before if name.startswith("value_net.")}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - values)
    assert not any(after[name].any() for name in values)
    assert back.observation_space == space
    assert back.gamma == model.gamma


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("encoder", "space"), [(MLP, VECTOR), (CNN, IMAGE)])
def test_learned_baseline_becomes_the_value(tmp_path, sampled, encoder, space, normalise):
    agent = made(ReinforceConfig(encoder=encoder, normalise_value=normalise), space)
    if normalise:
        agent.network.head.value.adapt(torch.tensor(-80.0), torch.tensor(6500.0))
    model = A2C.load(to_sb3(agent, tmp_path / "model.zip"), device="cpu")
    batch = torch.as_tensor(sampled(space, 5))
    with torch.no_grad():
        output, _ = agent.network(batch.unsqueeze(0))
        torch.testing.assert_close(model.policy.predict_values(batch).squeeze(1), output.value[0])


def test_agent_without_a_baseline_has_value_0(tmp_path, sampled):
    model = A2C.load(to_sb3(made(ReinforceConfig(baseline="none")), tmp_path / "model.zip"), device="cpu")
    assert not model.policy.predict_values(torch.as_tensor(sampled(VECTOR, 5))).any()


@pytest.mark.parametrize(("kind", "config"), [(DQN, DQNConfig()), (A2C, ReinforceConfig(discount=0.9))])
def test_model_learns_on_in_stable_baselines3(tmp_path, kind, config):
    environment = gymnasium.make("CartPole-v1")
    path = to_sb3(made(config, environment.observation_space, 2), tmp_path / "model.zip")
    model = kind.load(path, environment, device="cpu")
    assert (model.gamma, model.num_timesteps) == (config.discount, 77)
    assert kind is A2C or model.buffer_size == 500
    before = {name: each.clone() for name, each in model.policy.state_dict().items()}
    model.learn(120)
    assert not same(before, model.policy.state_dict())


def test_run_directory_is_its_newest_checkpoint(tmp_path, sampled):
    small = ("steps=300", "agent.learning_starts=100", "evaluation.episodes=2", "agent.encoder.hidden=[9]")
    run = gw.train("dqn/cartpole", *small, run_dir=tmp_path / "run", quiet=True)
    path = to_sb3(str(tmp_path / "run"), tmp_path / "model.zip")
    batch = sampled(VECTOR, 100)
    np.testing.assert_array_equal(
        DQN.load(path, device="cpu").predict(batch, deterministic=True)[0], run.agent.predict(batch)
    )


def test_name_without_a_suffix_gets_one(tmp_path):
    path = to_sb3(made(DQNConfig(encoder=MLP)), str(tmp_path / "deeper" / "model"))
    assert path == tmp_path / "deeper" / "model.zip"
    assert DQN.load(tmp_path / "deeper" / "model", device="cpu")


def test_file_that_is_there_is_replaced_as_a_whole_and_nothing_is_left_behind(tmp_path, monkeypatch):
    path, agent = tmp_path / "model.zip", made(DQNConfig(encoder=MLP))
    path.write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ValueError, match=r"model\.zip: cannot be written: No space left on device$"):
            to_sb3(agent, path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.zip"]
    assert path.read_text() == "before"
    to_sb3(agent, path)
    assert [each.name for each in tmp_path.iterdir()] == ["model.zip"]
    assert from_sb3(path)


def test_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder.zip").mkdir()
    agent = made(DQNConfig(encoder=MLP))
    for path in (tmp_path / "file" / "model.zip", tmp_path / "folder.zip"):
        with pytest.raises(ValueError, match=r"cannot be written: "):
            to_sb3(agent, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder.zip"]


def test_exporting_draws_nothing_and_leaves_the_agent_as_it_was(tmp_path):
    agent = made(DQNConfig(encoder=CNN), IMAGE)
    before, weights = torch.get_rng_state(), {k: v.clone() for k, v in agent.network.state_dict().items()}
    state = IMAGE.np_random.bit_generator.state
    to_sb3(agent, tmp_path / "model.zip")
    assert torch.equal(torch.get_rng_state(), before)
    assert IMAGE.np_random.bit_generator.state == state
    assert same(weights, agent.network.state_dict())


def test_exporting_needs_stable_baselines3(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(ValueError, match=r"^stable-baselines3 is not installed: pip install 'graftwork\[sb3\]'$"):
        to_sb3(made(DQNConfig(encoder=MLP)), tmp_path / "model.zip")


DICT = spaces.Dict(a=VECTOR, b=spaces.Discrete(3))


@pytest.mark.parametrize(
    ("config", "space", "spec", "said"),
    [
        (DQNConfig(head={"dueling": True}), VECTOR, {}, "agent.head.dueling: "),
        (DQNConfig(head={"noise": 0.5}), VECTOR, {}, "agent.head.noise: "),
        (DQNConfig(encoder=MLPConfig(activation="tanh"), head={"hidden": 7}), VECTOR, {}, "agent.head.hidden: "),
        (DQNConfig(value={"kind": "categorical"}), VECTOR, {}, "agent.value.kind: "),
        (DQNConfig(value={"kind": "quantile"}), VECTOR, {}, "agent.value.kind: "),
        (DQNConfig(value={"kind": "implicit"}), VECTOR, {}, "agent.value.kind: "),
        (DQNConfig(encoder=LSTMConfig(), sequence_length=5), VECTOR, {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=MLPConfig(norm="layer")), VECTOR, {}, "agent.encoder.norm: "),
        (DQNConfig(encoder=MLPConfig(norm="batch")), VECTOR, {}, "agent.encoder.norm: "),
        (DQNConfig(encoder=MLPConfig(dropout=0.1)), VECTOR, {}, "agent.encoder.dropout: "),
        (DQNConfig(encoder=MLPConfig(scale=(1, 2, 3, 4))), VECTOR, {}, "agent.encoder.scale: "),
        (DQNConfig(encoder=NormalisedConfig()), VECTOR, {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=EmbeddingConfig()), spaces.Discrete(3), {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=ResNetConfig(blocks=(1, 1))), IMAGE, {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=ImpalaConfig()), IMAGE, {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=CombinedConfig()), DICT, {}, "agent.encoder.kind: "),
        (DQNConfig(encoder=MLP), DICT, {}, "the observation space Dict('a': Box"),
        (DQNConfig(encoder=MLP), spaces.Text(3), {}, "the observation space Text("),
        (DQNConfig(encoder=MLP), spaces.Discrete(4, start=1), {}, "the observation space Discrete(4, start=1)"),
        (DQNConfig(encoder=ConvConfig(norm="layer")), IMAGE, {}, "agent.encoder.norm: "),
        (DQNConfig(encoder=ConvConfig(hidden=None)), IMAGE, {}, "agent.encoder.hidden: "),
        (DQNConfig(encoder=ConvConfig(activation="elu")), IMAGE, {}, "agent.encoder.activation: "),
        (DQNConfig(encoder=ConvConfig(layers=(ConvLayer(channels=3, kernel=5),))), IMAGE, {}, "agent.encoder.layers: "),
        (
            DQNConfig(encoder=CNN),
            spaces.Box(0, 255, (40, 44), np.uint8),
            {},
            "the observation space Box(0, 255, (40, 44)",
        ),
        (DQNConfig(encoder=CNN), spaces.Box(0, 9, (1, 40, 44), np.uint8), {}, "the observation space Box(0, 9, (1, 40"),
        (DQNConfig(encoder=CNN), spaces.Box(0, 1, (40, 44, 1)), {}, "the observation space Box(0.0, 1.0, (40, 44, 1)"),
        (
            DQNConfig(encoder=CNN),
            spaces.Box(0, 255, (40,) * 3, np.uint8),
            {},
            "the observation space Box(0, 255, (40, 40",
        ),
        (DQNConfig(encoder=MLP), VECTOR, {"has_action_mask": True}, "env.id=test: has action masks"),
        (DQNConfig(encoder=MLP), VECTOR, {"action_start": 1}, "env.id=test: its actions are "),
        (
            DQNConfig(encoder=MLP),
            VECTOR,
            {"num_actions": None, "branches": (2, 3), "action_start": (0, 0)},
            "env.id=test: its actions are ",
        ),
        (ReinforceConfig(encoder=MLPConfig(norm="rms")), VECTOR, {}, "agent.encoder.norm: "),
        (PQNConfig(), VECTOR, {}, "a PQN cannot become a model of Stable-Baselines3; DQN and Reinforce can"),
    ],
)
def test_what_stable_baselines3_has_not_is_refused_by_name(tmp_path, config, space, spec, said):
    with pytest.raises(ValueError, match=r".") as caught:
        to_sb3(made(config, space, **spec), tmp_path / "model.zip")
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
