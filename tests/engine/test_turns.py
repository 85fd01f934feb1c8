"""Acting and stepping as one function comes to what they come to apart."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from graftwork.agents import DQNConfig, PQNConfig, ReinforceConfig
from graftwork.agents.action_values import HeadConfig
from graftwork.engine import Agent, Apart, Collector, Rollout, Together, recorded
from graftwork.envs import NativeEnvs
from graftwork.envs.native import GAMES
from graftwork.networks import LSTMConfig, MLPConfig
from graftwork.training.seeding import Seeds

NET = MLPConfig(hidden=(12,))
MEMORY = LSTMConfig(hidden_size=5, inner=NET)
AGENTS: dict[str, Any] = {
    "dqn": DQNConfig(encoder=NET, train_period=5, replay_capacity=2_000),
    "noisy dqn": DQNConfig(encoder=NET, train_period=5, head=HeadConfig(noise=0.5), replay_capacity=2_000),
    "pqn": PQNConfig(encoder=NET, rollout_rows=7),
    "pqn with a memory": PQNConfig(encoder=MEMORY, rollout_rows=7),
    "reinforce": ReinforceConfig(encoder=NET),
    "reinforce with a memory": ReinforceConfig(encoder=MEMORY),
}
B = 130  # of whole episodes, so many that acting is narrowed twice


def made(config: Any, game: str) -> tuple[Agent, NativeEnvs]:
    seeds, episodes = Seeds(3), config.rollout_rows is None
    envs = NativeEnvs(GAMES[game](), B if episodes else 6, 3, autoreset=not episodes, max_episode_steps=60)
    return config.build(config.network(envs.spec, seeds), envs.spec, envs.num_envs, seeds, torch.device("cpu")), envs


def fields(rollout: Rollout) -> list[Tensor]:
    assert isinstance(rollout.observation, Tensor)
    found = [rollout.observation, rollout.is_first, rollout.action, rollout.reward, rollout.terminated]
    more = [rollout.truncated, *rollout.state]
    return [*found, *more] if rollout.log_prob is None else [*found, *more, rollout.log_prob]


CARTPOLE, BREAKOUT = "graftwork/CartPole-v1", "graftwork/MinAtarBreakout-v1"
CASES = [*((name, CARTPOLE) for name in AGENTS), *((name, BREAKOUT) for name in AGENTS if "memory" not in name)]


@pytest.mark.parametrize("eager_first", [10_000, 3])
@pytest.mark.parametrize(("name", "game"), CASES)
def test_together_is_apart(name, game, eager_first, monkeypatch):
    monkeypatch.setattr(recorded, "_EAGER_FIRST", eager_first)
    agent, envs = made(AGENTS[name], game)
    other, other_envs = deepcopy(agent), deepcopy(envs)
    apart = Collector(envs, agent, agent.rollout_rows, turns=Apart(envs, agent))
    together = Collector(other_envs, other, other.rollout_rows, turns=Together(other_envs, other))
    for _ in range(4 if agent.rollout_rows is None else 12):
        ours, theirs = fields(together.next()), fields(apart.next())
        assert len(ours) == len(theirs)
        assert all(map(torch.equal, ours, theirs))
        assert together.finished() == apart.finished()
    assert together.num_steps == apart.num_steps
    states = together.state_dict(), apart.state_dict()
    assert all(torch.equal(states[0]["env"][key], states[1]["env"][key]) for key in states[1]["env"])


def test_what_is_recorded_follows_the_weights(monkeypatch):
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 3)
    agent, envs = made(ReinforceConfig(encoder=NET), CARTPOLE)
    turns = Together(envs, agent)
    collector = Collector(envs, agent, None, turns=turns)
    collector.next()
    with torch.no_grad():
        for parameter in agent.network.parameters():
            parameter.zero_()
    log_prob = collector.next().log_prob
    assert log_prob is not None
    assert log_prob[0].tolist() == pytest.approx([-0.6931472] * B)
