"""Agents on observations of several entries: what they learn, keep and predict."""

from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple
from torch import Tensor

from graftwork.agents import DQNConfig, ReinforceConfig
from graftwork.engine import Agent, Collector, recorded
from graftwork.engine.history import History
from graftwork.envs import GymnasiumEnvs
from graftwork.networks import AutoConfig, LSTMConfig, MLPConfig
from graftwork.training.seeding import Seeds
from graftwork.training.state_tree import join, split

B = 3
MLP = MLPConfig(hidden=(16,))
FIELDS: dict[str, Any] = {"learning_starts": 0, "train_period": 4, "updates": 3, "target_period": 20, "batch_size": 8}
CONFIGS = {
    "dqn": DQNConfig(encoder=MLP, **FIELDS),
    "dqn of single steps": DQNConfig(encoder=MLP, double=False, **FIELDS),
    "dqn with memory": DQNConfig(
        encoder=LSTMConfig(inner=MLP, hidden_size=8), sequence_length=6, burn_in=2, **{**FIELDS, "updates": 1}
    ),
    "reinforce": ReinforceConfig(encoder=MLP),
    "reinforce with memory": ReinforceConfig(encoder=LSTMConfig(inner=MLP, hidden_size=8)),
}


class Parts(gymnasium.ObservationWrapper[Any, Any, Any]):
    """An observation of four numbers as a dict with a tuple in it, whose leaves in order are those numbers."""

    number = Box(-np.inf, np.inf, (1,))
    observation_space = Dict({"cart": Box(-np.inf, np.inf, (2,)), "pole": Tuple([number, number])})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"cart": observation[:2], "pole": (observation[2:3], observation[3:])}


