from collections.abc import Callable
from copy import deepcopy
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
from graftwork.networks import CategoricalHead, Encoder, LSTMConfig, MLPConfig, Network, QHead
from graftwork.training.schedules import Linear
from graftwork.training.seeding import Seeds

T, B, A, F, N, L = 4, 5, 7, 3, 16, 3
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
FIELDS = {
    "encoder": MLPConfig(hidden=(8,)),
    "learning_rate": 0.01,
    "adam_epsilon": 0.1,  # so large that the size of a gradient shows in Adam's first step
    "replay_capacity": 500,
    "learning_starts": 0,
    "batch_size": N,
    "train_period": T,
    "target_period": 1_000_000,
}


def build(num_envs: int = B, seed: int = 0, own: Encoder | None = None, spec: EnvSpec = SPEC, **fields) -> DQN:
    config, seeds = DQNConfig(**(FIELDS | fields)), Seeds(seed)
    return config.build(config.network(spec, seeds, own), spec, num_envs, seeds, torch.device("cpu"))


def serve(agent: DQN, monkeypatch: pytest.MonkeyPatch, sample: Callable[[int], Sample]) -> None:
    """Let the agent learn from samples of ours, whatever its replay holds."""
    drawn: list[Sample] = []

    def draw(batch_size: int, beta: float) -> Places:
        drawn.append(sample(batch_size))
        return Places(drawn[-1].index, (), ())

    monkeypatch.setattr(agent.replay, "draw", draw)
    monkeypatch.setattr(agent.replay, "read", lambda tables, places: drawn[-1])


def sampled(rollout: Rollout, weight: Tensor, discount: float = 0.99) -> Sample:
    """Rows of single rewards, as if they had been drawn."""
    of_next = torch.where(rollout.terminated, 0.0, discount)
    return Sample(rollout, rollout.reward, of_next, None, weight, torch.arange(len(weight)))


def weighted(rollout: Rollout, discount: float = 0.99) -> Sample:
    weight = torch.rand(rollout.batch_size, generator=torch.Generator().manual_seed(3))
    return sampled(rollout, weight, discount)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def reference_update(agent: DQN, sample: Sample) -> dict[str, Tensor]:
    """The online weights after one update from `sample`, by loops over plain numbers."""
    config, rollout = agent.config, sample.rollout
    online, target = deepcopy(agent.network).train().requires_grad_(), deepcopy(agent.target)

    def q(network: nn.Module, observation: Tensor) -> Tensor:
        w1, b1, w2, b2 = network.parameters()
        return w2 @ torch.relu(w1 @ observation + b1) + b2

    total, count = torch.zeros(()), 0
    for t in range(rollout.num_rows):
        for n in range(rollout.batch_size):
            if rollout.is_first[t + 1, n]:
                continue
            successor = rollout.observation[t + 1, n]
            best = q(online if config.double else target, successor).argmax()
            bootstrap = 0.0 if rollout.terminated[t, n] else q(target, successor)[best].item()
            error = rollout.reward[t, n] + config.discount * bootstrap
            error = error - q(online, rollout.observation[t, n])[rollout.action[t, n]]
            is_small = config.value.loss == "squared" or error.abs() <= 1
            total = total + sample.weight[n] * (error**2 / 2 if is_small else error.abs() - 0.5)
            count += 1
    (total / count).backward()
    if config.max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(online.parameters(), config.max_gradient_norm)
    torch.optim.Adam(online.parameters(), config.learning_rate.at(0), eps=config.adam_epsilon).step()
    return weights(online)


@pytest.mark.parametrize("max_gradient_norm", [None, 0.05])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("loss", ["huber", "squared"])
def test_an_update_equals_a_plain_loop(experience, monkeypatch, loss, double, max_gradient_norm):
    agent = build(
        value=ScalarConfig(loss=loss),
        double=double,
        max_gradient_norm=max_gradient_norm,
        sequence_length=L,
        discount=0.9,
    )
    agent.target.load_state_dict(build(seed=1).network.state_dict())
    rollout = experience(L, N, seed=1)
    rollout = replace(rollout, reward=3 * rollout.reward)  # on both sides of Huber's corner
    assert all(kind.any() for kind in (rollout.terminated, rollout.truncated, ~rollout.valid))
    sample = weighted(rollout, 0.9)
    serve(agent, monkeypatch, lambda batch_size: sample)
    expected = reference_update(agent, sample)
    before = weights(agent.network)
    agent.learn(experience(T, B))
    torch.testing.assert_close(weights(agent.network), expected, rtol=0, atol=2e-6)
    assert all((before[name] - expected[name]).abs().max() > 1e-4 for name in before)


