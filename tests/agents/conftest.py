"""Experience to learn from, without an environment, and what recorded updates are held to."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from graftwork.agents import DQN
from graftwork.engine import Rollout, recorded

F, A = 3, 7  # features of an observation, actions


def random_experience(rows: int, columns: int, seed: int = 0, ends: float = 0.3) -> Rollout:
    """Episodes that end by chance in either way, each with its filler row."""
    generator = torch.Generator().manual_seed(seed)
    done = torch.rand(rows, columns, generator=generator) < ends
    filler = torch.zeros(rows + 1, columns, dtype=torch.bool)
    for t in range(rows):
        done[t] &= ~filler[t]
        filler[t + 1] = done[t]
    filler = filler[:rows]
    coin = torch.rand(rows, columns, generator=generator) < 0.5
    return Rollout(
        observation=torch.randn(rows + 1, columns, F, generator=generator),
        is_first=torch.cat((torch.ones(1, columns, dtype=torch.bool), filler)),
        action=torch.randint(A, (rows, columns), generator=generator),
        log_prob=None,
        reward=torch.randn(rows, columns, generator=generator).masked_fill(filler, 0.0),
        terminated=done & coin,
        truncated=done & ~coin,
        state=(),
    )


def rows_of(rollout: Rollout, start: int, rows: int) -> Rollout:
    """Rows of a longer rollout, so that parts follow each other without a gap."""
    steps, rows_and_one = slice(start, start + rows), slice(start, start + rows + 1)
    return Rollout(
        observation=rollout.observation[rows_and_one],
        is_first=rollout.is_first[rows_and_one],
        action=rollout.action[steps],
        log_prob=None,
        reward=rollout.reward[steps],
        terminated=rollout.terminated[steps],
        truncated=rollout.truncated[steps],
        state=(),
    )


@pytest.fixture
def experience():
    return random_experience


@pytest.fixture
def part():
    return rows_of


@pytest.fixture
def expect_recorded_like_eager(monkeypatch):
    """Of an agent made anew by `make`, after as many calls to learn: the same bits, weights and metrics, either way."""

    def expect(make: Callable[[], DQN], calls: int, rows: int, columns: int) -> None:
        learnt = []
        for eager_first in (3, float("inf")):
            monkeypatch.setattr(recorded, "_EAGER_FIRST", eager_first)
            agent, rollout, metrics = make(), random_experience(calls * rows, columns), []
            for call in range(calls):
                state = tuple(torch.full_like(each, call / calls) for each in agent.initial_state(columns))
                metrics.append(agent.learn(replace(rows_of(rollout, call * rows, rows), state=state)))
            recordings = agent._update._gradients._flat._recordings.values()
            assert all(recordings)
            assert bool(recordings) == (eager_first == 3)
            learnt.append((agent.network.state_dict(), agent.target.state_dict(), metrics))
        torch.testing.assert_close(learnt[0], learnt[1], rtol=0, atol=0)

    return expect
