"""DQN with a stack of networks: each learns as it would alone, and from nobody else's experience."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from graftwork.agents import DQN, DQNConfig
from graftwork.engine import Places, Rollout, Sample, recorded
from graftwork.envs import EnvSpec
from graftwork.networks import MLPConfig, StackedNetwork
from graftwork.training.seeding import Seeds

S, T, B, A, F, N = 3, 4, 5, 7, 3, 16
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (F,)), A, 0, f"Discrete({A})")
FIELDS: dict[str, Any] = {
    "encoder": MLPConfig(hidden=(8,)),
    "learning_rate": 0.01,
    "adam_epsilon": 0.1,
    "max_gradient_norm": 0.05,  # which clips all
    "replay_capacity": 500,
    "learning_starts": 0,
    "batch_size": N,
    "train_period": T,
    "target_period": 1_000_000,
}
SWITCHES: dict[str, dict[str, Any]] = {
    "plain": {"double": False},
    "double": {},
    "unclipped": {"max_gradient_norm": None},
    "dueling": {"head": {"dueling": True, "hidden": 8}},
    "categorical": {"value": {"kind": "categorical", "num_atoms": 11}},
    "quantile": {"value": {"kind": "quantile", "num_quantiles": 6}},
    "n_step": {"n_step": 3},
    "munchausen": {"munchausen": {}},
    "soft target": {"target_rate": 0.01},
    "updates": {"updates": 3},
}


def config(**given: Any) -> DQNConfig:
    return DQNConfig.model_validate(FIELDS | given)


def stack(**given: Any) -> DQN:
    """Of seeds 0 to 2."""
    made, device = config(**given), torch.device("cpu")
    network = StackedNetwork([made.network(SPEC, Seeds(s)) for s in range(S)])
    return made.build(network, SPEC, S * B, Seeds(0), device)


def alone(seed: int, **given: Any) -> DQN:
    made, seeds = config(**given), Seeds(seed)
    return made.build(made.network(SPEC, seeds), SPEC, B, seeds, torch.device("cpu"))


def columns(tensor: Tensor, s: int, axis: int = 1) -> Tensor:
    return tensor.chunk(S, axis)[s]


def of_seed(rollout: Rollout, s: int) -> Rollout:
    names = (field.name for field in fields(rollout) if isinstance(getattr(rollout, field.name), Tensor))
    return replace(rollout, **{name: columns(getattr(rollout, name), s) for name in names})


def sample_of_seed(sample: Sample, s: int) -> Sample:
    reward, discount = columns(sample.reward, s), columns(sample.discount, s)
    return Sample(
        of_seed(sample.rollout, s), reward, discount, None, columns(sample.weight, s, 0), columns(sample.index, s, 0)
    )


def assert_like(together: DQN, each: list[DQN]) -> None:
    for s, agent in enumerate(each):
        for stacked, own in ((together.network, agent.network), (together.target, agent.target)):
            ours, theirs = stacked.unstacked(s).state_dict(), own.state_dict()
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def serve(agent: DQN, monkeypatch: pytest.MonkeyPatch, samples: Iterator[Sample]) -> None:
    """Let the agent learn from these, whatever its replay holds."""
    drawn: list[Sample] = []

    def draw(batch_size: int, beta: float) -> Places:
        drawn.append(joined(samples, batch_size))
        return Places(drawn[-1].index, (), ())

    monkeypatch.setattr(agent.replay, "draw", draw)
    monkeypatch.setattr(agent.replay, "read", lambda tables, places: drawn[-1])
    # Prepared before anything is recorded, for a recording would take what is read for given.
    monkeypatch.setattr(agent, "_drawn", lambda places: agent._prepare(agent.target, DQN._drawn(agent, places)))
    monkeypatch.setattr(agent, "_prepared", lambda batch: batch)


def assert_updates_alike(monkeypatch: pytest.MonkeyPatch, experience: Any, given: dict[str, Any], calls: int) -> None:
    """Train a stack and its members on the same batches, that the stack's replay drew."""
    together, each = stack(**given), [alone(s, **given) for s in range(S)]
    assert_like(together, each)  # initial weights are bit for bit those of single runs, see test_seeds
    whole = experience(T * calls, S * B)
    drawn: list[Sample] = []
    draw = together.replay.draw

    def noted(batch_size: int, beta: float) -> Places:
        places = draw(batch_size, beta)
        drawn.append(together.replay.read(together.replay.tables, places))
        return places

    monkeypatch.setattr(together.replay, "draw", noted)
    for call in range(calls):
        part = part_of(whole, call)
        drawn.clear()
        told = together.learn(part)
        of_each = []
        for s, agent in enumerate(each):
            served = iter([sample_of_seed(sample, s) for sample in drawn])
            serve(agent, monkeypatch, served)
            of_each.append(agent.learn(of_seed(part, s)))
        for name in told:
            expected = torch.stack([each[name] for each in of_each]).mean()
            torch.testing.assert_close(told[name], expected, rtol=1e-4, atol=1e-5)
    assert_like(together, each)
    assert (together.network.unstacked(0).head.state_dict().keys()) == each[0].network.head.state_dict().keys()


