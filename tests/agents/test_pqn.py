from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Tuple
from torch import Tensor, nn

from graftwork.agents import PQN, PQNConfig
from graftwork.engine import Collector, Rollout, recorded
from graftwork.envs import EnvSpec, EnvStep, Episode
from graftwork.networks import CategoricalHead, Encoder, LSTMConfig, MLPConfig, Network, QHead, ValueHead
from graftwork.training.schedules import Linear
from graftwork.training.seeding import Seeds

T, B, A, F, H = 4, 5, 7, 3, 6
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
BRANCHED = EnvSpec("Branches-v0", Box(-np.inf, np.inf, (F,)), None, (0, 0), "MultiDiscrete([2 3])", (2, 3))
FIELDS = {
    "encoder": MLPConfig(hidden=(8,)),
    "learning_rate": 0.01,
    "adam_epsilon": 0.1,  # so large that the size of a gradient shows in Adam's first step
    "discount": 0.9,
    "rollout_rows": T,
    "epochs": 2,
    "minibatches": 2,
}
LSTM = LSTMConfig(hidden_size=H, inner=MLPConfig(hidden=(4,), activation="tanh"))


def build(num_envs: int = B, seed: int = 0, own: Encoder | None = None, spec: EnvSpec = SPEC, **fields) -> PQN:
    config, seeds = PQNConfig(**(FIELDS | fields)), Seeds(seed)
    return config.build(config.network(spec, seeds, own), spec, num_envs, seeds, torch.device("cpu"))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Identity(Encoder):
    """The observation itself."""

    def __init__(self) -> None:
        super().__init__()
        self.out_features = F

    def encode(self, observation: Tensor) -> Tensor:
        return observation


def constant_q(network: nn.Module, values: list[float]) -> None:
    with torch.no_grad():
        network.head.linear.weight.zero_()
        network.head.linear.bias.copy_(torch.tensor(values))


# One environment, three rows of rewards 1, 2, 3; action 0, worth 10, is taken; the best is worth 20; discount and
# lambda are 0.5. Its second row ends the episode in no way or either; then the third is a filler.
#   no end:       3 + 20 / 2 = 13;   2 + (20 / 2 + 13 / 2) / 2 = 10.25;   1 + (20 / 2 + 10.25 / 2) / 2 = 8.5625
#   truncated:    2 + 20 / 2 = 12;   1 + (20 / 2 + 12 / 2) / 2 = 9
#   terminated:   2;                 1 + (20 / 2 + 2 / 2) / 2 = 6.5
ERRORS = {"none": [-1.4375, 0.25, 3.0], "truncated": [-1.0, 2.0], "terminated": [-3.5, -8.0]}


@pytest.mark.parametrize("loss", ["squared", "huber"])
@pytest.mark.parametrize("end", ERRORS)
def test_one_update_of_a_linear_network_by_hand(experience, end, loss):
    agent = build(1, own=Identity(), discount=0.5, trace_decay=0.5, rollout_rows=3, epochs=1, minibatches=1, loss=loss)
    constant_q(agent.network, [10, 20, 0, 0, 0, 0, 0])
    row = torch.zeros(3, 1, dtype=torch.bool)
    ends = torch.tensor([[False], [end != "none"], [False]])
    rollout = replace(
        experience(3, 1, ends=0.0),
        is_first=torch.cat((row[:1], row[:1], row[:1], ends[1:2])),
        action=torch.zeros(3, 1, dtype=torch.int64),
        reward=torch.tensor([[1.0], [2.0], [3.0]]),
        terminated=ends if end == "terminated" else row,
        truncated=ends if end == "truncated" else row,
    )
    metrics = agent.learn(rollout)
    errors = torch.tensor(ERRORS[end])
    if loss == "squared":
        expected, slope = (errors**2 / 2).mean(), errors.mean()
    else:
        expected = torch.where(errors.abs() <= 1, errors**2 / 2, errors.abs() - 0.5).mean()
        slope = errors.clamp(-1, 1).mean()
    assert metrics["loss"].item() == pytest.approx(expected.item())
    assert metrics["td_error"].item() == pytest.approx(errors.abs().mean().item())
    assert metrics["q"].item() == 10
    # Adam's first step is rate * gradient / (|gradient| + epsilon).
    moved = agent.network.head.linear.bias - torch.tensor([10.0, 20, 0, 0, 0, 0, 0])
    assert moved[0].item() == pytest.approx((0.01 * slope / (slope.abs() + 0.1)).item(), rel=1e-2)
    assert not moved[1:].any()
    assert agent.step == len(errors)


