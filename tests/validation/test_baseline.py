"""SB3's side: its model has the settings declared, trains on our environments, and is judged on our episodes."""

import random
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import graftwork as gw
from graftwork.configs import load
from graftwork.envs import EVALUATION, FRESH
from graftwork.runs.config import RunConfig, run_config
from graftwork.validation.arguments import A2CBaseline, Arguments, DQNArguments, dqn_arguments
from graftwork.validation.baseline import SB3Actor, build, check_spaces, played, train
from graftwork.validation.comparison import declared
from graftwork.validation.job import Job

SMALL = [
    *("agent.encoder.hidden=[16, 8]", "agent.learning_starts=40", "agent.replay_capacity=200", "agent.batch_size=5"),
    *("agent.train_period=16", "agent.updates=2", "env.max_episode_steps=30", "evaluation.num_envs=3"),
    *("evaluation.episodes=4", "evaluation.period=50", "steps=150", "threads=1"),
]
TUNED = {
    **{"title": "A2C", "num_envs": 3, "n_steps": 7, "learning_rate": 0.01, "discount": 0.9, "gae_lambda": 0.8},
    **{"value_coefficient": 0.4, "entropy_coefficient": 0.02, "max_gradient_norm": 0.6, "rms_prop": True},
    **{"epsilon": 1e-4, "hidden_policy": [6, 5], "hidden_value": [4], "activation": "relu"},
}


@pytest.fixture(autouse=True)
def global_streams() -> Iterator[None]:
    """SB3 seeds those of torch, NumPy and Python, which the next test must find as they were."""
    before, state, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002
    with torch.random.fork_rng(devices=()):
        yield
    random.setstate(before)
    np.random.set_state(state)  # noqa: NPY002
    torch.set_num_threads(threads)


def config(*overrides: str, preset: str = "sb3/dqn-cartpole") -> RunConfig:
    found = run_config(load(preset, [*SMALL, *overrides]))
    assert isinstance(found, RunConfig)
    return found


def a2c(**changed: Any) -> A2CBaseline:
    return A2CBaseline.model_validate({**TUNED, **changed})


def job(arguments: Arguments, config_: RunConfig) -> Job:
    return Job(side="sb3", seed=config_.seed, config=config_, arguments=arguments, settings={}, episodes=5)


def test_dqn_has_what_its_arguments_say():
    arguments = dqn_arguments(
        config("agent.encoder.activation=tanh", "agent.adam_epsilon=1e-4", "agent.n_step=3", "env.num_envs=2"), 150
    )
    learning_rate = {"kind": "linear", "start": 0.1, "end": 0.0, "steps": 100}
    arguments = DQNArguments.model_validate({**arguments.model_dump(), "learning_rate": learning_rate})
    model = build(arguments, config("seed=7"))
    assert (model.n_envs, model.buffer_size, model.learning_starts, model.batch_size) == (2, 200, 40, 5)
    assert (model.tau, model.gamma, model.train_freq.frequency, model.gradient_steps) == (1.0, 0.99, 16, 2)
    assert (model.n_steps, model.target_update_interval, model.max_grad_norm) == (3, 10, 10.0)
    # Of 150 steps all are taken after 0 of progress remains; 100 of them is a third from the end.
    assert [round(model.lr_schedule(left), 6) for left in (1.0, 0.5, 1 / 3, 0.0)] == [0.1, 0.025, 0.0, 0.0]
    fraction = 8_000 / 150
    assert model.exploration_schedule(1.0) == 1.0
    assert model.exploration_schedule(0.0) == pytest.approx(1.0 - 0.96 / fraction)
    assert [type(layer).__name__ for layer in model.q_net.q_net] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [layer.out_features for layer in model.q_net.q_net[::2]] == [16, 8, 2]
    assert model.policy.optimizer.defaults["eps"] == 1e-4
    assert model.seed == 7_000  # so that no two runs have an environment of one seed


