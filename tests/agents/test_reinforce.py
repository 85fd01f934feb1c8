import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from graftwork.agents import Reinforce, ReinforceConfig
from graftwork.engine import Collector, Rollout
from graftwork.envs import EnvSpec, EnvStep, Episode
from graftwork.networks import (
    GRUConfig,
    LSTMConfig,
    MLPConfig,
    Network,
    PolicyValue,
    QHead,
)
from graftwork.training.schedules import Linear
from graftwork.training.seeding import Seeds

T, B, A, F = 4, 3, 2, 5
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
LOG4 = math.log(4)
FIELDS = {
    "encoder": MLPConfig(hidden=(6,), activation="tanh"),
    "learning_rate": 0.01,
    "adam_epsilon": 0.1,  # so large that the size of a gradient shows in Adam's first step
    "max_gradient_norm": None,
    "discount": 0.5,
}


def build(seed: int = 0, spec: EnvSpec = SPEC, network: Network[PolicyValue] | None = None, **fields) -> Reinforce:
    plain = {"learning_rate": 0.01, "adam_epsilon": 0.1, "max_gradient_norm": None, "discount": 0.5}
    config, seeds = (
        ReinforceConfig(**({"encoder": MLPConfig(hidden=(6,), activation="tanh")} | plain | fields)),
        Seeds(seed),
    )
    return config.build(network or config.network(spec, seeds), spec, B, seeds, torch.device("cpu"))


# One whole episode a column: 4 steps to a termination, 2 to a truncation, 3 to a termination. What follows an episode's
# end is garbage of a size that could not be overlooked.
LENGTH = (4, 2, 3)
X = 1e3
REWARD = torch.tensor([[1.0, 1.0, 4.0], [2.0, 2.0, 0.0], [3.0, X, 8.0], [4.0, X, X]])
VALID = torch.tensor([[t < length for length in LENGTH] for t in range(T)])


def episodes(agent: Reinforce, num_actions: int = A) -> Rollout:
    generator = torch.Generator().manual_seed(1)
    ends = torch.tensor([[t == length - 1 for length in LENGTH] for t in range(T)])
    cut_off = torch.tensor([False, True, False])
    return Rollout(
        observation=torch.randn(T + 1, B, F, generator=generator),
        is_first=torch.cat((torch.ones(1, B, dtype=torch.bool), ~VALID)),
        action=torch.randint(num_actions, (T, B), generator=generator),
        log_prob=torch.zeros(T, B),
        reward=REWARD,
        terminated=ends & ~cut_off,
        truncated=ends & cut_off,
        state=agent.initial_state(B),
    )


# Reward-to-go by hand at discount 0.5, with nothing after the truncation:
#   column 0: 4;  3 + 2 = 5;  2 + 2.5 = 4.5;  1 + 2.25 = 3.25        column 1: 2;  1 + 1 = 2
#   column 2: 8;  0 + 4 = 4;  4 + 2 = 6
RETURNS = torch.tensor([[3.25, 2.0, 6.0], [4.5, 2.0, 4.0], [5.0, 0.0, 8.0], [4.0, 0.0, 0.0]])