def test_fillers_are_never_learnt_from(experience, monkeypatch):
    rollout = experience(L, N, seed=1)
    poisoned = replace(rollout, reward=rollout.reward.masked_fill(~rollout.valid, 1e6))
    learnt = []
    for each in (rollout, poisoned):
        agent = build(sequence_length=L)
        serve(agent, monkeypatch, lambda batch_size, each=each: weighted(each))
        agent.learn(experience(T, B))
        learnt.append(weights(agent.network))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


def constant_q(network: nn.Module, values: list[float]) -> None:
    with torch.no_grad():
        network.head.linear.weight.zero_()
        network.head.linear.bias.copy_(torch.tensor(values))


# Online values 0, 0, 3, 0 ..; the target network's 10, 20, 30, 40 ..; action 1 was taken. Reward 1, discount 0.5.
# 1 + 0.5 * 30 - 0 = 16 by the online network's choice, 1 + 0.5 * 70 - 0 = 36 by the target network's own.
@pytest.mark.parametrize(("double", "bootstrapped"), [(True, 16.0), (False, 36.0)])
@pytest.mark.parametrize("end", ["none", "truncated", "terminated"])
def test_truncation_bootstraps_and_termination_does_not(experience, monkeypatch, end, double, bootstrapped):
    agent = build(double=double, discount=0.5, batch_size=1)
    constant_q(agent.network, [0, 0, 3, 0, 0, 0, 0])
    constant_q(agent.target, [10, 20, 30, 40, 50, 60, 70])
    one = torch.ones(1, 1)
    rollout = replace(
        experience(1, 1, ends=0.0),
        action=one.long(),
        reward=one,
        terminated=one > (0 if end == "terminated" else 1),
        truncated=one > (0 if end == "truncated" else 1),
    )
    serve(agent, monkeypatch, lambda batch_size: weighted(rollout, 0.5))
    metrics = agent.learn(experience(T, B))
    assert metrics["td_error"].item() == (1.0 if end == "terminated" else bootstrapped)