def reference(agent: PQN, rollout: Rollout) -> dict[str, Tensor]:
    """The weights after a call to learn, by loops over plain numbers and one environment at a time."""
    config, network = agent.config, deepcopy(agent.network)
    rows, columns = rollout.reward.shape

    def values(b: int) -> Tensor:
        state = tuple(part[b : b + 1] for part in rollout.state)
        return network(rollout.observation[:, b : b + 1], state, rollout.is_first[:, b : b + 1])[0][:, 0]

    returns = torch.zeros(rows, columns)
    for b in range(columns):
        q = values(b).detach()
        for t in reversed(range(rows)):
            legal = slice(None) if rollout.action_mask is None else rollout.action_mask[t + 1, b]
            bootstrap = q[t + 1][legal].max()
            is_last = t == rows - 1 or rollout.done[t, b] or rollout.is_first[t + 1, b]
            if not is_last:
                bootstrap = (1 - config.trace_decay) * bootstrap + config.trace_decay * returns[t + 1, b]
            discount = 0.0 if rollout.terminated[t, b] else config.discount
            returns[t, b] = rollout.reward[t, b] + discount * bootstrap
    order = torch.Generator()
    order.set_state(agent.state_dict()["order"])
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate.at(0), eps=config.adam_epsilon)
    for _ in range(config.epochs):
        for part in torch.randperm(columns, generator=order).tensor_split(config.minibatches):
            errors = []
            for b in part.tolist():
                q = values(b)
                valid = [t for t in range(rows) if not rollout.is_first[t + 1, b]]
                errors += [returns[t, b] - q[t, rollout.action[t, b]] for t in valid]
            error = torch.stack(errors)
            is_small = (error.abs() <= 1) | torch.tensor(config.loss == "squared")
            loss = torch.where(is_small, error**2 / 2, error.abs() - 0.5).mean()
            optimizer.zero_grad()
            loss.backward()
            if config.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(network.parameters(), config.max_gradient_norm)
            optimizer.step()
    return weights(network)


def masks(rows: int, columns: int, *shape: int) -> Tensor:
    """Of which each row has a legal action."""
    generator = torch.Generator().manual_seed(7)
    mask = torch.rand(rows, columns, *shape, generator=generator) < 0.4
    return mask.scatter(-1, torch.randint(shape[-1], (rows, columns, *shape[:-1], 1), generator=generator), True)


def remembered(seed: int = 4) -> tuple[Tensor, ...]:
    return tuple(torch.randn(B, 1, H, generator=torch.Generator().manual_seed(seed + n)).tanh() for n in range(2))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"loss": "huber", "max_gradient_norm": 0.05, "trace_decay": 0.0},
        {"dueling": True, "minibatches": 5, "trace_decay": 1.0},
        {"minibatches": 1, "epochs": 3},
        {"encoder": LSTM, "max_gradient_norm": None},
    ],
    ids=["default", "huber", "dueling", "whole", "lstm"],
)
@pytest.mark.parametrize("is_masked", [False, True])
def test_learning_equals_plain_loops_over_environments(experience, fields, is_masked):
    agent = build(**fields)
    rollout = experience(9, B, seed=1)
    is_first = rollout.is_first.clone()
    is_first[0, 2:] = False
    rollout = replace(
        rollout,
        reward=3 * rollout.reward,  # on both sides of Huber's corner
        is_first=is_first,
        state=remembered() if "encoder" in fields else (),
        action_mask=masks(10, B, A) if is_masked else None,
    )
    assert all(kind.any() for kind in (rollout.terminated, rollout.truncated, ~rollout.valid))
    expected, before = reference(agent, rollout), weights(agent.network)
    agent.learn(rollout)
    torch.testing.assert_close(weights(agent.network), expected, rtol=0, atol=5e-6)
    assert all((before[name] - expected[name]).abs().max() > 1e-4 for name in before)


