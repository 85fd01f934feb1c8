"""What every agent promises, over every encoder. A config that joins either union is tested without further ado."""

import random
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from graftwork.agents import AgentConfig
from graftwork.engine import Agent, Collector, NonFiniteError, Rollout
from graftwork.engine.history import History
from graftwork.envs import EnvConfig, GymnasiumEnvs, env_maker
from graftwork.networks import GRU, MLP, Encoder, EncoderConfig, MLPConfig
from graftwork.training.seeding import Seeds

B = 3
AGENTS = {config().kind: config for config in get_args(get_args(AgentConfig)[0])}

# What makes an agent learn at once and from little; one without an entry is taken as it comes.
SMALL: dict[str, dict[str, Any]] = {
    "dqn": {"learning_starts": 0, "train_period": 4, "updates": 2, "target_period": 20, "batch_size": 8},
    "pqn": {"rollout_rows": 8, "epochs": 2, "minibatches": 2},
}
SMALL_WITH_MEMORY: dict[str, dict[str, Any]] = {"dqn": {"sequence_length": 6, "burn_in": 2}}


def cartpole(seed: int = 0, *, autoreset: bool = True) -> GymnasiumEnvs:
    return GymnasiumEnvs(env_maker(EnvConfig(id="CartPole-v1")), B, seed, autoreset=autoreset)


SPEC = cartpole().spec


def of_cartpole() -> dict[str, Any]:
    """The encoders that take its observations, by kind."""
    found = {}
    for config in get_args(get_args(EncoderConfig)[0]):
        with suppress(ValueError):  # of an encoder of images, texts or dicts
            config().build(SPEC.observation_space)
            found[config().kind] = config()
    return found


ENCODERS = of_cartpole()
FEEDS_FORWARD = [kind for kind in ENCODERS if not ENCODERS[kind].build(SPEC.observation_space).initial_state(1)]


@pytest.fixture(params=ENCODERS)
def encoder(request) -> str:
    return request.param


@pytest.fixture(params=AGENTS)
def config(request, encoder):
    fields = SMALL.get(request.param, {})
    if encoder not in FEEDS_FORWARD:
        fields = fields | SMALL_WITH_MEMORY.get(request.param, {})
    return AGENTS[request.param](encoder=ENCODERS[encoder], **fields)


def build(config, seed: int = 0, own: Encoder | None = None, spec=SPEC) -> Agent:
    seeds = Seeds(seed)
    return config.build(config.network(spec, seeds, own), spec, B, seeds, torch.device("cpu"))


def collector(agent: Agent) -> Collector:
    return Collector(cartpole(autoreset=agent.rollout_rows is not None), agent, agent.rollout_rows)


@pytest.fixture
def rollouts(config) -> list[Rollout]:
    """Consecutive rollouts of another agent of the kind, to learn from."""
    source = collector(build(config, seed=5))
    return [source.next() for _ in range(6)]


@pytest.fixture
def agent(config) -> Agent:
    return build(config)


def whole(state: Any) -> Any:
    """With its rows in the place of each history."""
    if isinstance(state, History):
        return state.read(state.first, state.end)
    return {name: whole(part) for name, part in state.items()} if isinstance(state, dict) else state


def exactly(actual, expected) -> None:
    torch.testing.assert_close(whole(actual), whole(expected), rtol=0, atol=0)


