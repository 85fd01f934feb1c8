from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from graftwork.agents import DQNConfig, ReinforceConfig
from graftwork.engine import Step
from graftwork.envs import EnvConfig, GymnasiumEnvs, native_envs
from graftwork.networks import LSTMConfig
from graftwork.training.evaluate import Evaluation, GreedyEvaluator, Interrupted, evaluate
from graftwork.training.seeding import Seeds


class Script(gymnasium.Env[Any, Any]):
    """Episodes whose length, 1 to 9, and reward a step follow from the seed; a large action is a reward itself."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.length, self.reward = seed % 9 + 1, seed % 1000
        self.age = 0
        return np.array([self.length, 0], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.age += 1
        ends, is_even = self.age == self.length, self.length % 2 == 0
        observation = np.array([self.length, self.age], np.float32)
        return observation, self.reward + 1000.0 * action, ends and is_even, ends and not is_even, {}


def envs(num_envs: int, seed: int = 0) -> GymnasiumEnvs:
    return GymnasiumEnvs(Script, num_envs, seed, autoreset=False)


def agent(config=None):
    seeds, spec = Seeds(0), envs(1).spec
    config = config or ReinforceConfig()
    return config.build(config.network(spec, seeds), spec, 1, seeds, torch.device("cpu"))


class Idle:
    """Always takes action 0, and remembers how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def initial_state(self, num_envs: int) -> tuple[Tensor, ...]:
        return ()

    def act(
        self,
        observation: Tensor,
        state: tuple[Tensor, ...],
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        self.calls += 1
        return Step(torch.zeros(len(observation), dtype=torch.int64), state)


def script_of(env: int, episode: int) -> tuple[float, int]:
    """Return and length of an address, under action 0."""
    one = envs(env + 1)
    observation = one.reset(episode=episode).observation
    length = int(observation[env, 0])
    reward = one.step(torch.zeros(env + 1, dtype=torch.int64)).reward[env].item()
    return length * reward, length


@pytest.mark.parametrize("episodes", [1, 2, 3, 4, 7])
def test_plays_the_first_addresses_and_no_more(episodes):
    result = evaluate(Idle(), envs(3), episodes)
    # Three environments: rounds of addresses (env 0..2, episode 0), (env 0..2, episode 1), ..
    expected = [script_of(index % 3, index // 3) for index in range(episodes)]
    assert list(zip(result.returns, result.lengths, strict=True)) == expected


def test_plays_the_same_episodes_at_each_call_whatever_went_before():
    env = envs(3)
    first = evaluate(Idle(), env, 5)
    env.reset()
    env.step(torch.zeros(3, dtype=torch.int64))
    assert evaluate(Idle(), env, 5) == first
    assert evaluate(Idle(), env, 8).returns[:5] == first.returns
    assert evaluate(Idle(), envs(3, seed=1), 5) != first


def test_waits_for_no_environment_that_it_does_not_need():
    lengths = evaluate(Idle(), envs(3), 6).lengths
    for episodes in range(1, 7):
        idle = Idle()
        evaluate(idle, envs(3), episodes)
        rounds = [lengths[start : min(start + 3, episodes)] for start in range(0, episodes, 3)]
        assert idle.calls == sum(max(round_) for round_ in rounds)


def test_leaves_no_finished_episode_behind():
    env = envs(3)
    evaluate(Idle(), env, 5)
    assert env.finished() == []


def test_stop_interrupts_before_the_next_step():
    idle, answers = Idle(), iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        evaluate(idle, envs(3), 100, stop=lambda: next(answers))
    assert idle.calls == 4


@pytest.mark.parametrize("config", [DQNConfig(), ReinforceConfig(), ReinforceConfig(encoder=LSTMConfig())])
def test_greedy_play_disturbs_neither_exploration_nor_weights(config):
    player = agent(config)
    before = {name: value.clone() for name, value in player.network.state_dict().items()}
    generator = player.state_dict()["generator"].clone()
    first = evaluate(player, envs(3), 5)
    assert evaluate(player, envs(3), 5) == first
    assert torch.equal(player.state_dict()["generator"], generator)
    torch.testing.assert_close(dict(player.network.state_dict()), before, rtol=0, atol=0)
    assert not player.network.training


def test_a_memory_begins_each_episode_anew():
    player = agent(ReinforceConfig(encoder=LSTMConfig(hidden_size=8)))
    with torch.no_grad():
        for parameter in player.network.parameters():
            parameter.normal_(0, 1, generator=torch.Generator().manual_seed(0))
    together = evaluate(player, envs(3), 6)
    for index in range(6):
        alone = envs(index % 3 + 1)
        row, state, total = alone.reset(episode=index // 3), player.initial_state(index % 3 + 1), 0.0
        for _ in range(together.lengths[index]):
            step = player.act(row.observation, state, row.is_first, explore=False)
            state, row = step.state, alone.step(step.action)
            total += row.reward[index % 3].item()
        assert total == together.returns[index]


def test_mean_and_population_deviation_by_hand():
    evaluation = Evaluation(returns=(1.0, 2.0, 6.0), lengths=(4, 5, 6))
    # Mean 3; squares 4 + 1 + 9 = 14, over 3.
    assert evaluation.mean == 3.0
    assert evaluation.std == pytest.approx((14 / 3) ** 0.5)
    assert evaluation.record() == {
        "mean": 3.0,
        "std": pytest.approx((14 / 3) ** 0.5),
        "episodes": 3,
        "returns": [1.0, 2.0, 6.0],
        "lengths": [4, 5, 6],
    }
    assert evaluation.metrics() == {"evaluation/return": 3.0, "evaluation/std": evaluation.std}
    assert str(evaluation) == "greedy return 3.0 ± 2.2"
    assert replace(evaluation, returns=(7.0,)).std == 0.0


def test_evaluator_plays_the_same_episodes_at_every_step_and_never_has_enough():
    evaluator = GreedyEvaluator(Idle(), envs(3), 5)
    assert evaluator(0, lambda: False) == evaluator(999, lambda: False) == evaluate(Idle(), envs(3), 5)
    assert not evaluator.is_over
    with pytest.raises(Interrupted):
        evaluator(0, lambda: True)


def test_evaluator_remembers_nothing():
    evaluator = GreedyEvaluator(Idle(), envs(3), 5)
    evaluator(0, lambda: False)
    assert evaluator.state_dict() == {}
    with pytest.raises(ValueError, match=r"state of evaluator: missing nothing, unexpected \['best'\]"):
        evaluator.load_state_dict({"best": {}})


def test_agents_side_by_side_play_what_each_would_alone():
    class Sides:
        """Of two agents the first takes action 0, the second action 1."""

        def initial_state(self, num_envs):
            return ()

        def act(self, observation, state, is_first, *, explore, action_mask=None):
            return Step(torch.arange(2).repeat_interleave(len(is_first) // 2), ())

    class Fixed(Idle):
        def act(self, observation, *rest, **options):
            return Step(torch.full((len(observation),), self.action), ())

    idle, other = Fixed(), Fixed()
    idle.action, other.action = 0, 1
    make = lambda seed, num_envs=3: native_envs(EnvConfig(id="graftwork/CartPole-v1"), num_envs, seed, autoreset=False)  # noqa: E731
    together = evaluate(Sides(), make((5, 8)), 7, seeds=(5, 8))
    alone = {5: evaluate(idle, make(5), 7), 8: evaluate(other, make(8), 7)}
    assert together.of_seeds == alone
    assert len(together.returns) == 14


def test_evaluation_of_seeds_by_hand():
    evaluation = Evaluation(returns=(1.0, 2.0, 6.0, 7.0), lengths=(4, 5, 6, 7), seeds=(3, 4))
    assert evaluation.of_seeds == {3: Evaluation((1.0, 2.0), (4, 5)), 4: Evaluation((6.0, 7.0), (6, 7))}
    assert str(evaluation) == "greedy return 4.0, of 2 seeds from 1.5 to 6.5"
    assert evaluation.record()["seeds"] == {"3": 1.5, "4": 6.5}
    assert evaluation.record()["mean"] == evaluation.metrics()["evaluation/return"] == 4.0
    assert evaluation.metrics()["evaluation/lowest_seed"] == 1.5
    assert evaluation.metrics()["evaluation/highest_seed"] == 6.5
