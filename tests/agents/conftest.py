"""Experience to learn from, without an environment."""

import pytest
import torch

from graftwork.engine import Rollout

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