def joined(served: Any, size: int) -> Sample:
    """As many of the samples as one draw for all updates asks for."""
    parts = [next(served) for _ in range(size // N)]
    if len(parts) == 1:
        return parts[0]
    first = parts[0].rollout
    names = [field.name for field in fields(first) if isinstance(getattr(first, field.name), Tensor)]
    rollout = replace(first, **{name: torch.cat([getattr(p.rollout, name) for p in parts], 1) for name in names})
    reward, discount = (torch.cat([getattr(part, name) for part in parts], 1) for name in ("reward", "discount"))
    weight, index = (torch.cat([getattr(part, name) for part in parts]) for name in ("weight", "index"))
    return Sample(rollout, reward, discount, None, weight, index)


def part_of(rollout: Rollout, call: int) -> Rollout:
    rows, more = slice(call * T, (call + 1) * T), slice(call * T, (call + 1) * T + 1)
    names = ("action", "reward", "terminated", "truncated")
    return replace(
        rollout,
        observation=rollout.observation[more],
        is_first=rollout.is_first[more],
        **{name: getattr(rollout, name)[rows] for name in names},
    )


@pytest.mark.parametrize("switch", SWITCHES)
def test_each_seed_is_updated_as_it_would_be_alone(monkeypatch: Any, experience: Any, switch: str) -> None:
    assert_updates_alike(monkeypatch, experience, SWITCHES[switch], 4)


def test_recorded_updates_are_those_too(monkeypatch: Any, experience: Any) -> None:
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 2)
    assert_updates_alike(monkeypatch, experience, {}, 6)


@pytest.mark.parametrize("first", [2, 10**9], ids=["recorded", "eager"])
def test_what_one_seed_goes_through_leaves_the_others_as_they_are(
    monkeypatch: Any, experience: Any, first: int
) -> None:
    monkeypatch.setattr(recorded, "_EAGER_FIRST", first)
    whole = experience(6 * T, S * B)
    reward = whole.reward.clone()
    reward[:, B : 2 * B] *= 3
    after = []
    for each in (whole, replace(whole, reward=reward)):
        agent = stack()
        for call in range(6):
            agent.learn(part_of(each, call))
        after.append([agent.network.unstacked(s).state_dict() for s in range(S)])
    for s in range(S):
        pairs = [(after[0][s][name], after[1][s][name]) for name in after[0][s]]
        assert all(torch.equal(*pair) == (s != 1) for pair in pairs)


def test_each_seed_acts_by_its_own_network() -> None:
    together, generator = stack(), torch.Generator().manual_seed(1)
    observation, is_first = torch.randn(S * B, F, generator=generator), torch.zeros(S * B, dtype=torch.bool)
    action = together.act(observation, (), is_first, explore=False).action
    for s in range(S):
        own = alone(s).act(columns(observation, s, 0), (), is_first[:B], explore=False).action
        assert torch.equal(columns(action, s, 0), own)


def test_steps_are_the_mean_of_the_seeds_and_nothing_is_lost(experience: Any) -> None:
    together, total = stack(), 0
    for seed in range(5):
        rollout = experience(T, S * B, seed)
        together.learn(rollout)
        total += int(rollout.valid.sum())
        assert together.step == total // S
    assert total % S
    other = stack()
    other.load_state_dict(together.state_dict())
    assert (other.step, other.state_dict()["step"]) == (total // S, total)


def test_exploration_goes_by_the_steps_of_one_seed() -> None:
    # Epsilon is 1 up to step 40 of each, and 0 from then on: rows of 5 steps, 4 rows a rollout.
    epsilon = {"kind": "step", "start": 1.0, "factor": 1e-9, "steps": 40}
    together = stack(epsilon=epsilon, learning_starts=10**6, replay_capacity=10**6)
    is_first = torch.zeros(S * B, dtype=torch.bool)
    observation = torch.randn(S * B, F, generator=torch.Generator().manual_seed(1))
    greedy = together.act(observation, (), is_first, explore=False).action
    kept = [torch.equal(together.act(observation, (), is_first, explore=True).action, greedy) for _ in range(12)]
    assert kept == [False] * 8 + [True] * 4


def test_many_agents_at_once_do_not_play_as_one() -> None:
    with pytest.raises(ValueError, match=r"these are 3 agents at once: load one of them, gw.load\(run, seed=...\)"):
        stack().predict(np.zeros(F, np.float32))