def test_an_observation_in_parts_is_learnt_from_like_the_whole(experience):
    leaf = Box(-np.inf, np.inf, (1,))
    parts = replace(SPEC, observation_space=Dict({"a": leaf, "b": Tuple([leaf, leaf])}))
    whole, other, rollout = build(), build(spec=parts), experience(T, B)
    names = ("a", "b.0", "b.1")
    observation = dict(zip(names, rollout.observation.split(1, -1), strict=True))
    for _ in range(2):
        whole.learn(rollout)
        other.learn(replace(rollout, observation=observation))
    torch.testing.assert_close(weights(other.network), weights(whole.network), rtol=0, atol=0)


def test_fillers_are_never_learnt_from(experience):
    rollout = experience(T, B, seed=1)
    assert not rollout.valid.all()
    learnt = []
    for reward in (rollout.reward, rollout.reward.masked_fill(~rollout.valid, 1e6)):
        agent = build()
        agent.learn(replace(rollout, reward=reward))
        learnt.append(weights(agent.network))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_there_are_as_many_minibatches_as_environments_if_these_are_fewer(experience, monkeypatch, num_envs):
    agent, seen = build(num_envs, minibatches=4, epochs=3), []
    monkeypatch.setattr(agent, "_update", lambda batches, rate: seen.extend(batches) or {})
    agent.learn(experience(T, num_envs))
    assert [batch.return_.shape for batch in seen] == [(T, 1)] * 3 * num_envs
    for epoch in range(3):
        actions = torch.cat([batch.action for batch in seen[epoch * num_envs : (epoch + 1) * num_envs]], 1)
        assert sorted(actions.T.tolist()) == sorted(experience(T, num_envs).action.T.tolist())


def test_too_few_environments_and_a_missing_norm_are_noted():
    assert build(2, encoder=MLPConfig(norm="layer")).notes() == []
    (few,) = build(1, encoder=LSTMConfig(inner=MLPConfig(norm="rms"))).notes()
    assert few.startswith("agent.minibatches=2, but env.num_envs=1: ")
    (bare,) = build(2).notes()
    assert bare.startswith("agent.encoder has no norm")