class Normed(Encoder):
    """With statistics that learning alone may move, and noise that learning alone may feel."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(F, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5))
        self.out_features = width

    def encode(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


@pytest.mark.parametrize("updates", [1, 3])
def test_a_hard_target_is_copied_whole_at_multiples_of_its_period_before_the_updates(experience, part, updates):
    # Nothing ends, so each call takes 4 * 5 = 20 steps: 50, 100 and 150 lie in calls 3, 5 and 8.
    agent = build(own=Normed(), target_period=50, updates=updates)
    episode = experience(8 * T, B, ends=0.0)
    for call in range(1, 9):
        online, target = weights(agent.network), weights(agent.target)
        agent.learn(part(episode, (call - 1) * T, T))
        expected = online if call in (3, 5, 8) else target
        torch.testing.assert_close(weights(agent.target), expected, rtol=0, atol=0)
        assert not torch.equal(weights(agent.network)["head.linear.bias"], online["head.linear.bias"])


def test_a_soft_target_moves_by_its_rate_after_the_update_and_takes_buffers_over(experience, part):
    agent = build(own=Normed(), target_rate=0.25)
    for call in range(2):
        before = weights(agent.target)
        agent.learn(part(experience(2 * T, B), call * T, T))
        online, parameters = weights(agent.network), dict(agent.network.named_parameters())
        for name, value in weights(agent.target).items():
            if name in parameters:
                torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * online[name])
            else:
                assert torch.equal(value, online[name]), name


PER_COLUMN = ("observation", "is_first", "action", "reward", "terminated", "truncated")


@pytest.mark.parametrize("target_rate", [1.0, 0.25])
def test_a_burst_equals_its_batches_one_by_one(experience, monkeypatch, target_rate):
    burst, single = (build(updates=updates, target_rate=target_rate, double=True) for updates in (3, 1))
    for agent in (burst, single):
        agent.target.load_state_dict(build(seed=1).network.state_dict())
    rollout = experience(1, 3 * N)
    parts = zip(*(getattr(rollout, name).split(N, 1) for name in PER_COLUMN), strict=True)
    samples = [sampled(replace(rollout, **dict(zip(PER_COLUMN, part, strict=True))), torch.ones(N)) for part in parts]
    whole = sampled(rollout, torch.ones(3 * N))
    queue = list(samples)
    serve(burst, monkeypatch, lambda batch_size: whole if batch_size == 3 * N else queue.pop(0))
    burst.learn(experience(T, B))
    for sample in samples:
        serve(single, monkeypatch, lambda batch_size, sample=sample: sample)
        single.learn(experience(T, B))
    for name in ("network", "target"):
        torch.testing.assert_close(
            getattr(burst, name).state_dict(), getattr(single, name).state_dict(), rtol=0, atol=1e-6
        )


RECURRENT = {
    "encoder": LSTMConfig(hidden_size=6, inner=MLPConfig(hidden=(4,))),
    "sequence_length": 6,
    "burn_in": 2,
}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"double": False, "value": ScalarConfig(loss="squared"), "sequence_length": 2},
        {"target_rate": 0.1},
        RECURRENT,
    ],
    ids=["mlp", "squared", "soft-target", "lstm"],
)
def test_recorded_updates_come_to_the_bits_of_eager_ones(expect_recorded_like_eager, fields):
    expect_recorded_like_eager(lambda: build(**fields, updates=2, target_period=40), 30, T, B)


def test_the_target_is_always_in_eval_mode_and_without_gradients(experience):
    agent = build(own=Normed(), target_period=10)
    for _ in range(2):
        assert not any(module.training for module in agent.target.modules())
        assert not any(parameter.requires_grad for parameter in agent.target.parameters())
        agent.learn(experience(T, B))
    assert all(parameter.grad is None for parameter in agent.target.parameters())


def test_statistics_move_in_learning_alone_and_reach_the_target(experience):
    agent = build(own=Normed(), target_period=1)
    observation, is_first = torch.randn(B, F), torch.ones(B, dtype=torch.bool)
    before = weights(agent.network)
    first = agent.act(observation, (), is_first, explore=False).action
    assert torch.equal(agent.act(observation, (), is_first, explore=False).action, first)  # no dropout
    torch.testing.assert_close(weights(agent.network), before, rtol=0, atol=0)
    agent.learn(experience(T, B))
    mean = "encoder.layers.1.running_mean"
    assert not torch.equal(weights(agent.network)[mean], before[mean])
    assert torch.equal(weights(agent.target)[mean], before[mean])  # copied before the update
    assert not any(module.training for module in agent.network.modules())
    moved = weights(agent.network)[mean]
    agent.learn(experience(T, B))
    assert torch.equal(weights(agent.target)[mean], moved)


def test_a_frozen_part_stays_as_it_was(experience):
    agent = build(own=Normed().requires_grad_(False))
    before = weights(agent.network)
    agent.learn(experience(T, B))
    assert torch.equal(agent.network.encoder.layers[0].weight, before["encoder.layers.0.weight"])
    assert not torch.equal(agent.network.head.linear.weight, before["head.linear.weight"])


def explorations(agent: DQN, num_envs: int) -> float:
    """Share of environments whose action is not the greedy one."""
    step = agent.act(torch.zeros(num_envs, F), (), torch.ones(num_envs, dtype=torch.bool), explore=True)
    return (step.action != 2).float().mean().item()


def test_epsilon_follows_its_schedule_by_environment_steps(experience, part):
    many = 7000
    agent = build(num_envs=many, epsilon=Linear(start=1.0, end=0.0, steps=4 * many), replay_capacity=20 * many)
    constant_q(agent.network, [0, 0, 1, 0, 0, 0, 0])
    constant_q(agent.target, [0, 0, 0, 0, 0, 0, 0])
    # Of the random actions 6 of 7 are not the greedy one; the standard deviation is at most 0.006.
    for epsilon in (1.0, 0.75, 0.5):
        assert explorations(agent, many) == pytest.approx(epsilon * 6 / 7, abs=0.03)
    # 2 rows of the rollout were taken, whatever was acted since: epsilon is 0.5 again, and then 0.25.
    agent.learn(part(experience(2, many, ends=0.0), 0, 2))
    constant_q(agent.network, [0, 0, 1, 0, 0, 0, 0])
    for epsilon in (0.5, 0.25, 0.0, 0.0):
        assert explorations(agent, many) == pytest.approx(epsilon * 6 / 7, abs=0.03)


def test_each_environment_flips_its_own_coin():
    agent = build(epsilon=0.5)
    constant_q(agent.network, [0, 0, 1, 0, 0, 0, 0])
    shares = {explorations(agent, 20) for _ in range(20)}
    assert len(shares) > 3
    assert not shares & {0.0, 1.0}


def test_without_exploration_the_greedy_action_is_taken_and_no_number_drawn():
    agent = build(epsilon=1.0)
    before = agent.state_dict()["generator"].clone()
    observation, is_first = torch.randn(B, F), torch.ones(B, dtype=torch.bool)
    step = agent.act(observation, (), is_first, explore=False)
    assert torch.equal(step.action, agent.network(observation.unsqueeze(0))[0][0].argmax(-1))
    assert torch.equal(agent.state_dict()["generator"], before)


def test_nothing_is_learnt_before_learning_starts_even_if_a_small_replay_is_full_of_fillers(experience, part):
    agent = build(num_envs=1, replay_capacity=40, learning_starts=40, batch_size=2)
    rollout, metrics = experience(20 * T, 1, ends=0.9), []
    for call in range(20):
        metrics.append(agent.learn(part(rollout, call * T, T)))
        assert bool(metrics[-1]) == (agent.step >= 40)
    assert metrics[-1]


LSTM = LSTMConfig(hidden_size=5, inner=MLPConfig(hidden=(4,)))
NORMED = MLPConfig(hidden=(4,), norm="batch")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 4, "burn_in": 4}, "agent.sequence_length=4 must exceed agent.burn_in=4"),
        ({"replay_capacity": 15}, "agent.replay_capacity=15 must hold at least agent.batch_size=16"),
        ({"learning_starts": 501}, "agent.replay_capacity=500 must hold .* agent.learning_starts=501"),
        ({"sequence_length": 6, "burn_in": 2}, "agent.burn_in=2: only a recurrent encoder burns in"),
        ({"encoder": LSTM}, "agent.sequence_length=1: a recurrent encoder learns from sequences of at least 2 rows"),
        (
            {"encoder": LSTM, "sequence_length": 5, "burn_in": 2},
            "agent.sequence_length - agent.burn_in = 3 must be at least agent.train_period=4",
        ),
        ({"encoder": NORMED, "batch_size": 1, "double": False}, "agent.batch_size=1: batch norm can tell no deviation"),
        (
            {"encoder": LSTMConfig(inner=NORMED), "batch_size": 1, "sequence_length": 5, "burn_in": 1},
            "agent.batch_size=1: batch norm can tell no deviation",
        ),
        ({"replay_capacity": 24}, "agent.replay_capacity=24 keeps 4 rows .* = 5 are needed"),
        ({"epsilon": 1.5}, r"must stay in \[0, 1\], got 1.5"),
        ({"learning_rate": -0.1}, "must not be negative, got -0.1"),
    ],
)
def test_conflicting_options_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**fields)
    if type(caught.value) is ValueError:  # pydantic's own are put into one line by configs.validate
        assert "\n" not in str(caught.value)


def test_actions_must_be_discrete_and_as_many_as_the_network_values():
    box = replace(SPEC, num_actions=None, action_space="Box(-1.0, 1.0, (2,), float32)")
    with pytest.raises(
        ValueError, match=r"^agent.kind=dqn needs a Discrete or MultiDiscrete action space, .* env.id=Test-v0 has Box"
    ):
        build(spec=box)
    agent = build()
    config = agent.config
    line = r"^the network gives values of shape \[7\], but agent.value.kind=scalar on env.id=Test-v0 needs \[2\]$"
    with pytest.raises(ValueError, match=line):
        config.build(agent.network, replace(SPEC, num_actions=2), B, Seeds(0), torch.device("cpu"))


BRANCHED = replace(SPEC, num_actions=None, branches=(3, 2), action_start=(0, 0), action_space="MultiDiscrete([3 2])")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stored_state": False}, "agent.stored_state=false: only a recurrent encoder has a state; use true"),
        ({"value": {"kind": "categorical", "low": 3, "high": 3}}, "low=3.0 must be below .*high=3.0"),
        ({"n_step": 0}, "n_step"),
        ({"munchausen": {"floor": 0.5}}, "munchausen.floor"),
        ({"sequence_length": 97}, "agent.replay_capacity=500 keeps 100 rows .* sequence of 97 rows .* need 101"),
        (
            {"encoder": LSTM, "sequence_length": 60, "n_step": 40},
            "agent.replay_capacity=500 keeps 100 rows .* sequence of 99 rows .* need 103",
        ),
    ],
)
def test_switches_that_do_not_go_together_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        build(**fields)
    if type(caught.value) is ValueError:
        assert "\n" not in str(caught.value)


def test_auxiliary_heads_of_branches_are_refused_by_name():
    line = r"^agent.auxiliary.reward: it tells of one action, but env.id=Test-v0 has MultiDiscrete\(\[3 2\]\); use 0$"
    with pytest.raises(ValueError, match=line):
        build(spec=BRANCHED, auxiliary={"reward": 1.0})


@pytest.mark.parametrize(
    ("head", "fields", "line"),
    [
        (QHead(8, A, atoms=4), {}, r"values of shape \[7, 4\], but agent.value.kind=scalar on .* needs \[7\]"),
        (
            QHead(8, A),
            {"value": {"kind": "categorical"}},
            r"values of shape \[7\], but .*categorical .* needs \[7, 51\]",
        ),
        (
            QHead(8, A, atoms=32),
            {"value": {"kind": "implicit"}},
            r"values of shape \[7, 32\], but .*implicit .* needs \[7, 32\] of an ImplicitQuantileHead",
        ),
        (CategoricalHead(8, A), {}, r"Categorical, but agent.value.kind=scalar on .* needs \[7\]"),
    ],
    ids=["atoms", "none", "quantiles", "policy"],
)
def test_a_head_of_ones_own_that_tells_something_else_is_refused(head, fields, line):
    network = Network(FIELDS["encoder"].build(SPEC.observation_space), head)
    config = DQNConfig(**FIELDS, **fields)
    with pytest.raises(ValueError, match=rf"^the network gives {line}$") as caught:
        config.build(network, SPEC, B, Seeds(0), torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_noise_of_a_network_that_has_none_is_refused():
    network = Network(FIELDS["encoder"].build(SPEC.observation_space), QHead(8, A))
    config = DQNConfig(**FIELDS, head={"noise": 0.5})
    with pytest.raises(ValueError, match=r"^agent.head.noise=0.5: the network has no NoisyLinear; give it one or use"):
        config.build(network, SPEC, B, Seeds(0), torch.device("cpu"))


@pytest.mark.parametrize(
    ("spec", "mask", "line"),
    [
        (SPEC, np.ones(3), r"^action mask has shape \[1, 3\], but env.id=Test-v0 with Discrete\(7\) needs \[B, 7\]$"),
        (SPEC, np.ones((A, 2)), r"^action mask has shape \[7, 2\], but .* needs \[B, 7\]$"),  # the other way round
        (SPEC, np.ones((3, A)), "^action mask has 3 rows, but there are 2 observations$"),
        (SPEC, np.zeros((2, A)), "^action mask leaves an observation no legal action"),
        (
            BRANCHED,
            np.array([[1, 1, 1, 0, 0]] * 2),
            "^action mask leaves an observation no legal action.* each branch$",
        ),
        (SPEC, np.full((2, A), 2), "^action mask holds 2; allowed: 0 and 1$"),
        (BRANCHED, [[1, 1], [1, 1, 1, 1]], "^action mask is no array of numbers: "),
    ],
    ids=["shape", "transposed", "rows", "none", "branch", "number", "ragged"],
)
def test_a_mask_of_another_form_is_refused_when_predicting(spec, mask, line):
    with pytest.raises(ValueError, match=line):
        build(spec=spec).predict(np.zeros((2, F), np.float32), action_mask=mask)


def test_predict_takes_a_mask_branch_by_branch():
    agent, parts = build(spec=BRANCHED), tuple(np.eye(size, dtype=np.int8)[-1] for size in BRANCHED.branches)
    last = [size - 1 for size in BRANCHED.branches]
    assert agent.predict(np.zeros(F, np.float32), action_mask=parts).tolist() == last


def test_predict_chooses_among_what_is_legal():
    agent = build()
    constant_q(agent.network, [0, 1, 2, 3, 4, 5, 6])
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]], dtype=bool)
    assert agent.predict(np.zeros((2, F)), action_mask=mask).tolist() == [3, 1]
    assert agent.predict(np.zeros(F), action_mask=mask[0]) == 3
    greedy = {int(agent.predict(np.zeros(F), action_mask=mask[0], deterministic=False)) for _ in range(99)}
    assert greedy == {0, 1, 2, 3}
