from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from graftwork.agents import DQN, DQNConfig
from graftwork.agents.action_values import ScalarConfig
from graftwork.engine import Places, Rollout, Sample
from graftwork.envs import EnvSpec
from graftwork.networks import LSTMConfig, MLPConfig, Network
from graftwork.training.seeding import Seeds

T, B, A, F, H, N, L, BURN_IN = 3, 5, 7, 3, 6, 8, 7, 4
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")


def build(seed: int = 0, **fields) -> DQN:
    config = DQNConfig(
        encoder=LSTMConfig(hidden_size=H, inner=MLPConfig(hidden=(4,), activation="tanh")),
        learning_rate=0.01,
        adam_epsilon=0.1,
        max_gradient_norm=None,
        value=ScalarConfig(loss="squared"),
        discount=0.9,
        replay_capacity=500,
        learning_starts=0,
        batch_size=N,
        train_period=T,
        sequence_length=L,
        burn_in=BURN_IN,
        target_period=1_000_000,
        **fields,
    )
    seeds = Seeds(seed)
    network = config.network(SPEC, seeds)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.5, generator=seeds.generator("test"))
    return config.build(network, SPEC, B, seeds, torch.device("cpu"))


@pytest.fixture
def rollout(experience) -> Rollout:
    """Sequences with a stored state; some begin an episode, most do not, and all kinds of rows are in them."""
    sequences = experience(L, N, seed=1)
    is_first = sequences.is_first.clone()
    is_first[0, 2:] = False
    state = tuple(torch.randn(N, 1, H, generator=torch.Generator().manual_seed(seed)).tanh() for seed in (4, 5))
    sequences = replace(sequences, is_first=is_first, state=state)
    assert all(kind[BURN_IN:].any() for kind in (sequences.terminated, sequences.truncated, ~sequences.valid))
    assert sequences.is_first[1:BURN_IN].any()
    assert sequences.is_first[BURN_IN:-1].any()
    return sequences


def learnt(monkeypatch, start: Rollout, rollout: Rollout, **fields) -> tuple[DQN, dict[str, Tensor]]:
    """The weights after one update on `rollout`, from weights of which the target network has others."""
    agent = build(**fields)
    agent.target.load_state_dict(build(seed=1).network.state_dict())
    weight = torch.rand(N, generator=torch.Generator().manual_seed(6))
    discount = torch.where(rollout.terminated, 0.0, 0.9)
    sample = Sample(rollout, rollout.reward, discount, None, weight, torch.arange(N))
    monkeypatch.setattr(agent.replay, "draw", lambda batch_size, beta: Places(sample.index, (), ()))
    monkeypatch.setattr(agent.replay, "read", lambda tables, places: sample)
    monkeypatch.setattr(type(agent.replay), "__len__", lambda replay: 1)
    agent.learn(replace(start, state=agent.initial_state(B)))
    return agent, {name: value.clone() for name, value in agent.network.state_dict().items()}


@pytest.fixture
def learn(monkeypatch, experience, rollout):
    def learn(changed: Rollout = rollout, **fields) -> dict[str, Tensor]:
        return learnt(monkeypatch, experience(T, B), changed, **fields)[1]

    return learn


def unrolled(network: Network, rollout: Rollout, n: int, *, stop_gradient: bool = True) -> Tensor:
    """Action values [L + 1, A] of one sequence, a cell at a time; the state of burn-in rows carries no gradient."""
    encoder = network.encoder
    cell = nn.LSTMCell(4, H).requires_grad_(False)
    hidden, memory = (part[n : n + 1, 0] for part in rollout.state)
    values = []
    for t in range(L + 1):
        if rollout.is_first[t, n]:
            hidden, memory = torch.zeros(1, H), torch.zeros(1, H)
        features = encoder.inner.encode(rollout.observation[t, n].unsqueeze(0))
        weights = {name.removesuffix("_l0"): p for name, p in encoder.named_parameters() if name.endswith("_l0")}
        hidden, memory = torch.func.functional_call(cell, weights, (features, (hidden, memory)))
        values.append(network.head(hidden)[0])
        if t < BURN_IN and stop_gradient:
            hidden, memory = hidden.detach(), memory.detach()
    return torch.stack(values)