class Normed(Encoder):
    """With statistics that learning alone may move, and noise that learning alone may feel."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(F, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.out_features = 8

    def encode(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


def test_targets_are_those_of_the_resting_network(experience, monkeypatch):
    agent, rollout = build(own=Normed(), trace_decay=0.0), experience(T, B)
    before, seen = weights(agent.network), []
    monkeypatch.setattr(agent, "_update", lambda batches, rate: seen.extend(batches) or {})
    agent.learn(rollout)
    torch.testing.assert_close(weights(agent.network), before, rtol=0, atol=0)
    value = agent.network(rollout.observation)[0].detach().amax(-1)[1:]
    expected = rollout.reward + 0.9 * value.masked_fill(rollout.terminated, 0.0)
    for batch in seen:
        for n in range(batch.action.shape[1]):
            (b,) = [b for b in range(B) if torch.equal(rollout.observation[:-1, b], batch.observation[:, n])]
            torch.testing.assert_close(batch.return_[:, n], expected[:, b])


@pytest.mark.parametrize(
    "fields", [{}, {"dueling": True, "loss": "huber"}, {"encoder": LSTM}], ids=["mlp", "dueling", "lstm"]
)
def test_recorded_updates_come_to_the_bits_of_eager_ones(experience, part, monkeypatch, fields):
    learnt = []
    for eager_first in (3, float("inf")):
        monkeypatch.setattr(recorded, "_EAGER_FIRST", eager_first)
        agent, rollout, metrics = build(4, **fields), experience(8 * T, 4), []
        for call in range(8):
            state = tuple(torch.full_like(each, call / 8) for each in agent.initial_state(4))
            metrics.append(agent.learn(replace(part(rollout, call * T, T), state=state)))
        recordings = agent._update._gradients._flat._recordings.values()
        assert all(recordings)
        assert bool(recordings) == (eager_first == 3)
        learnt.append((agent.network.state_dict(), metrics))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


# Acting


def acted(agent: PQN, rows: int, mask: Tensor | None = None, *, explore: bool = True) -> Tensor:
    generator, is_first = torch.Generator().manual_seed(2), torch.zeros(B, dtype=torch.bool)
    steps = [
        agent.act(
            torch.randn(B, F, generator=generator),
            agent.initial_state(B),
            is_first,
            explore=explore,
            action_mask=None if mask is None else mask[t],
        )
        for t in range(rows)
    ]
    return torch.stack([step.action for step in steps])


@pytest.mark.parametrize("explore", [False, True])
def test_only_legal_actions_are_taken(explore):
    mask = masks(400, B, A)
    action = acted(build(epsilon=0.5), 400, mask, explore=explore)
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    assert len(action.unique()) == A
    free = acted(build(epsilon=0.5), 400, explore=explore)
    assert not mask.gather(-1, free.unsqueeze(-1)).all()


def test_epsilon_is_the_share_of_actions_that_are_not_greedy_by_environment_steps(experience):
    agent = build(epsilon=Linear(start=1.0, end=0.0, steps=200))
    constant_q(agent.network, [0, 0, 1, 0, 0, 0, 0])
    # 40 rows of 5 environments take 200 steps; 6 of 7 random actions are not the greedy one. 0.5 * 6 / 7 = 0.43
    share = (acted(agent, 40) != 2).float()
    assert share[:10].mean().item() == pytest.approx(0.875 * 6 / 7, abs=0.15)
    assert share[-10:].mean().item() == pytest.approx(0.125 * 6 / 7, abs=0.15)
    agent.learn(experience(40, B, ends=0.0))
    assert agent.step == 200
    constant_q(agent.network, [0, 0, 1, 0, 0, 0, 0])
    assert (acted(agent, 40) == 2).all()


# Branches


@pytest.mark.parametrize("explore", [False, True])
def test_branches_have_an_action_each_of_their_own(explore):
    action = acted(build(spec=BRANCHED, epsilon=0.5), 200, explore=explore)
    assert action.shape == (200, B, 2)
    assert [len(branch.unique()) for branch in action.flatten(0, 1).T] == [2, 3]
    mask = masks(200, B, 2, 3) & BRANCHED.padding
    mask |= (torch.arange(3) == 0) & ~mask.any(-1, keepdim=True)
    action = acted(build(spec=BRANCHED, epsilon=0.5), 200, mask, explore=explore)
    assert mask.gather(-1, action.unsqueeze(-1)).all()


@pytest.mark.parametrize("dueling", [False, True])
def test_branches_share_the_mean_of_their_greatest_values_as_target(experience, dueling):
    agent = build(1, spec=BRANCHED, dueling=dueling, rollout_rows=1, epochs=1, minibatches=1, discount=0.5)
    with torch.no_grad():
        for parameter in agent.network.head.parameters():
            parameter.zero_()
        bias = (agent.network.head.advantage if dueling else agent.network.head.linear).bias
        # Of branches without a third action its 50 is not a value. With means taken off: -1, 1 and -3, 0, 3.
        bias.copy_(torch.tensor([2.0, 4.0, 50.0, 3.0, 6.0, 9.0]))
    rollout = replace(
        experience(1, 1, ends=0.0), action=torch.tensor([[[0, 1]]]), reward=torch.tensor([[1.0]]), action_mask=None
    )
    # 1 + (4 + 9) / 2 / 2 = 4.25, less 2 and 6: 2.25 and -1.75.  Dueling: 1 + (1 + 3) / 2 / 2 = 2, less -1 and 0: 3, 2
    one, other = (3.0, 2.0) if dueling else (2.25, -1.75)
    metrics = agent.learn(rollout)
    assert metrics["loss"].item() == pytest.approx((one**2 / 2 + other**2 / 2) / 2)
    assert metrics["td_error"].item() == pytest.approx((abs(one) + abs(other)) / 2)


# Values that are known


class Table:
    """B copies of a deterministic Markov decision process given as tables, begun at random and cut off at a limit."""

    def __init__(self, successor: Tensor, reward: Tensor, observation: Tensor, starts: Tensor, limit: int) -> None:
        """successor [S, A] int64, -1 for the end; reward [S, A]; observation [S, F]."""
        self.successor, self.reward, self.observation, self.starts = successor, reward, observation, starts
        space = Box(-np.inf, np.inf, observation.shape[1:])
        self.spec = EnvSpec("Table", space, successor.shape[1], 0, f"Discrete({successor.shape[1]})")
        self.num_envs, self.limit, self.generator = 8, limit, torch.Generator().manual_seed(0)

    def values(self) -> Tensor:
        """Optimal action values [S, A] by value iteration."""
        q = torch.zeros_like(self.reward)
        for _ in range(500):
            q = self.reward + 0.9 * torch.where(self.successor < 0, 0.0, q.amax(1)[self.successor])
        return q

    def reset(self, episode: int | None = None) -> EnvStep:
        self.state, self.age = self.begin(), torch.zeros(self.num_envs, dtype=torch.int64)
        self.done = torch.zeros(self.num_envs, dtype=torch.bool)
        return EnvStep(self.observation[self.state], torch.zeros(self.num_envs), self.done, self.done, ~self.done)

    def step(self, action: Tensor) -> EnvStep:
        is_first, successor = self.done, self.successor[self.state, action]
        reward = self.reward[self.state, action].masked_fill(is_first, 0.0)
        self.age = torch.where(is_first, 0, self.age + 1)
        terminated = (successor < 0) & ~is_first
        truncated = (self.age == self.limit) & ~terminated & ~is_first
        self.state = torch.where(is_first, self.begin(), successor.clamp(min=0))
        self.done = terminated | truncated
        return EnvStep(self.observation[self.state], reward, terminated, truncated, is_first)

    def begin(self) -> Tensor:
        return self.starts[torch.randint(len(self.starts), (self.num_envs,), generator=self.generator)]

    def finished(self) -> list[Episode]:
        return []


def train(env: Table, rollouts: int, config: PQNConfig) -> PQN:
    seeds = Seeds(0)
    agent = config.build(config.network(env.spec, seeds), env.spec, env.num_envs, seeds, torch.device("cpu"))
    collector = Collector(env, agent, agent.rollout_rows)
    for _ in range(rollouts):
        agent.learn(collector.next())
    return agent


def test_the_values_of_a_chain_that_is_cut_off_too_early_are_learnt():
    # Five states in a row: a reward of 1 for leaving at the right, of 0.1 for each step against the left wall.
    left, right = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([1, 2, 3, 4, -1])
    reward = torch.zeros(5, 2)
    reward[0, 0], reward[4, 1] = 0.1, 1.0
    env = Table(torch.stack((left, right), 1), reward, torch.eye(5), torch.arange(5), limit=6)
    # With traces random actions would count: lambda 0 tells the values of the best ones whatever is done.
    config = PQNConfig(
        encoder=MLPConfig(hidden=(32,), norm="layer"),
        discount=0.9,
        trace_decay=0.0,
        learning_rate=Linear(start=1e-2, end=0, steps=7_000),
        epsilon=1.0,
        rollout_rows=8,
        epochs=3,
        minibatches=2,
    )
    agent = train(env, 150, config)
    with torch.no_grad():
        learnt = agent.network(torch.eye(5).unsqueeze(0))[0][0]
    # The largest error was at most 0.002 on 4 seeds.
    torch.testing.assert_close(learnt, env.values(), rtol=0, atol=0.01)


@pytest.mark.parametrize("encoder", ["lstm", "mlp"])
def test_what_was_seen_before_is_known_to_an_lstm_alone(encoder):
    # Three steps; the first observation says which action the last one rewards with 1 (the other with -1).
    cue, position = torch.arange(6) // 3, torch.arange(6) % 3
    successor = torch.where(position == 2, -1, torch.arange(6) + 1)
    right = nn.functional.one_hot(cue, 2) * 2.0 - 1
    observation = torch.stack(((position == 0) * (2.0 * cue - 1), (position == 2).float()), 1)
    reward = right * (position == 2).unsqueeze(1)
    env = Table(torch.stack((successor, successor), 1), reward, observation, torch.tensor([0, 3]), limit=100)
    plain = MLPConfig(hidden=(16,))
    config = PQNConfig(
        encoder=LSTMConfig(hidden_size=16, inner=plain) if encoder == "lstm" else plain,
        discount=0.9,
        trace_decay=0.0,
        learning_rate=Linear(start=1e-2, end=0, steps=3_600),
        epsilon=1.0,
        rollout_rows=10,
        epochs=3,
        minibatches=2,
    )
    agent = train(env, 60, config)
    with torch.no_grad():
        q = agent.network(env.observation.view(2, 3, -1).transpose(0, 1))[0].transpose(0, 1).reshape(6, 2)
    if encoder == "lstm":
        # The largest error was at most 0.001 on 4 seeds.
        torch.testing.assert_close(q, env.values(), rtol=0, atol=0.01)
    else:
        torch.testing.assert_close(q[[2, 5]], torch.zeros(2, 2), rtol=0, atol=0.4)


# Parts that do not go together


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder": LSTM, "rollout_rows": 1}, r"^agent\.rollout_rows=1: a recurrent encoder learns from sequences"),
        ({"encoder": MLPConfig(norm="batch"), "rollout_rows": 1}, r"^agent\.rollout_rows=1: batch norm can tell no"),
        ({"spec": replace(SPEC, num_actions=None, action_space="Box(2,)")}, r"^agent\.kind=pqn needs a Discrete.*Box"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_in_one_line(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**fields)
    assert "\n" not in str(caught.value)


def test_a_network_with_other_actions_is_refused():
    config, seeds = PQNConfig(**FIELDS), Seeds(0)
    network = Network(Identity(), QHead(F, 4))
    for spec, text in ((SPEC, "7"), (BRANCHED, "2 x 3")):
        message = f"^the network gives 4 values, but env.id={spec.id} has {text} actions$"
        with pytest.raises(ValueError, match=message):
            config.build(network, spec, B, seeds, torch.device("cpu"))


@pytest.mark.parametrize(("head", "given"), [(CategoricalHead(F, A), "Categorical"), (ValueHead(F), "1 values")])
def test_a_network_that_tells_no_action_values_is_refused(head, given):
    network = Network(Identity(), head)
    with pytest.raises(ValueError, match=f"^the network gives {given}, but env.id=Test-v0 has 7 actions$"):
        PQNConfig(**FIELDS).build(network, SPEC, B, Seeds(0), torch.device("cpu"))