def test_a2c_has_what_its_baseline_says():
    model = build(a2c(), config())
    assert (model.n_envs, model.n_steps, model.gamma, model.gae_lambda) == (3, 7, 0.9, 0.8)
    assert (model.vf_coef, model.ent_coef, model.max_grad_norm, model.learning_rate) == (0.4, 0.02, 0.6, 0.01)
    assert isinstance(model.policy.optimizer, torch.optim.RMSprop)
    assert model.policy.optimizer.defaults["eps"] == 1e-4
    policy, value = model.policy.mlp_extractor.policy_net, model.policy.mlp_extractor.value_net
    assert [layer.out_features for layer in policy[::2]] == [6, 5]
    assert [layer.out_features for layer in value[::2]] == [4]
    assert isinstance(policy[1], torch.nn.ReLU)
    assert not model.normalize_advantage
    assert model.get_vec_normalize_env() is None


def test_a2c_decays_normalises_and_has_adam_if_asked():
    model = build(
        a2c(linear_decay=True, rms_prop=False, normalise_reward=True, normalise_observation=True), config("steps=200")
    )
    assert [round(model.lr_schedule(left), 6) for left in (1.0, 0.25, 0.0)] == [0.01, 0.0025, 0.0]
    assert isinstance(model.policy.optimizer, torch.optim.Adam)
    assert model.policy.optimizer.defaults["eps"] == 1e-4
    normaliser = model.get_vec_normalize_env()
    assert (normaliser.norm_obs, normaliser.norm_reward, normaliser.gamma) == (True, True, 0.9)


@pytest.mark.parametrize("name", ["reinforce-cartpole-plain", "reinforce-acrobot-plain"])
def test_value_of_a2c_as_reinforce_is_zero_and_stays_so(name):
    side = declared()[name].sides()["sb3"]
    assert side.arguments is not None
    arguments = side.arguments.model_copy(update={"n_steps": 20, "num_envs": 2})
    model = build(arguments, side.config)
    before = model.policy.action_net.weight.detach().clone()
    model.learn(120)
    assert not any(parameter.any() for parameter in model.policy.value_net.parameters())
    assert not torch.equal(model.policy.action_net.weight, before)


@pytest.mark.parametrize("stream", [EVALUATION, FRESH], ids=["along the way", "at the end"])
def test_sb3_s_model_plays_the_very_episodes_that_ours_does(stream, tmp_path):
    """With our weights it comes to our returns, to the last step of each episode."""
    run = gw.train(
        config("agent.encoder.activation=tanh", "env.max_episode_steps=200"), run_dir=tmp_path / "run", quiet=True
    )
    assert isinstance(run.config, RunConfig)
    model = build(dqn_arguments(run.config, 150), run.config)
    weights = list(run.agent.network.state_dict().values())
    for parameter, weight in zip(model.q_net.parameters(), weights, strict=True):
        parameter.data.copy_(weight)
    episodes = 4 if stream == EVALUATION else 7
    found = played(SB3Actor(model), run.config, stream, episodes)
    ours = gw.evaluate(run.run_dir, episodes=7) if stream == FRESH else run.evaluation
    assert found.returns == ours.returns  # type: ignore[union-attr]
    assert len(set(found.returns)) > 1


def test_evaluations_are_by_the_rule_of_our_trainer():
    """At the first end of a batch of 16 steps that passes a multiple of 50, and at the end."""
    result = train(job(dqn_arguments(config(), 150), config()))
    assert [step for step, _ in result.curve] == [64, 112, 160]
    assert result.steps == 160
    assert result.seconds > 0
    assert result.steps_per_second == pytest.approx(result.steps / result.seconds)
    assert 50 < result.peak_megabytes < 5_000


def test_training_is_determined_by_its_seed_whatever_the_evaluations():
    first, same, less, other = (
        train(job(dqn_arguments(each, 150), each))
        for each in (config(), config(), config("evaluation.period=0"), config("seed=1"))
    )
    assert (first.final, first.curve) == (same.final, same.curve)
    assert (first.final, first.curve[-1:]) == (less.final, less.curve)
    assert first.final != other.final