def constant(network: nn.Module, value: float | None = None) -> None:
    """The policy takes action 0 with 1/4 and action 1 with 3/4 everywhere; the value is `value`."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.head.policy.linear.bias.copy_(torch.tensor([0.0, math.log(3)]))
        if value is not None:
            network.head.value.linear.bias.fill_(value)


def test_loss_without_baseline_is_minus_log_prob_times_return_over_the_steps_of_the_episodes():
    agent = build(baseline="none")
    constant(agent.network)
    batch = replace(episodes(agent), action=torch.tensor([[0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0]]))
    # -log 1/4 = log 4 where action 0 was taken, 3.25 + 5 + 2 + 4 + 8 = 22.25; else -log 3/4, 4.5 + 4 + 2 + 6 = 16.5.
    expected = (22.25 * LOG4 + 16.5 * math.log(4 / 3)) / 9
    metrics = agent.learn(batch)
    assert metrics["policy_loss"].item() == pytest.approx(expected, rel=1e-6)
    assert metrics["loss"].item() == pytest.approx(expected, rel=1e-6)
    assert metrics["entropy"].item() == pytest.approx(LOG4 / 4 + 0.75 * math.log(4 / 3), rel=1e-6)
    assert agent.step == 9


def test_standardised_returns_have_mean_0_and_deviation_1_over_the_steps_of_the_episodes():
    agent = build(baseline="standardised")
    constant(agent.network)
    batch = replace(episodes(agent), action=torch.zeros(T, B, dtype=torch.int64))
    batch.action[2, 2] = 1
    # Mean 38.75 / 9. With all of them at log 4 the sum would be 0; the return of 8 counts log 3 less.
    mean = 38.75 / 9
    variance = sum((g - mean) ** 2 for g in RETURNS[VALID].tolist()) / 9
    expected = -math.log(3) * (8 - mean) / math.sqrt(variance) / 9
    assert agent.learn(batch)["policy_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_learned_value_is_taken_off_learnt_and_bootstraps_at_a_truncation_alone():
    agent = build(baseline="learned", value_coefficient=0.7)
    constant(agent.network, value=2.0)
    batch = replace(episodes(agent), action=torch.ones(T, B, dtype=torch.int64))
    metrics = agent.learn(batch)
    # The truncated column: 2 + 0.5 * 2 = 3 and 1 + 1.5 = 2.5. Less 2 the nine advantages are 1.25 2.5 3 2, 0.5 1 and
    # 4 2 6: their sum is 22.25, their squares' is 1.5625 + 6.25 + 9 + 4 + 0.25 + 1 + 16 + 4 + 36 = 78.0625.
    policy_loss, value_loss = 22.25 / 9 * math.log(4 / 3), 78.0625 / 2 / 9
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-6)
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-6)
    assert metrics["loss"].item() == pytest.approx(policy_loss + 0.7 * value_loss, rel=1e-6)


def test_a_normalised_value_measures_errors_and_advantages_in_deviations_of_the_returns():
    agent = build(baseline="learned", value_coefficient=0.7, normalise_value=True)
    constant(agent.network)
    head = agent.network.head.value
    head.adapt(torch.tensor(2.0), torch.tensor(16.0))  # a value of 2 everywhere
    with torch.no_grad():
        head.linear.bias.zero_()
    batch = replace(episodes(agent), action=torch.ones(T, B, dtype=torch.int64))
    metrics = agent.learn(batch)
    # As above the truncated column bootstraps from the 2; returns less 2 have the sum 22.25, their squares 78.0625.
    # The unit is that of the statistics after this batch: a tenth of its mean and spread.
    shift = 22.25 / 9
    variance = 0.9 * (16 + 0.1 * shift**2) + 0.1 * (78.0625 / 9 - shift**2)
    policy_loss = 22.25 / variance**0.5 / 9 * math.log(4 / 3)
    value_loss = 78.0625 / variance / 2 / 9
    assert metrics["policy_loss"].item() == pytest.approx(policy_loss, rel=1e-5)
    assert metrics["value_loss"].item() == pytest.approx(value_loss, rel=1e-5)
    assert set(metrics) == {"loss", "policy_loss", "entropy", "value_loss", "gradient_norm"}
    assert head.mean.item() == pytest.approx(2.0 + 0.1 * shift, rel=1e-5)
    assert head.variance.item() == pytest.approx(variance, rel=1e-5)


def test_a_value_is_normalised_exactly_if_the_network_is_made_for_it():
    plain = build(baseline="learned").network
    with pytest.raises(ValueError, match=r"^agent\.normalise_value=true: the network's value head is ValueHead, "):
        build(network=plain, baseline="learned", normalise_value=True)
    with pytest.raises(ValueError, match=r"^agent\.normalise_value=false: the network's value head is Normalised"):
        build(network=build(baseline="learned", normalise_value=True).network, baseline="learned")
    with pytest.raises(ValueError, match=r"agent\.normalise_value=true: agent\.baseline=none has no value"):
        build(baseline="none", normalise_value=True)


def naive_update(agent: Reinforce, batch: Rollout) -> dict[str, Tensor]:
    """The weights after one update, episode by episode and step by step."""
    config, network = agent.config, build(encoder=agent.config.encoder, baseline=agent.config.baseline).network
    losses, returns, log_probs, values, entropies = [], [], [], [], []
    for b, length in enumerate(LENGTH):
        output, _ = network(batch.observation[: length + 1, b : b + 1])
        log_prob = output.policy.log_probs[:, 0]
        value = None if output.value is None else output.value[:, 0]
        return_ = 0.0
        if batch.truncated[length - 1, b] and value is not None:
            return_ = value[length].item()
        for t in reversed(range(length)):
            return_ = batch.reward[t, b].item() + config.discount * return_
            returns.append(return_)
            log_probs.append(log_prob[t, batch.action[t, b]])
            entropies.append(-(log_prob[t].exp() * log_prob[t]).sum())
            values.append(torch.zeros(()) if value is None else value[t])
    returns = torch.tensor(returns)
    advantages = returns - torch.stack(values).detach()
    if config.baseline == "standardised":
        advantages = (returns - returns.mean()) / (returns.std(correction=0) + 1e-8)
    for log_prob, advantage, entropy in zip(log_probs, advantages, entropies, strict=True):
        losses.append(-log_prob * advantage - config.entropy_coefficient.at(9) * entropy)
    loss = torch.stack(losses).mean()
    if config.baseline == "learned":
        loss = loss + config.value_coefficient * ((returns - torch.stack(values)) ** 2 / 2).mean()
    loss.backward()
    torch.optim.Adam(network.parameters(), 0.01, eps=0.1).step()
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("encoder", [MLPConfig(hidden=(6,)), LSTMConfig(hidden_size=6), GRUConfig(hidden_size=6)])
@pytest.mark.parametrize("baseline", ["none", "standardised", "learned"])
def test_an_update_equals_a_plain_loop_over_episodes(baseline, encoder):
    agent = build(baseline=baseline, encoder=encoder, entropy_coefficient=0.3)
    batch = episodes(agent)
    expected = naive_update(agent, batch)
    before = {name: value.clone() for name, value in agent.network.state_dict().items()}
    agent.learn(batch)
    torch.testing.assert_close(agent.network.state_dict(), expected, rtol=0, atol=2e-6)
    assert any((before[name] - expected[name]).abs().max() > 1e-3 for name in before)


@pytest.mark.parametrize("encoder", [LSTMConfig(hidden_size=6, num_layers=2), GRUConfig(hidden_size=6)])
def test_the_fused_pass_over_whole_episodes_equals_the_stepwise_one_with_resets(encoder):
    fused, stepwise = build(encoder=encoder), build(encoder=encoder)
    batch = episodes(fused)
    forward = stepwise.network.forward
    stepwise.network.forward = lambda rows, state, is_first: forward(rows, state, batch.is_first[: len(rows)])
    for agent in (fused, stepwise):
        agent.learn(batch)
    torch.testing.assert_close(fused.network.state_dict(), stepwise.network.state_dict(), rtol=0, atol=2e-6)


def entropy_of(agent: Reinforce, batch: Rollout) -> float:
    log_probs = agent.network(batch.observation)[0].policy.log_probs
    return -(log_probs.exp() * log_probs).sum(-1).mean().item()


def test_the_entropy_bonus_raises_the_entropy_and_follows_its_schedule():
    moved = []
    for coefficient in (0.0, 1.0, Linear(start=1.0, end=0.0, steps=9)):  # 9 steps are in the batch
        agent = build(baseline="none", entropy_coefficient=coefficient)
        constant(agent.network)
        batch = replace(episodes(agent), reward=torch.zeros(T, B))
        before = entropy_of(agent, batch)
        agent.learn(batch)
        moved.append(entropy_of(agent, batch) - before)
    assert moved[0] == moved[2] == 0
    assert moved[1] > 1e-4


class Corridor:
    """Reward 1 three steps to the right of a wall; cut off after 12 steps. An ended episode rests."""

    spec = EnvSpec("Corridor", Box(0, 3, (1,)), 2, 0, "Discrete(2)")

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.resets = 0

    def reset(self, episode: int | None = None) -> EnvStep:
        self.resets += 1
        self.place, self.age = torch.zeros(self.num_envs), 0
        self.rests = torch.zeros(self.num_envs, dtype=torch.bool)
        return EnvStep(self.place.unsqueeze(1), torch.zeros(self.num_envs), self.rests, self.rests, ~self.rests)

    def step(self, action: Tensor) -> EnvStep:
        is_first = self.rests
        moved = (self.place + 2 * action - 1).clamp(min=0)
        self.place, self.age = torch.where(is_first, self.place, moved), self.age + 1
        terminated = (self.place == 3) & ~is_first
        truncated = (torch.full_like(terminated, self.age == 12)) & ~terminated & ~is_first
        self.rests = is_first | terminated | truncated
        return EnvStep(self.place.unsqueeze(1), terminated.float(), terminated, truncated, is_first)

    def finished(self) -> list[Episode]:
        return []


def test_it_asks_for_one_whole_episode_of_each_environment():
    env = Corridor(num_envs=7)
    agent = build(spec=env.spec)
    collector = Collector(env, agent, agent.rollout_rows)
    for call in (1, 2):
        rollout = collector.next()
        assert env.resets == call
        assert rollout.is_first[0].all()
        assert rollout.done.sum(0).tolist() == [1] * 7
        lengths = rollout.valid.sum(0)
        assert len(lengths.unique()) > 1
        assert (rollout.done.int().argmax(0) + 1 == lengths).all()


# From 7.5 to 10 the mean length fell to at most 3.17 on 8 seeds of 8, whatever the baseline and encoder.
@pytest.mark.parametrize("encoder", [MLPConfig(hidden=(16,), activation="tanh"), LSTMConfig(hidden_size=16)])
@pytest.mark.parametrize(
    "fields",
    [
        {"baseline": "none"},
        {"baseline": "standardised"},
        {"baseline": "learned"},
        {"baseline": "learned", "normalise_value": True},
    ],
)
def test_it_learns_to_leave_a_corridor(fields, encoder):
    env = Corridor(num_envs=16)
    agent = build(spec=env.spec, **fields, encoder=encoder, adam_epsilon=1e-8, discount=0.9)
    collector = Collector(env, agent, agent.rollout_rows)
    steps = []
    for _ in range(60):
        rollout = collector.next()
        steps.append(rollout.valid.sum().item() / 16)
        agent.learn(rollout)
    assert steps[0] > 6
    assert sum(steps[-5:]) / 5 < 3.5


def test_the_network_must_have_a_value_exactly_if_it_is_the_baseline_and_as_many_actions():
    with_value, without = build(baseline="learned").network, build(baseline="none").network
    with pytest.raises(ValueError, match=r"^agent\.baseline=learned: the network has no value head$"):
        build(network=without, baseline="learned")
    with pytest.raises(ValueError, match=r"^agent\.baseline=standardised: the network has a value head$"):
        build(network=with_value, baseline="standardised")
    with pytest.raises(ValueError, match=r"^the network has 2 actions, but env\.id=Test-v0 has 6$"):
        build(network=with_value, spec=replace(SPEC, num_actions=6))
    with pytest.raises(
        ValueError, match=r"^the network gives Tensor, but agent\.kind=reinforce needs a PolicyValueHead$"
    ):
        build(network=Network(with_value.encoder, QHead(6, A)))
    with pytest.raises(ValueError, match=r"^agent\.kind=reinforce needs a Discrete action space"):
        build(spec=replace(SPEC, num_actions=None, action_space="Box(-1.0, 1.0, (2,), float32)"))