def row(seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(B, 4, generator=torch.Generator().manual_seed(seed)), torch.tensor([True, False, False])


def acted(agent: Agent, steps: int = 5, *, explore: bool = True) -> list[Tensor]:
    state, actions = agent.initial_state(B), []
    for t in range(steps):
        observation, is_first = row(t)
        step = agent.act(observation, state, is_first, explore=explore)
        state = step.state
        actions.append(step.action)
    return actions


@pytest.mark.parametrize("explore", [True, False])
def test_acts_with_one_action_an_environment(agent, explore):
    observation, is_first = row()
    state = agent.initial_state(B)
    step = agent.act(observation, state, is_first, explore=explore)
    assert step.action.shape == (B,)
    assert step.action.dtype == torch.int64
    assert ((step.action >= 0) & (step.action < 2)).all()
    assert [part.shape for part in step.state] == [part.shape for part in state]
    if step.log_prob is not None:
        assert step.log_prob.shape == (B,)
        assert (step.log_prob <= 0).all()
    assert not any(part.requires_grad for part in step.state)


def test_a_first_row_forgets_the_state(agent):
    observation, _ = row()
    everywhere = torch.ones(B, dtype=torch.bool)
    state = tuple(torch.randn_like(part) for part in agent.initial_state(B))
    fresh = agent.act(observation, agent.initial_state(B), everywhere, explore=False)
    exactly(agent.act(observation, state, everywhere, explore=False).state, fresh.state)


def test_metrics_are_finite_scalars_without_a_graph(agent, rollouts):
    metrics = [agent.learn(rollout) for rollout in rollouts][-1]
    assert {"loss", "gradient_norm"} <= set(metrics)
    for name, value in metrics.items():
        assert value.shape == (), name
        assert value.isfinite(), name
        assert not value.requires_grad, name


def test_learning_changes_the_weights_and_leaves_no_gradient(agent, rollouts):
    before = deepcopy(dict(agent.network.named_parameters()))
    for rollout in rollouts:
        agent.learn(rollout)
    changed = [name for name, value in agent.network.named_parameters() if not torch.equal(value, before[name])]
    assert changed == list(before)
    assert all(parameter.grad is None for parameter in agent.network.parameters())


def test_no_number_is_drawn_from_a_global_stream(config, rollouts):
    agent = build(config)
    source = collector(agent)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for rollout in rollouts:
        agent.learn(rollout)
    acted(agent)
    agent.player(deterministic=False)(np.zeros(4))
    source.next()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    assert random.getstate() == before[2]


def test_same_seed_same_agent_whatever_the_global_stream(config):
    def trained(seed: int, global_seed: int) -> Agent:
        with torch.random.fork_rng():
            torch.manual_seed(global_seed)
            agent = build(config, seed)
            source = collector(agent)
            for _ in range(3):
                agent.learn(source.next())
            return agent

    exactly(trained(0, 1).state_dict(), trained(0, 2).state_dict())
    pairs = zip(trained(0, 1).network.parameters(), trained(1, 1).network.parameters(), strict=True)
    assert not any(torch.equal(weight, other) for weight, other in pairs)


def test_a_step_is_a_transition_and_a_filler_none(agent, rollouts):
    for rollout in rollouts:
        agent.learn(rollout)
    assert sum((~rollout.valid).sum().item() for rollout in rollouts) > 0
    assert agent.state_dict()["step"] == sum(rollout.valid.sum().item() for rollout in rollouts)


def test_the_network_rests_in_eval_mode(agent, rollouts):
    assert not any(module.training for module in agent.network.modules())
    agent.learn(rollouts[0])
    agent.learn(rollouts[1])
    assert not any(module.training for module in agent.network.modules())


def test_a_reward_that_is_not_finite_raises_and_keeps_the_last_finite_weights(agent, rollouts):
    agent.learn(rollouts[0])
    agent.learn(rollouts[1])
    bad = replace(rollouts[2], reward=torch.full_like(rollouts[2].reward, torch.nan))

    def keep_learning() -> None:  # a replay may not draw the bad rows at once
        for _ in range(20):
            agent.learn(bad)

    with pytest.raises(NonFiniteError, match=r"^loss is nan"):
        keep_learning()
    for name, value in agent.network.state_dict().items():
        assert value.isfinite().all(), name
    assert not any(module.training for module in agent.network.modules())


def test_it_continues_bit_for_bit_from_its_state(config, rollouts):
    agent, restored = build(config), build(config, seed=8)
    for rollout in rollouts[:3]:
        acted(agent)
        agent.learn(rollout)
    state = deepcopy(agent.state_dict())
    restored.learn(rollouts[4])
    restored.load_state_dict(deepcopy(state))
    exactly(restored.state_dict(), state)
    for rollout in rollouts[3:]:
        exactly(acted(restored), acted(agent))
        exactly(restored.learn(rollout), agent.learn(rollout))
    exactly(restored.state_dict(), agent.state_dict())


def test_missing_and_unexpected_keys_of_a_state_are_named(agent):
    state = agent.state_dict()
    for key in state:
        with pytest.raises(ValueError, match=rf"missing \['{key}'\], unexpected nothing"):
            agent.load_state_dict({name: value for name, value in state.items() if name != key})
    with pytest.raises(ValueError, match=r"missing nothing, unexpected \['wing'\]"):
        agent.load_state_dict({**state, "wing": 1})
    name = next(iter(state["network"]))
    network = {key: value for key, value in state["network"].items() if key != name}
    with pytest.raises(ValueError, match=rf"network: missing \['{name}'\]"):
        agent.load_state_dict({**state, "network": network})


def test_weights_of_another_shape_are_named(agent):
    state = agent.state_dict()
    name, value = next(iter(state["network"].items()))
    network = {**state["network"], name: torch.cat((value, value))}
    with pytest.raises(ValueError, match=rf"network: {name} is \[{2 * len(value)}.* this one \[{len(value)}"):
        agent.load_state_dict({**state, "network": network})


def test_predict_takes_and_gives_arrays_but_not_where_memory_is_needed(agent, encoder):
    if encoder not in FEEDS_FORWARD:
        with pytest.raises(ValueError, match=r"memory.*player"):
            agent.predict(np.zeros(4))
        return
    batch = np.random.default_rng(0).normal(size=(99, 4))
    actions = agent.predict(batch)
    assert actions.shape == (99,)
    assert set(actions) == {0, 1}
    for observation, action in zip(batch, actions, strict=True):
        one = agent.predict(observation.tolist())
        assert one.shape == ()
        assert one.dtype == np.int64
        assert one == action
    assert {int(agent.predict(batch[0], deterministic=False)) for _ in range(50)} == {0, 1}
    assert (agent.predict(batch[::-1]) == actions[::-1]).all()  # a view that torch by itself refuses
    with pytest.raises(ValueError, match=r"observation has shape \(1, 3\)"):
        agent.predict(np.zeros(3))
    for nonsense in ({"a": 1.0}, None, "left", [[1.0, 2.0, 3.0, 4.0], [1.0]]):
        with pytest.raises(ValueError, match=r"^observation "):
            agent.predict(nonsense)


def test_predict_speaks_of_actions_as_the_environment_numbers_them(config, encoder):
    if encoder in FEEDS_FORWARD:
        agent = build(config, spec=replace(SPEC, action_start=5))
        assert set(agent.predict(np.random.default_rng(0).normal(size=(99, 4)))) == {5, 6}


def test_a_player_carries_the_state_until_reset(agent):
    play, state = agent.player(), agent.initial_state(B)
    episode = np.random.default_rng(0).normal(size=(8, B, 4)).astype(np.float32)
    actions = np.stack([play(observation) for observation in episode])
    for t in range(8):
        is_first = torch.full((B,), t == 0)
        step = agent.act(torch.from_numpy(episode[t]), state, is_first, explore=False)
        state = step.state
        assert (step.action.numpy() == actions[t]).all()
    if state:
        with pytest.raises(ValueError, match=rf"^{B - 1} observations, but {B} at the step before"):
            play(episode[0][1:])
    play.reset()
    assert (np.stack([play(observation) for observation in episode]) == actions).all()


class Normed(Encoder):
    """With statistics that learning alone may move, and noise that learning alone may feel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.5))
        self.out_features = 9

    def encode(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


@pytest.mark.parametrize("kind", AGENTS)
def test_an_encoder_of_the_users_own_is_trained_on_from_its_weights_and_acts_without_noise(kind):
    own = Normed()
    before = deepcopy(own.state_dict())
    agent = build(AGENTS[kind](**SMALL.get(kind, {})), own=own)
    assert agent.network.encoder is own
    exactly(acted(agent, explore=False), acted(agent, explore=False))
    exactly(own.state_dict(), before)
    source = collector(agent)
    for _ in range(2):
        agent.learn(source.next())
    assert [name for name, value in own.state_dict().items() if torch.equal(value, before[name])] == []


@pytest.mark.parametrize("kind", AGENTS)
def test_an_encoder_that_reads_later_rows_is_refused_in_one_line(kind):
    text = r"^agent\.encoder: an agent cannot act on the future, and this GRU reads it .*bidirectional=false$"
    config = AGENTS[kind](encoder=ENCODERS["gru"].model_copy(update={"bidirectional": True}))
    for own in (GRU(MLP((4,), (8,)), 9, bidirectional=True), None):
        with pytest.raises(ValueError, match=text) as caught:
            build(config, own=own)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", AGENTS)
def test_a_frozen_encoder_is_left_as_it_is(kind):
    own = MLPConfig().build(SPEC.observation_space).requires_grad_(False)
    before = deepcopy(own.state_dict())
    agent = build(AGENTS[kind](**SMALL.get(kind, {})), own=own)
    head = deepcopy(agent.network.head.state_dict())
    source = collector(agent)
    for _ in range(2):
        agent.learn(source.next())
    exactly(own.state_dict(), before)
    assert all(not torch.equal(value, head[name]) for name, value in agent.network.head.state_dict().items())


def test_config_survives_a_round_trip(config):
    adapter = TypeAdapter(AgentConfig)
    assert adapter.validate_python(config.model_dump(mode="json")) == config
    assert adapter.validate_json(config.model_dump_json()) == config