def test_a2c_is_evaluated_with_the_statistics_of_its_training():
    baseline = a2c(normalise_observation=True, normalise_reward=True)
    model = build(baseline, config())
    model.learn(60)
    normaliser = model.get_vec_normalize_env()
    count, actor = normaliser.obs_rms.count, SB3Actor(model)
    played(actor, config(), EVALUATION, 4)
    assert normaliser.obs_rms.count == count
    rows = torch.tensor([[0.1, 2.0, -0.1, 0.3], [3.0, -1.0, 0.2, 0.0]])
    expected = model.predict(normaliser.normalize_obs(rows.numpy()), deterministic=True)[0]
    assert actor.act(rows, (), torch.zeros(2).bool(), explore=False).action.tolist() == expected.tolist()
    result = train(job(baseline, config()))
    assert [step for step, _ in result.curve] == [63, 105, 168]  # batches of 3 * 7 steps


class Toy(gymnasium.Env[Any, Any]):
    """One step, of any spaces."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], masked: bool) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.info = {"action_mask": np.array([1, 0], np.int8)} if masked else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), self.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, True, False, self.info


TWO, BOX = spaces.Discrete(2), spaces.Box(-1, 1, (3,))
IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
TOYS = {
    "dict": (spaces.Dict(a=BOX), TWO, "observes Dict"),
    "text": (spaces.Text(5), TWO, "observes Text"),
    "late": (spaces.Discrete(3, start=1), TWO, "does not start at 0"),
    "numbers": (BOX, BOX, "takes a Discrete action space that starts at 0, not Box"),
    "one": (BOX, spaces.Discrete(2, start=1), "takes a Discrete action space that starts at 0, not Discrete"),
    "image": (IMAGE, TWO, "are images to SB3"),
    "masked": (BOX, TWO, "says which actions are legal"),
}


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    ids = {f"Toy{name.capitalize()}-v0": toy for name, toy in TOYS.items()}
    for id_, (observation_space, action_space, _) in ids.items():
        masked = id_.startswith("ToyMasked")
        arguments = {"observation_space": observation_space, "action_space": action_space, "masked": masked}
        gymnasium.register(id_, Toy, kwargs=arguments, max_episode_steps=5)
    yield
    for id_ in ids:
        del gymnasium.registry[id_]


@pytest.mark.parametrize("name", TOYS)
def test_environment_that_sb3_cannot_take_is_told_in_one_line(name):
    one = config(f"env.id=Toy{name.capitalize()}-v0")
    with pytest.raises(ValueError, match=rf"^env.id=Toy{name.capitalize()}-v0: [^\n]*$") as error:
        check_spaces(one, dqn_arguments(config(), 150))
    assert TOYS[name][2] in str(error.value)


def test_tuple_observations_are_refused():
    with pytest.raises(ValueError, match=r"^env.id=Blackjack-v1: observes Tuple"):
        check_spaces(config("env.id=Blackjack-v1"), dqn_arguments(config(), 150))


def test_numbers_are_refused_where_the_encoder_takes_images():
    arguments = dqn_arguments(run_config(load("sb3/dqn-cartpole", ["agent.encoder={kind: conv}"])), 150)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"are no images to SB3; agent.encoder.kind=mlp fits$"):
        check_spaces(config(), arguments)
    check_spaces(config("env.id=ToyImage-v0"), arguments)


def test_nature_cnn_is_sb3_s():
    arguments = dqn_arguments(run_config(load("sb3/dqn-cartpole", ["agent.encoder={kind: conv}"])), 150)  # type: ignore[arg-type]
    model = build(arguments, config("env.id=ToyImage-v0"))
    ours = gw.encoder_for(IMAGE)
    theirs = model.q_net.features_extractor
    assert [p.shape for p in theirs.parameters()] == [p.shape for p in ours.parameters()]
    assert [type(layer).__name__ for layer in model.q_net.q_net] == ["Linear"]
