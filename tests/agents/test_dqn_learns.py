"""DQN against the values that value iteration finds."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from graftwork.agents import DQN, DQNConfig
from graftwork.engine import Collector
from graftwork.envs import EnvSpec, EnvStep, Episode
from graftwork.networks import LSTMConfig, MLPConfig
from graftwork.training.schedules import Linear
from graftwork.training.seeding import Seeds

DISCOUNT = 0.9


class Table:
    """B copies of a deterministic Markov decision process given as tables, begun at random and cut off at a limit."""

    def __init__(
        self, successor: Tensor, reward: Tensor, observation: Tensor, starts: Tensor, limit: int, num_envs: int
    ) -> None:
        """successor [S, A] int64, -1 for the end; reward [S, A]; observation [S, F]."""
        self.successor, self.reward, self.observation, self.starts = successor, reward, observation, starts
        num_actions = successor.shape[1]
        space = Box(-np.inf, np.inf, observation.shape[1:])
        self.spec = EnvSpec("Table", space, num_actions, 0, f"Discrete({num_actions})")
        self.num_envs, self.limit = num_envs, limit
        self.generator = torch.Generator().manual_seed(0)

    def values(self) -> Tensor:
        """Optimal action values [S, A] by value iteration."""
        q = torch.zeros_like(self.reward)
        for _ in range(500):
            q = self.reward + DISCOUNT * torch.where(self.successor < 0, 0.0, q.amax(1)[self.successor])
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
        # Of an end the observation matters to no value: any will do.
        self.state = torch.where(is_first, self.begin(), successor.clamp(min=0))
        self.done = terminated | truncated
        return EnvStep(self.observation[self.state], reward, terminated, truncated, is_first)

    def begin(self) -> Tensor:
        return self.starts[torch.randint(len(self.starts), (self.num_envs,), generator=self.generator)]

    def finished(self) -> list[Episode]:
        return []


def train(env: Table, rollouts: int, config: DQNConfig) -> DQN:
    seeds = Seeds(0)
    agent = config.build(config.network(env.spec, seeds), env.spec, env.num_envs, seeds, torch.device("cpu"))
    collector = Collector(env, agent, agent.rollout_rows)
    for _ in range(rollouts):
        agent.learn(collector.next())
    return agent


def chain(num_envs: int) -> Table:
    """Five states in a row: a reward of 1 for leaving at the right, of 0.1 for each step against the left wall."""
    left, right = torch.tensor([0, 0, 1, 2, 3]), torch.tensor([1, 2, 3, 4, -1])
    reward = torch.zeros(5, 2)
    reward[0, 0], reward[4, 1] = 0.1, 1.0
    return Table(torch.stack((left, right), 1), reward, torch.eye(5), torch.arange(5), limit=6, num_envs=num_envs)


@pytest.mark.parametrize("double", [False, True])
def test_an_mlp_learns_the_values_of_a_chain_that_is_cut_off_too_early(double):
    env = chain(num_envs=4)
    # The wall is worth 0.1 / (1 - 0.9) = 1 for ever; within the limit of 6 steps it would be worth 0.47 at most.
    expected = env.values()
    assert expected[0, 0].item() == pytest.approx(1.0)
    config = DQNConfig(
        encoder=MLPConfig(hidden=(32,)),
        discount=DISCOUNT,
        learning_rate=Linear(start=1e-2, end=0, steps=1_600),
        epsilon=1.0,
        learning_starts=200,
        batch_size=64,
        train_period=4,
        updates=6,
        target_period=1,
        double=double,
    )
    agent = train(env, 120, config)
    with torch.no_grad():
        learnt = agent.network(torch.eye(5).unsqueeze(0))[0][0]
    # The largest error was at most 0.008 on 4 seeds.
    torch.testing.assert_close(learnt, expected, rtol=0, atol=0.03)


def cued(num_envs: int) -> Table:
    """Three steps; the first observation says which action the last one rewards with 1 (the other with -1)."""
    cue, position = torch.arange(6) // 3, torch.arange(6) % 3
    successor = torch.where(position == 2, -1, torch.arange(6) + 1)
    right = torch.nn.functional.one_hot(cue, 2) * 2.0 - 1
    observation = torch.stack(((position == 0) * (2.0 * cue - 1), (position == 2).float()), 1)
    return Table(
        torch.stack((successor, successor), 1),
        right * (position == 2).unsqueeze(1),
        observation,
        starts=torch.tensor([0, 3]),
        limit=100,
        num_envs=num_envs,
    )


def values_along(agent: DQN, env: Table) -> Tensor:
    """[S, A] of the states in the order that both cues lead through them."""
    with torch.no_grad():
        q, _ = agent.network(env.observation.view(2, 3, -1).transpose(0, 1))
    return q.transpose(0, 1).reshape(6, 2)


def cued_config(**fields) -> DQNConfig:
    return DQNConfig(
        discount=DISCOUNT,
        learning_rate=Linear(start=1e-2, end=0, steps=3_200),
        epsilon=1.0,
        learning_starts=300,
        batch_size=32,
        train_period=5,
        updates=6,
        target_period=40,
        **fields,
    )


def test_an_lstm_learns_the_values_that_only_a_memory_can_know():
    env = cued(num_envs=8)
    encoder = LSTMConfig(hidden_size=16, inner=MLPConfig(hidden=(16,)))
    agent = train(env, 100, cued_config(encoder=encoder, sequence_length=8, burn_in=2))
    # The largest error was at most 0.001 on 4 seeds.
    torch.testing.assert_close(values_along(agent, env), env.values(), rtol=0, atol=0.03)


def test_an_mlp_does_not_know_what_it_saw_before():
    env = cued(num_envs=8)
    agent = train(env, 100, cued_config(encoder=MLPConfig(hidden=(16, 16))))
    at_the_choice = values_along(agent, env)[[2, 5]]
    torch.testing.assert_close(at_the_choice, torch.zeros(2, 2), rtol=0, atol=0.3)
