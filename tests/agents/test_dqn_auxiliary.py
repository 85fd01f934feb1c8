"""A DQN whose features have to tell the reward and the next observation too: the same class, one more loss each."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from graftwork.agents import DQN, DQNConfig
from graftwork.agents.auxiliary import AuxiliaryConfig
from graftwork.engine import Places, Rollout, Sample
from graftwork.envs import EnvSpec
from graftwork.losses import huber
from graftwork.networks import AuxiliaryHead, Heads, LSTMConfig, MLPConfig, Network, QHead, RegressionHead
from graftwork.training.seeding import Seeds

T, B, A, F, H, N, L = 4, 5, 7, 3, 6, 16, 3
SPEC = EnvSpec("Test-v0", spaces.Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
RECURRENT = {"encoder": LSTMConfig(hidden_size=H, inner=MLPConfig(hidden=(4,))), "sequence_length": 6, "burn_in": 2}
BOTH = {"reward": 0.5, "next_observation": 2.0}
FIELDS: dict[str, Any] = {
    "encoder": MLPConfig(hidden=(8,)),
    "learning_rate": 0.01,
    "adam_epsilon": 0.1,  # so large that the size of a gradient shows in Adam's first step
    "max_gradient_norm": None,
    "replay_capacity": 500,
    "learning_starts": 0,
    "batch_size": N,
    "train_period": T,
    "target_period": 1_000_000,
    "discount": 0.9,
}


def build(auxiliary: dict[str, float] | None = None, seed: int = 0, spec: EnvSpec = SPEC, **fields: Any) -> DQN:
    config, seeds = DQNConfig(**(FIELDS | fields | {"auxiliary": auxiliary or {}})), Seeds(seed)
    return config.build(config.network(spec, seeds), spec, B, seeds, torch.device("cpu"))


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def serve(agent: DQN, monkeypatch: pytest.MonkeyPatch, rollout: Rollout) -> Sample:
    """Let the agent learn from this, each column at a weight of its own, whatever its replay holds."""
    size = rollout.batch_size
    weight = torch.rand(size, generator=torch.Generator().manual_seed(3))
    discount = torch.where(rollout.terminated, 0.0, 0.9)
    sample = Sample(rollout, rollout.reward, discount, None, weight, torch.arange(size))
    monkeypatch.setattr(agent.replay, "draw", lambda batch_size, beta: Places(sample.index, (), ()))
    monkeypatch.setattr(agent.replay, "read", lambda tables, places: sample)
    monkeypatch.setattr(type(agent.replay), "__len__", lambda replay: 1)
    return sample


def stream(experience: Callable[..., Rollout], agent: DQN, rows: int = T, seed: int = 0) -> Rollout:
    return replace(experience(rows, B, seed=seed), state=agent.initial_state(B))


def linear(head: nn.Linear, features: Tensor) -> Tensor:
    return head.weight @ features + head.bias


def reference(agent: DQN, sample: Sample) -> tuple[dict[str, Tensor], float]:
    """The online weights after one update, and its loss, row by row."""
    config, rollout = agent.config, sample.rollout
    online, target = deepcopy(agent.network).train().requires_grad_(), deepcopy(agent.target)
    is_recurrent = bool(rollout.state)

    def features(network: Network[Tensor], n: int) -> list[Tensor]:
        """Of each row of a column; through those of the burn-in goes no gradient."""
        state = tuple(part[n : n + 1] for part in rollout.state)
        rows = []
        for t in range(rollout.num_rows + 1):
            first = rollout.is_first[t : t + 1, n : n + 1]
            row, state = network.encoder(
                rollout.observation[t, n].view(1, 1, F), state, first if is_recurrent else None
            )
            rows.append(row[0, 0])
            if t < config.burn_in:
                state = tuple(part.detach() for part in state)
        return rows

    total, count = torch.zeros(()), 0
    for n in range(rollout.batch_size):
        ours, theirs = features(online, n), features(target, n)
        for t in range(config.burn_in, rollout.num_rows):
            if rollout.is_first[t + 1, n]:
                continue
            action = int(rollout.action[t, n])
            successor = linear(target.head.linear, theirs[t + 1])
            best = (linear(online.head.linear, ours[t + 1]) if config.double else successor).argmax()
            bootstrap = 0.0 if rollout.terminated[t, n] else 0.9 * successor[best].item()
            error = rollout.reward[t, n] + bootstrap - linear(online.head.linear, ours[t])[action]
            loss = huber(error)
            for name, weight in config.auxiliary:
                if not weight:
                    continue
                told = linear(online.auxiliary[name].linear, ours[t]).view(A, -1)[action]
                truth = rollout.observation[t + 1, n] if name == "next_observation" else rollout.reward[t, n]
                loss = loss + weight * sum((entry**2 / 2 for entry in told - truth), torch.zeros(())) / len(told)
            total, count = total + sample.weight[n] * loss, count + 1
    loss = total / count
    loss.backward()
    torch.optim.Adam(online.parameters(), config.learning_rate.at(0), eps=config.adam_epsilon).step()
    return weights(online), loss.item()


@pytest.mark.parametrize("double", [False, True], ids=["single", "double"])
@pytest.mark.parametrize("fields", [{"sequence_length": L}, RECURRENT], ids=["mlp", "lstm"])
@pytest.mark.parametrize("auxiliary", [{"reward": 0.5}, {"next_observation": 2.0}, BOTH], ids="-".join)
def test_an_update_equals_a_plain_loop(experience, monkeypatch, auxiliary, fields, double):
    agent = build(auxiliary, **fields, double=double)
    agent.target.load_state_dict(build(auxiliary, seed=1, **fields).network.state_dict())
    rollout = experience(agent.config.sequence_length, N, seed=1)
    rollout = replace(rollout, state=tuple(torch.randn_like(part) for part in agent.initial_state(N)))
    learnt = slice(agent.config.burn_in, None)
    assert all(kind[learnt].any() for kind in (rollout.terminated, rollout.truncated, ~rollout.valid))
    sample = serve(agent, monkeypatch, rollout)
    expected, loss = reference(agent, sample)
    before = weights(agent.network)
    metrics = agent.learn(stream(experience, agent))
    torch.testing.assert_close(weights(agent.network), expected, rtol=0, atol=2e-6)
    assert metrics["loss"].item() == pytest.approx(loss, abs=1e-5)
    assert all((before[name] - expected[name]).abs().max() > 1e-4 for name in before)
    assert {name for name in metrics if name.endswith("_loss")} == {f"{name}_loss" for name in auxiliary}


def test_a_loss_worked_out_by_hand(experience, monkeypatch):
    agent = build(BOTH, double=False, batch_size=1)
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.zero_()
        agent.network.auxiliary["reward"].linear.bias[4] = 3.0
        agent.network.auxiliary["next_observation"].linear.bias.view(A, F)[4] = torch.tensor([1.0, 2.0, 5.0])
    rollout = replace(
        experience(1, 1, ends=0.0),
        observation=torch.tensor([[[9.0, 9.0, 9.0]], [[1.0, 1.0, 1.0]]]),
        action=torch.tensor([[4]]),
        reward=torch.tensor([[1.0]]),
        terminated=torch.tensor([[True]]),
    )
    weight = serve(agent, monkeypatch, rollout).weight.item()
    metrics = agent.learn(stream(experience, agent))
    # Reward: (3 - 1)^2 / 2 = 2. Next observation: (0 + 1 + 16) / 2 / 3 entries = 17 / 6. TD: 1 - 0, so 1 / 2.
    assert metrics["reward_loss"].item() == pytest.approx(weight * 2)
    assert metrics["next_observation_loss"].item() == pytest.approx(weight * 17 / 6)
    assert metrics["loss"].item() == pytest.approx(weight * (0.5 + 0.5 * 2 + 2.0 * 17 / 6))


@pytest.mark.parametrize("fields", [{"sequence_length": L}, RECURRENT], ids=["mlp", "lstm"])
def test_rows_after_an_end_are_no_part_of_what_is_told(experience, monkeypatch, fields):
    learnt = []
    for poison in (0.0, 1e6):
        agent = build(BOTH, **fields)
        rollout = experience(agent.config.sequence_length, N, seed=1)
        # What follows an ended episode's final observation is another's first.
        observation = rollout.observation.clone()
        last = observation[-1] + poison * rollout.is_first[-1].unsqueeze(-1)
        observation = torch.cat((observation[:-1], last.unsqueeze(0)))
        reward = rollout.reward + poison * ~rollout.valid
        assert rollout.is_first[-1].any()
        serve(
            agent, monkeypatch, replace(rollout, observation=observation, reward=reward, state=agent.initial_state(N))
        )
        agent.learn(stream(experience, agent))
        learnt.append(weights(agent.network))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


def test_the_final_observation_of_a_truncated_and_of_a_terminated_episode_is_told(experience, monkeypatch):
    for end in ("terminated", "truncated"):
        agent = build({"next_observation": 1.0}, batch_size=1)
        rollout = experience(1, 1, ends=0.0)
        rollout = replace(rollout, **{end: torch.ones(1, 1, dtype=torch.bool)})
        serve(agent, monkeypatch, rollout)
        assert agent.learn(stream(experience, agent))["next_observation_loss"] > 0


def test_bytes_are_told_as_shares_of_255(monkeypatch):
    spec = replace(SPEC, observation_space=spaces.Box(0, 255, (2, 3), np.uint8))
    agent = build({"next_observation": 1.0}, spec=spec, batch_size=1, encoder=MLPConfig(hidden=(4,)))
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.zero_()
    false, zero = torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, 1)
    rollout = Rollout(
        observation=torch.tensor([0, 51], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 2, 3).contiguous(),
        is_first=torch.tensor([[True], [False]]),
        action=torch.zeros(1, 1, dtype=torch.int64),
        log_prob=None,
        reward=zero,
        terminated=false,
        truncated=false,
        state=(),
    )
    weight = serve(agent, monkeypatch, rollout).weight.item()
    monkeypatch.setattr(agent.replay, "add", lambda rollout: None)
    # Each of the six entries should be 51 / 255 = 0.2, and is told as 0.
    assert agent.learn(rollout)["next_observation_loss"].item() == pytest.approx(weight * 0.02)


def test_bools_are_told_as_0_and_1():
    rollout = Rollout(
        observation=torch.tensor([[[True, True]], [[False, True]], [[True, False]]]),
        is_first=torch.zeros(3, 1, dtype=torch.bool),
        action=torch.zeros(2, 1, dtype=torch.int64),
        log_prob=None,
        reward=torch.zeros(2, 1),
        terminated=torch.zeros(2, 1, dtype=torch.bool),
        truncated=torch.zeros(2, 1, dtype=torch.bool),
        state=(),
    )
    (target,) = AuxiliaryConfig(next_observation=1.0).targets(rollout)
    assert (target.dtype, target.tolist()) == (torch.float32, [[[0, 1]], [[1, 0]]])


def test_an_observation_of_one_number_is_told():
    number = EnvSpec("Test-v0", spaces.Box(-1, 1, ()), A, 0, f"Discrete({A})")
    agent = build({"next_observation": 1.0}, spec=number)
    rollout = Rollout(
        observation=torch.tensor([[0.5, 0.25]] * 2 + [[-0.5, 1.0]]),
        is_first=torch.zeros(3, 2, dtype=torch.bool),
        action=torch.zeros(2, 2, dtype=torch.int64),
        log_prob=None,
        reward=torch.zeros(2, 2),
        terminated=torch.zeros(2, 2, dtype=torch.bool),
        truncated=torch.zeros(2, 2, dtype=torch.bool),
        state=(),
    )
    (told,) = agent.config.auxiliary.targets(rollout)
    assert told.tolist() == [[[0.5], [0.25]], [[-0.5], [1.0]]]


def test_acting_asks_no_auxiliary_head(experience, monkeypatch):
    agent = build(BOTH)

    def asked(self: AuxiliaryHead, features: Tensor) -> Tensor:
        raise AssertionError

    monkeypatch.setattr(AuxiliaryHead, "forward", asked)
    observation, is_first = torch.randn(B, F), torch.ones(B, dtype=torch.bool)
    agent.act(observation, (), is_first, explore=True)
    agent.predict(np.zeros(F, dtype=np.float32))
    with pytest.raises(AssertionError):
        agent.learn(stream(experience, agent))


def test_the_values_begin_as_they_do_without_auxiliary_heads():
    plain, taught = build().network.state_dict(), build(BOTH).network.state_dict()
    assert {name.split(".")[0] for name in taught.keys() - plain.keys()} == {"auxiliary"}
    assert all(torch.equal(plain[name], taught[name]) for name in plain)


def test_weights_of_zero_leave_no_trace(experience, part):
    learnt = []
    for auxiliary in (None, {"reward": 0.0, "next_observation": 0.0}):
        agent = build(auxiliary, updates=2)
        rollout = experience(6 * T, B)
        metrics = [agent.learn(part(rollout, call * T, T)) for call in range(6)]
        assert isinstance(agent, DQN)
        assert agent.network.auxiliary is None
        learnt.append((agent.state_dict()["network"], agent.state_dict()["optimizer"], metrics))
    torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    "fields",
    [{}, {"double": False, "sequence_length": 2}, {"target_rate": 0.1, "max_gradient_norm": 0.5}, RECURRENT],
    ids=["mlp", "squared", "soft-target", "lstm"],
)
def test_recorded_updates_come_to_the_bits_of_eager_ones(expect_recorded_like_eager, fields):
    expect_recorded_like_eager(lambda: build(BOTH, **fields, updates=2), 20, T, B)


@pytest.mark.parametrize("target_rate", [1.0, 0.25], ids=["hard", "soft"])
def test_layers_are_told_of_whatever_the_number_of_updates(experience, target_rate):
    agent = build(BOTH, updates=3, target_rate=target_rate)
    agent.examine(True)
    first, second = (agent.learn(stream(experience, agent, seed=seed)) for seed in (0, 1))
    assert {name for name in first if "/" in name} >= {"activation_mean/encoder.layers.0"}
    assert not any("/" in name for name in second)
    assert first.keys() >= second.keys()


def test_auxiliary_heads_reach_the_checkpoint_and_the_target(experience):
    agent = build(BOTH, target_period=1)
    agent.learn(stream(experience, agent))
    again = build(BOTH, seed=1)
    again.load_state_dict(agent.state_dict())
    torch.testing.assert_close(weights(again.network), weights(agent.network), rtol=0, atol=0)
    torch.testing.assert_close(weights(again.target), weights(agent.target), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"^state of network: missing nothing, unexpected .*auxiliary"):
        build().load_state_dict(agent.state_dict())


def test_features_learn_to_tell_the_reward_of_the_action_taken(experience, part):
    agent = build({"reward": 1.0}, learning_rate=0.02, max_gradient_norm=10.0, batch_size=64, updates=10)
    rollout = experience(40 * T, B)
    rollout = replace(rollout, reward=(rollout.action == 3).float() * rollout.observation[:-1, ..., 0])
    losses = [agent.learn(part(rollout, call * T, T))["reward_loss"].item() for call in range(40)]
    assert sum(losses[-5:]) < sum(losses[:5]) / 5


# What cannot be told.


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(5), spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), spaces.MultiBinary(3)],
    ids=["discrete", "dict", "bits"],
)
def test_next_observations_of_another_space_are_refused(space):
    spec = replace(SPEC, observation_space=space)
    with pytest.raises(ValueError, match=r"^agent\.auxiliary\.next_observation: Test-v0 observes .*; allowed: a Box$"):
        build({"next_observation": 1.0}, spec=spec, encoder={"kind": "auto"})
    assert build({"reward": 1.0}, spec=spec, encoder={"kind": "auto"}).network.auxiliary is not None


@pytest.mark.parametrize("auxiliary", [{"reward": -1.0}, {"reward": float("nan")}, {"rewards": 1.0}])
def test_weights_are_checked(auxiliary):
    with pytest.raises(ValueError, match=next(iter(auxiliary))):
        DQNConfig(auxiliary=auxiliary)


def own(auxiliary: Heads[Tensor] | None) -> Network[Tensor]:
    return Network(MLPConfig(hidden=(8,)).build(SPEC.observation_space), QHead(8, A), auxiliary)


@pytest.mark.parametrize(
    "auxiliary",
    [
        None,
        Heads({"price": AuxiliaryHead(8, A)}),
        Heads({"reward": RegressionHead(8)}),
        Heads({"reward": AuxiliaryHead(8, 2)}),
        Heads({"reward": AuxiliaryHead(8, A, (2,))}),
    ],
    ids=["none", "another", "regression", "actions", "shape"],
)
def test_a_network_of_ones_own_must_have_the_heads(auxiliary):
    config = DQNConfig(**FIELDS, auxiliary={"reward": 1.0})
    line = r"^agent\.auxiliary\.reward: the network must have an AuxiliaryHead .* of 7 actions and shape \[\]$"
    with pytest.raises(ValueError, match=line):
        config.build(own(auxiliary), SPEC, B, Seeds(0), torch.device("cpu"))


def test_a_network_of_ones_own_with_the_heads_is_taken(experience):
    config = DQNConfig(**FIELDS, auxiliary={"reward": 1.0})
    agent = config.build(own(Heads({"reward": AuxiliaryHead(8, A)})), SPEC, B, Seeds(0), torch.device("cpu"))
    assert "reward_loss" in agent.learn(stream(experience, agent))
