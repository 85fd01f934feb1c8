import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

import graftwork as gw
from graftwork.agents.dqn import DQN as OurDQN
from graftwork.agents.reinforce import Reinforce
from graftwork.engine import Collector
from graftwork.envs import EnvConfig, GymnasiumEnvs, env_maker
from graftwork.interop import from_sb3
from graftwork.interop.sb3_names import dqn_names, policy_names, target_names

VECTOR = spaces.Box(-1, 1, (4,))
IMAGE = spaces.Box(0, 255, (3, 40, 44), np.uint8)
FLOATS = spaces.Box(0, 1, (4, 36, 38), np.float32)
ALGORITHMS = [DQN, A2C, PPO]

VECTORS = [
    (VECTOR, {}),
    (VECTOR, {"net_arch": [5]}),
    (VECTOR, {"net_arch": [9, 7, 5]}),
    *((VECTOR, {"net_arch": [16, 8], "activation_fn": each}) for each in (nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU)),
    (spaces.Box(-np.inf, np.inf, (2, 3), np.float64), {}),
    (spaces.Box(-9, 9, (5,), np.int64), {}),
    (spaces.Box(0, 255, (9,), np.uint8), {}),  # no image: not divided
    (spaces.Box(0, 1, (6,), np.bool_), {}),
    (spaces.Discrete(7), {}),
    (spaces.MultiDiscrete([3, 5]), {}),
    (spaces.MultiBinary(6), {}),
    (spaces.Box(0, 255, (3, 5, 4), np.uint8), {}),  # an image, and so divided, though no CNN sees it
    (spaces.Box(0, 255, (3, 5, 4), np.uint8), {"normalize_images": False}),
    (spaces.Box(0, 1, (3, 5, 4), np.uint8), {}),
]
IMAGES = [
    (IMAGE, {}),
    (IMAGE, {"normalize_images": False}),
    (IMAGE, {"features_extractor_kwargs": {"features_dim": 33}}),
    (FLOATS, {"normalize_images": False}),
]


def check(model, agent, batch):
    """Both act alike, on a batch and on single observations, and not always in the same way."""
    expected, _ = model.predict(batch, deterministic=True)
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(agent.predict(batch), expected)
    for observation in batch[:10]:
        action = agent.predict(observation)
        assert action.shape == ()
        assert action == model.predict(observation, deterministic=True)[0]


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize(("space", "settings"), VECTORS)
def test_agent_with_an_mlp_acts_as_the_model(saved, sampled, kind, space, settings):
    model, path = saved(kind, "MlpPolicy", space, **settings)
    check(model, from_sb3(path), sampled(space, 1000))


@pytest.mark.parametrize("kind", ALGORITHMS)
@pytest.mark.parametrize(("space", "settings"), IMAGES)
def test_agent_with_a_cnn_acts_as_the_model(saved, sampled, kind, space, settings):
    model, path = saved(kind, "CnnPolicy", space, **settings)
    check(model, from_sb3(path), sampled(space, 1000))


def test_layer_behind_the_cnn_of_a_dqn_is_imported(saved, sampled):
    model, path = saved(DQN, "CnnPolicy", IMAGE, net_arch=[7])
    agent = from_sb3(path)
    assert agent.config.head.hidden == 7
    check(model, agent, sampled(IMAGE, 200))


@pytest.mark.parametrize("arch", [{"pi": [9, 5], "vf": []}, {"pi": [9], "vf": [7, 6, 5]}])
def test_value_s_own_layers_are_left_behind(saved, sampled, arch):
    model, path = saved(PPO, net_arch=arch)
    check(model, from_sb3(path), sampled(model.observation_space, 1000))


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_trained_model_is_imported(tmp_path, sampled, kind):
    environment = gymnasium.make("CartPole-v1")
    small = {"n_steps": 16} if kind is A2C else {"n_steps": 64} if kind is PPO else {"buffer_size": 1000}
    model = kind("MlpPolicy", environment, learning_rate=0.01, device="cpu", seed=1, **small).learn(300)
    model.save(tmp_path / "model.zip")
    agent = from_sb3(tmp_path / "model.zip")
    check(model, agent, sampled(VECTOR, 1000))
    assert agent.spec.observation_space == environment.observation_space
    assert agent.step == model.num_timesteps
    assert agent.config.discount == model.gamma