def reference(rollout: Rollout, double: bool, *, stop_gradient: bool = True) -> dict[str, Tensor]:
    online, target = build(double=double).network, build(seed=1).network
    weight = torch.rand(N, generator=torch.Generator().manual_seed(6))
    total, count = torch.zeros(()), 0
    for n in range(N):
        q, target_q = unrolled(online, rollout, n, stop_gradient=stop_gradient), unrolled(target, rollout, n).detach()
        for t in range(BURN_IN, L):
            if rollout.is_first[t + 1, n]:
                continue
            best = (q if double else target_q)[t + 1].argmax()
            bootstrap = 0.0 if rollout.terminated[t, n] else target_q[t + 1, best]
            error = rollout.reward[t, n] + 0.9 * bootstrap - q[t, rollout.action[t, n]]
            total, count = total + weight[n] * error**2 / 2, count + 1
    (total / count).backward()
    torch.optim.Adam(online.parameters(), 0.01, eps=0.1).step()
    return {name: value.clone() for name, value in online.state_dict().items()}


def largest_difference(some: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((some[name] - other[name]).abs().max().item() for name in some)


@pytest.mark.parametrize("double", [False, True])
def test_an_update_equals_a_plain_loop_with_burn_in_stored_states_and_resets(learn, rollout, double):
    expected = reference(rollout, double)
    torch.testing.assert_close(learn(double=double), expected, rtol=0, atol=2e-6)
    # The claim has teeth: gradients through the burn-in would have shown.
    assert largest_difference(reference(rollout, double, stop_gradient=False), expected) > 2e-5


def test_burn_in_rows_shape_the_values_but_are_not_learnt_from(learn, rollout):
    reward, observation = rollout.reward.clone(), rollout.observation.clone()
    reward[:BURN_IN] = 1e6
    assert largest_difference(learn(replace(rollout, reward=reward)), learn()) == 0
    observation[BURN_IN - 1] += 1
    assert largest_difference(learn(replace(rollout, observation=observation)), learn()) > 1e-5


def test_the_stored_state_counts_unless_the_sequence_begins_an_episode(learn, rollout):
    fresh = replace(rollout, state=tuple(torch.zeros_like(part) for part in rollout.state))
    assert largest_difference(learn(fresh), learn()) > 1e-5
    ignored = tuple(part.clone() for part in rollout.state)
    for part in ignored:
        part[rollout.is_first[0]] = 0.9
    assert largest_difference(learn(replace(rollout, state=ignored)), learn()) == 0


def test_each_network_burns_in_with_its_own_weights(monkeypatch, experience, rollout):
    agent, _ = learnt(monkeypatch, experience(T, B), rollout)
    seen = {}
    for name, network in (("online", agent.network), ("target", agent.target)):
        states = seen[name] = []
        network.encoder.register_forward_pre_hook(lambda module, arguments, states=states: states.append(arguments[1]))
    agent.learn(replace(experience(T, B), state=agent.initial_state(B)))
    # Two passes each: over the burn-in from the stored state, and over the rest from where it led.
    assert [len(states) for states in seen.values()] == [2, 2]
    for first, _ in seen.values():
        torch.testing.assert_close(first, rollout.state, rtol=0, atol=0)
    assert (seen["online"][1][0] - seen["target"][1][0]).abs().max() > 0.01


def test_a_sequence_drawn_begins_with_the_state_that_the_network_had_there(experience, part, monkeypatch):
    agent, stream = build(double=False), experience(8 * T, B)
    state, states = agent.initial_state(B), []
    for start in range(0, 8 * T, T):
        states.append(state)
        rollout = replace(part(stream, start, T), state=state)
        for t in range(T):
            state = agent.act(rollout.observation[t], state, rollout.is_first[t], explore=False).state
        agent.replay.add(rollout)
    sample = agent.replay.sample(50)
    for n, index in enumerate(sample.index.tolist()):
        row, env = divmod(index, B)
        assert row % T == 0
        torch.testing.assert_close(sample.rollout.observation[:, n], stream.observation[row : row + L + 1, env])
        for got, stored in zip(sample.rollout.state, states[row // T], strict=True):
            torch.testing.assert_close(got[n], stored[env])