class Everything(gymnasium.Env[Any, Any]):
    """Observes samples of every kind of leaf for six steps."""

    action_space = Discrete(3)

    def __init__(self) -> None:
        self.observation_space = Dict(
            {
                "eye": Box(0, 255, (12, 10, 3), np.uint8),
                "body": Tuple([Box(-1, 1, (2,), np.float64), Discrete(5, start=2), MultiBinary(4)]),
                "word": Text(4, charset="abc"),
                "kind": MultiDiscrete([2, 3]),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert seed is not None
        self.observation_space.seed(seed % 2**32)
        self.age = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        return self.observation_space.sample(), float(action), False, self.age == 6, {}


def cartpole(*, parts: bool, autoreset: bool = True) -> GymnasiumEnvs:
    def make() -> gymnasium.Env[Any, Any]:
        env = gymnasium.make("CartPole-v1", disable_env_checker=True)
        return Parts(env) if parts else env

    return GymnasiumEnvs(make, B, 0, autoreset=autoreset)


def build(config: Any, envs: GymnasiumEnvs) -> Agent:
    seeds = Seeds(0)
    return config.build(config.network(envs.spec, seeds), envs.spec, B, seeds, torch.device("cpu"))


def started(config: Any, *, parts: bool) -> tuple[Agent, Collector]:
    envs = cartpole(parts=parts, autoreset=config.rollout_rows is not None)
    agent = build(config, envs)
    return agent, Collector(envs, agent, agent.rollout_rows)


def whole(state: Any) -> Any:
    """With its rows in the place of each history."""
    if isinstance(state, History):
        return state.read(state.first, state.end)
    return {name: whole(part) for name, part in state.items()} if isinstance(state, dict) else state


def exactly(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(whole(actual), whole(expected), rtol=0, atol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_entries_are_learnt_from_as_the_array_of_them_is(name, monkeypatch):
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 10)  # so that both recorded acting and recorded updates come up
    (agent, source), (other, other_source) = (started(CONFIGS[name], parts=parts) for parts in (False, True))
    for _ in range(12):
        rollout, in_parts = source.next(), other_source.next()
        assert isinstance(in_parts.observation, dict)
        exactly(torch.cat(list(in_parts.observation.values()), -1), rollout.observation)
        exactly(in_parts.action, rollout.action)
        exactly(other.learn(in_parts), agent.learn(rollout))
    exactly(dict(other.network.named_parameters()), dict(agent.network.named_parameters()))
    acting: Any = other
    recordings = acting._policy._recordings
    assert recordings
    assert None not in recordings.values()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_continues_bit_for_bit_from_a_checkpoint(name):
    (agent, source), (other, other_source) = (started(CONFIGS[name], parts=True) for _ in range(2))
    for _ in range(5):
        agent.learn(source.next())
    tree, tensors = split({"agent": agent.state_dict(), "source": source.state_dict()})
    names = ["cart", "pole.0", "pole.1"]
    assert [path for path in tensors if "source/row/observation" in path] == [
        f"source/row/observation/{name}" for name in names
    ]
    if isinstance(CONFIGS[name], DQNConfig):
        history = tensors["agent/replay/rows"]
        assert isinstance(history, History)
        rows = [name for name in history.read(0, 0) if name.startswith("observation")]
        assert rows == [f"observation.{name}" for name in names]
    state: Any = join(tree, deepcopy(tensors))
    other.load_state_dict(state["agent"])
    other_source.load_state_dict(state["source"])
    for _ in range(5):
        exactly(other.learn(other_source.next()), agent.learn(source.next()))
    exactly(other.state_dict(), agent.state_dict())


@pytest.mark.parametrize("encoder", [MLP, AutoConfig()], ids=["mlp", "auto"])
@pytest.mark.parametrize("kind", [DQNConfig, ReinforceConfig])
def test_every_kind_of_entry_is_acted_on_and_learnt_from(kind, encoder):
    config = kind(encoder=encoder, **(FIELDS if kind is DQNConfig else {}))
    envs = GymnasiumEnvs(Everything, B, 0, autoreset=config.rollout_rows is not None)
    learner = build(config, envs)
    source = Collector(envs, learner, learner.rollout_rows)
    before = deepcopy(dict(learner.network.named_parameters()))
    for _ in range(4):
        metrics = learner.learn(source.next())
    assert all(value.isfinite() for value in metrics.values())
    assert not [name for name, value in learner.network.named_parameters() if value.equal(before[name])]
    space = envs.spec.observation_space
    assert learner.predict(space.sample()).shape == ()


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build(CONFIGS["dqn"], cartpole(parts=True))


class TestPredict:
    def test_one_of_the_environments_own_and_batches_nested_or_flat(self, agent: Agent) -> None:
        batch = np.random.default_rng(0).normal(size=(99, 4)).astype(np.float32)
        plain = build(CONFIGS["dqn"], cartpole(parts=False))
        expected = plain.predict(batch)
        assert set(expected) == {0, 1}
        nested = {"cart": batch[:, :2], "pole": (batch[:, 2:3], batch[:, 3:])}
        flat = {"cart": batch[:, :2], "pole.0": batch[:, 2:3], "pole.1": batch[:, 3:]}
        assert (agent.predict(nested) == expected).all()
        assert (agent.predict(flat) == expected).all()
        assert (agent.predict({name: torch.from_numpy(leaf) for name, leaf in flat.items()}) == expected).all()
        for numbers, action in zip(batch, expected, strict=True):
            one = agent.predict({"cart": numbers[:2], "pole": (numbers[2:3], numbers[3:])})
            assert (one.shape, one) == ((), action)

    @pytest.mark.parametrize(
        ("observation", "text"),
        [
            (np.zeros(4), r"^observation 'cart': expected a dict with the entry 'cart', got ndarray$"),
            ({"cart": np.zeros(2)}, r"^observation 'pole\.0': there is no entry 'pole'$"),
            ({"cart": np.zeros(3), "pole": (np.zeros(1), np.zeros(1))}, r"^observation 'cart' has shape \(1, 3\), exp"),
            ({"cart": "left", "pole": (np.zeros(1), np.zeros(1))}, r"^observation 'cart' is no array of numbers: "),
            ({"cart": np.zeros((7, 2)), "pole": (np.zeros((7, 1)), np.zeros((8, 1)))}, r"'cart' 7, .* 'pole\.1' 8$"),
        ],
    )
    def test_what_is_no_observation_is_an_error_that_names_the_entry(
        self, agent: Agent, observation: Any, text: str
    ) -> None:
        with pytest.raises(ValueError, match=text):
            agent.predict(observation)

    def test_a_player_carries_the_state(self) -> None:
        agent, plain = (build(CONFIGS["dqn with memory"], cartpole(parts=parts)) for parts in (True, False))
        play, other = agent.player(), plain.player()
        for numbers in np.random.default_rng(0).normal(size=(20, 5, 4)):
            parts = {"cart": numbers[:, :2], "pole": (numbers[:, 2:3], numbers[:, 3:])}
            assert (play(parts) == other(numbers)).all()
        with pytest.raises(ValueError, match=r"^4 observations, but 5 at the step before"):
            play({"cart": np.zeros((4, 2)), "pole": (np.zeros((4, 1)), np.zeros((4, 1)))})

    def test_a_choice_may_be_a_number_or_an_array_of_them(self) -> None:
        envs = GymnasiumEnvs(lambda: gymnasium.make("FrozenLake-v1", disable_env_checker=True), B, 0)
        agent = build(CONFIGS["dqn"], envs)
        actions = agent.predict(np.arange(16))
        assert [int(agent.predict(number)) for number in range(16)] == actions.tolist()
        assert len(set(actions)) > 1
        with pytest.raises(ValueError, match=r"^observation holds 16, which is not in Discrete\(16\)$"):
            agent.predict(16)


def test_a_lone_entry_of_its_own_type_reaches_the_network():
    seen: list[Tensor] = []
    envs = GymnasiumEnvs(lambda: gymnasium.make("FrozenLake-v1", disable_env_checker=True), B, 0)
    agent = build(CONFIGS["dqn"], envs)
    agent.network.encoder.flat.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    agent.act(envs.reset().observation, (), torch.ones(B, dtype=torch.bool), explore=False)
    assert [(observed.dtype, observed.tolist()) for observed in seen] == [(torch.int64, [0, 0, 0])]