def test_actions_count_from_0_as_those_of_the_model_do(saved, sampled):
    model, path = saved(PPO, "MlpPolicy", VECTOR, spaces.Discrete(3, start=5))
    check(model, from_sb3(path), sampled(VECTOR, 100))
    assert set(from_sb3(path).predict(sampled(VECTOR, 100)).tolist()) <= {0, 1, 2}


class Images(gymnasium.Env):
    """Of bytes, the channels last."""

    observation_space, action_space = spaces.Box(0, 255, (40, 44, 3), np.uint8), spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def test_images_with_the_channels_last_are_given_with_the_channels_first(tmp_path, sampled):
    model = A2C("CnnPolicy", Images(), device="cpu")
    model.save(tmp_path / "model.zip")
    batch = sampled(Images.observation_space, 100)
    expected, _ = model.predict(batch, deterministic=True)
    agent = from_sb3(tmp_path / "model.zip")
    assert agent.spec.observation_space.shape == (3, 40, 44)
    np.testing.assert_array_equal(agent.predict(batch.transpose(0, 3, 1, 2)), expected)


def test_weights_are_the_model_s_bit_for_bit(saved):
    model, path = saved(DQN)
    agent, theirs = from_sb3(path), model.policy.state_dict()
    assert isinstance(agent, OurDQN)
    for network, names in ((agent.network, dqn_names(agent.network)), (agent.target, target_names(agent.network))):
        state = network.state_dict()
        assert names.keys() == state.keys()
        assert all(torch.equal(state[name], theirs[other]) for name, other in names.items())


@pytest.mark.parametrize("kind", [A2C, PPO])
def test_policy_s_weights_are_the_model_s_bit_for_bit(saved, kind):
    model, path = saved(kind, "CnnPolicy", IMAGE)
    agent, theirs = from_sb3(path), model.policy.state_dict()
    assert isinstance(agent, Reinforce)
    assert agent.config.baseline == "none"
    state, names = agent.network.state_dict(), policy_names(agent.network)
    assert names.keys() == state.keys()
    assert all(torch.equal(state[name], theirs[other]) for name, other in names.items())


def test_what_the_networks_say_is_equal(saved, sampled):
    batch = torch.as_tensor(sampled(VECTOR, 5))
    model, path = saved(DQN, "MlpPolicy", VECTOR)
    with torch.no_grad():
        values, _ = from_sb3(path).network(batch.unsqueeze(0))
        torch.testing.assert_close(values[0], model.q_net(batch), rtol=0, atol=1e-6)
        model, path = saved(PPO, "MlpPolicy", VECTOR)
        output, _ = from_sb3(path).network(batch.unsqueeze(0))
        expected = model.policy.get_distribution(batch).distribution.logits
        torch.testing.assert_close(output.policy.log_probs[0], expected, rtol=0, atol=1e-6)


def test_name_without_its_suffix_is_found(saved):
    _, path = saved(DQN)
    assert from_sb3(str(path.with_suffix(""))).spec.id == "model.zip"


def test_importing_needs_no_stable_baselines3_and_draws_nothing(saved, monkeypatch):
    _, path = saved(PPO)
    for name in [name for name in sys.modules if name.partition(".")[0] == "stable_baselines3"]:
        monkeypatch.setitem(sys.modules, name, None)
    before = torch.get_rng_state()
    from_sb3(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_imported_dqn_learns_on(saved):
    _, path = saved(DQN, "MlpPolicy", gymnasium.make("CartPole-v1").observation_space, spaces.Discrete(2))
    agent = from_sb3(path)
    envs = GymnasiumEnvs(env_maker(EnvConfig(id="CartPole-v1")), num_envs=1, seed=0)
    collector = Collector(envs, agent, agent.rollout_rows)
    before = {name: each.clone() for name, each in agent.network.state_dict().items()}
    assert agent.learn(collector.next())
    assert all(not torch.equal(before[name], each) for name, each in agent.network.state_dict().items())
    envs.close()


def test_network_of_an_imported_agent_trains_on_in_a_run(saved, tmp_path):
    _, path = saved(A2C, "MlpPolicy", gymnasium.make("CartPole-v1").observation_space, spaces.Discrete(2))
    agent = from_sb3(path)
    before = {name: each.clone() for name, each in agent.network.state_dict().items()}
    run = gw.train(
        "reinforce/cartpole",
        "agent.baseline=none",
        "steps=200",
        "evaluation.episodes=2",
        network=agent.network,
        run_dir=tmp_path / "run",
        quiet=True,
    )
    assert all(not torch.equal(before[name], each) for name, each in run.agent.network.state_dict().items())
