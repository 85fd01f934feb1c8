"""A replay in groups: each group of environments is drawn from apart, its transitions uniformly."""

from collections import Counter

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from graftwork.engine import ReplayBuffer, Rollout, Window
from graftwork.envs import EnvSpec

G, B, T, ROWS = 3, 2, 4, 10  # groups, environments of each, rows of a rollout, rows that are kept
SPEC = EnvSpec("Test-v0", Box(-np.inf, np.inf, (2,)), 5, 0, "Discrete(5)")


def buffer(seed: int = 0, n_step: int = 1) -> ReplayBuffer:
    generator = torch.Generator().manual_seed(seed)
    return ReplayBuffer(ROWS * B, G * B, SPEC, generator, window=Window(n_step=n_step, discount=0.5), groups=G)


def rollouts(count: int) -> list[Rollout]:
    """Observations are (row, environment); half the rows of the second group are fillers, and few of the others'."""
    generator = torch.Generator().manual_seed(1)
    total = count * T
    share = torch.tensor([0.1, 0.5, 0.0]).repeat_interleave(B)
    is_first = torch.rand(total + 1, G * B, generator=generator) < share
    is_first[0] = True
    row, env = torch.meshgrid(torch.arange(total + 1.0), torch.arange(G * B * 1.0), indexing="ij")
    nothing = torch.zeros(total, G * B, dtype=torch.bool)
    ends = is_first.roll(-2, 0)[:total] & ~is_first[1:]
    made = []
    for start in range(0, total, T):
        rows, more = slice(start, start + T), slice(start, start + T + 1)
        made.append(
            Rollout(
                observation=torch.stack((row, env), -1)[more],
                is_first=is_first[more],
                action=torch.zeros(T, G * B, dtype=torch.int64),
                log_prob=None,
                reward=(row * 100 + env)[rows],
                terminated=ends[rows],
                truncated=nothing[rows],
                state=(),
            )
        )
    return made


def transitions(parts: list[Rollout]) -> set[tuple[int, int]]:
    """(row, environment) of those in the newest rows."""
    valid = torch.cat([part.valid for part in parts])
    first = max(len(valid) - ROWS, 0)
    return {(row, env) for row, env in valid.nonzero().tolist() if row >= first}


def drawn(replay: ReplayBuffer, per_group: int) -> Tensor:
    """(row, environment) of each column."""
    return replay.sample(G * per_group).rollout.observation[0].long()


def test_groups_follow_each_other_and_each_is_drawn_uniformly() -> None:
    replay, parts = buffer(), rollouts(7)
    for count, part in enumerate(parts, 1):
        replay.add(part)
        there = transitions(parts[:count])
        columns, size = drawn(replay, 4_000), 4_000
        for group in range(G):
            own = {(row, env) for row, env in there if env // B == group}
            found = Counter(map(tuple, columns[group * size : (group + 1) * size].tolist()))
            assert found.keys() == own
            # Six standard deviations of a binomial count, which none of some 300 should pass.
            expected = size / len(own)
            assert max(abs(number - expected) for number in found.values()) < 6 * expected**0.5
        assert len(replay) == min(sum(env // B == group for _, env in there) for group in range(G))


@pytest.mark.parametrize("n_step", [1, 3])
def test_rewards_and_successors_are_those_of_the_place(n_step: int) -> None:
    replay, parts = buffer(n_step=n_step), rollouts(5)
    for part in parts:
        replay.add(part)
    rewards, ends = (torch.cat([getattr(part, name) for part in parts]) for name in ("reward", "terminated"))
    valid = torch.cat([part.valid for part in parts])
    sample = replay.sample(G * 30)
    for column in range(G * 30):
        row, env = sample.rollout.observation[0, column].long().tolist()
        expected, count = 0.0, 0
        while count < n_step and row + count < len(rewards):
            expected += 0.5**count * rewards[row + count, env].item()
            count += 1
            last = row + count - 1
            if ends[last, env] or not (row + count < len(valid) and valid[row + count, env]):
                break
        assert sample.reward[0, column].item() == pytest.approx(expected)
        assert sample.rollout.observation[1, column].tolist() == [row + count, env]


def test_a_restored_replay_draws_what_the_other_would() -> None:
    parts = rollouts(9)
    for cut in (1, 4, 6):
        replay, restored = buffer(), buffer(seed=9)
        for part in parts[:cut]:
            replay.add(part)
            replay.sample(6)
        restored.load_state_dict(replay.state_dict())
        for part in parts[cut:]:
            assert torch.equal(drawn(replay, 20), drawn(restored, 20))
            for each in (replay, restored):
                each.add(part)
        assert torch.equal(drawn(replay, 20), drawn(restored, 20))


def test_capacity_is_of_each_group_and_its_memory_is_told() -> None:
    replay = buffer()
    assert (replay.num_rows, replay.num_envs) == (ROWS, G * B)
    alone = ReplayBuffer(ROWS * B * G, G * B, SPEC, torch.Generator())
    # Uniform draws keep twice as many numbers of 8 bytes as there can be transitions; groups keep them once, and a
    # number each more.
    assert replay.nbytes == alone.nbytes - 8 * ROWS * G * B + 8 * G


def test_nothing_is_drawn_before_every_group_has_something() -> None:
    part = rollouts(1)[0]
    part.is_first[1:, 2 * B :] = True
    replay = buffer()
    replay.add(part)
    assert len(replay) == 0
    with pytest.raises(ValueError, match="replay: nothing to draw from yet"):
        replay.sample(6)


def test_there_are_no_priorities_to_set() -> None:
    replay = buffer()
    replay.add(rollouts(1)[0])
    with pytest.raises(ValueError, match="replay: it draws uniformly and has no priorities to set"):
        replay.prioritise(torch.zeros(1, dtype=torch.int64), torch.ones(1))
