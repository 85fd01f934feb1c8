"""MinAtar's Breakout against the package's, step by step."""

from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.envs import EnvConfig, env_maker
from graftwork.envs.native import NativeEnvs, make_game
from graftwork.envs.native.draws import chance

# Looked for rather than imported, which would first import what draws it.
pytestmark = pytest.mark.skipif(find_spec("minatar") is None, reason="needs the extra minatar")

ID = "graftwork/MinAtarBreakout-v1"
NOOP, LEFT, RIGHT = range(3)
PACKAGE_ACTIONS = (0, 1, 3)  # of the minimal set


class Package:
    """The package's game, set to a state of ours."""

    def __init__(self) -> None:
        env: Any = env_maker(EnvConfig(id="MinAtar/Breakout-v1"))()
        self.game = env.unwrapped._game

    def step(self, state: Tensor, action: int) -> tuple[np.ndarray, float, bool]:
        """Observation, reward and termination."""
        bricks, x, y, dx, dy, last_x, last_y, struck, paddle, _ = state.tolist()
        game = self.game
        game.brick_map = np.array(
            [[bricks >> row * 10 + column & 1 if row < 4 else 0 for column in range(10)] for row in range(10)]
        )
        game.ball_x, game.ball_y, game.last_x, game.last_y, game.pos = x, y, last_x, last_y, paddle
        game.ball_dir = {(-1, -1): 0, (1, -1): 1, (1, 1): 2, (-1, 1): 3}[dx, dy]
        game.strike, game.terminal = bool(struck), False
        reward, terminated = game.act(action)
        return game.state().transpose(2, 0, 1), float(reward), terminated


def test_every_step_agrees_with_the_packages() -> None:
    """10,000 steps with sticky actions, in half of the environments under the ball, so that walls are cleared."""
    package, game, num_envs = Package(), make_game(ID, {}), 20
    envs = NativeEnvs(game, num_envs, 0)
    generator = torch.Generator().manual_seed(0)
    follows = torch.arange(num_envs) % 2 == 0
    envs.reset()
    seen = {"steps": 0, "rewards": 0, "ends": 0, "sticky": 0, "refilled": 0}
    ended = torch.zeros(num_envs, dtype=torch.bool)
    while seen["steps"] < 10_000:
        live = envs.live
        bits = envs.simulation._chance(live)
        assert bits is not None
        sticky = chance(bits, 0.1)
        x, dx, paddle, last_action = (live.state[:, column] for column in (1, 3, 8, 9))
        wanted = torch.where(x + dx > paddle, RIGHT, torch.where(x + dx < paddle, LEFT, NOOP))
        actions = torch.where(follows, wanted, torch.randint(3, (num_envs,), generator=generator))
        row = envs.step(actions)
        assert torch.equal(row.is_first, ended)
        ended = row.terminated
        assert not row.truncated.any()
        played = torch.where(sticky, last_action, actions)
        for i in (~row.is_first).nonzero()[:, 0].tolist():
            observation, reward, terminated = package.step(live.state[i], PACKAGE_ACTIONS[int(played[i])])
            np.testing.assert_array_equal(row.observation[i], observation)  # type: ignore[index]
            assert (row.reward[i].item(), bool(row.terminated[i])) == (reward, terminated)
            seen["steps"] += 1
            seen["rewards"] += int(reward)
            seen["ends"] += terminated
            seen["sticky"] += int(sticky[i])
            seen["refilled"] += int(live.state[i, 0] == 0 and observation[3].any())
    assert seen["rewards"] > 300
    assert seen["ends"] > 50
    assert seen["refilled"] > 0
    assert abs(seen["sticky"] / seen["steps"] - 0.1) < 5 * (0.1 * 0.9 / seen["steps"]) ** 0.5


def test_steps_from_states_of_any_kind_agree() -> None:
    count, generator = 3_000, torch.Generator().manual_seed(1)

    def numbers(high: int) -> Tensor:
        return torch.randint(high, (count,), generator=generator)

    # The ball is never in the bottom row; a paddle near it and few bricks make rare cases frequent.
    x, y = numbers(10), numbers(9)
    bricks = numbers(2**30) * (numbers(4) > 0) << 10
    paddle = torch.where(numbers(2) == 0, numbers(10), (x + numbers(3) - 1).clamp(0, 9))
    columns = (
        bricks,
        x,
        y,
        numbers(2) * 2 - 1,
        numbers(2) * 2 - 1,
        numbers(10),
        numbers(9),
        numbers(2),
        paddle,
        x * 0,
    )
    state, actions, package = torch.stack(columns, 1), numbers(3), Package()
    game = make_game(ID, {"sticky_action_prob": 0.0})
    after, rewards, ends = game.step(state, actions, None)
    seen = game.observe(after)
    for i in range(count):
        observation, reward, terminated = package.step(state[i], PACKAGE_ACTIONS[int(actions[i])])
        np.testing.assert_array_equal(seen[i], observation)
        assert (rewards[i].item(), bool(ends[i])) == (reward, terminated)
        assert bool(after[i, 7]) == package.game.strike
        assert not terminated or not package.game.strike
    assert rewards.sum() > 100
    assert ends.sum() > 50


def test_episodes_begin_as_the_packages_do() -> None:
    package = Package()
    seen = set()
    for seed in range(20):
        package.game.random = np.random.RandomState(seed)
        package.game.reset()
        seen.add(package.game.state().transpose(2, 0, 1).tobytes())
    row = NativeEnvs(make_game(ID, {}), 4_000, 0).reset()
    ours = [np.asarray(observation).tobytes() for observation in row.observation]  # type: ignore[union-attr]
    assert set(ours) == seen
    assert len(seen) == 2
    assert abs(ours.count(ours[0]) / 4_000 - 0.5) < 5 * 0.5 / 4_000**0.5


@pytest.mark.parametrize("version", [0, 1])
def test_spaces_are_those_of_the_package(version: int) -> None:
    theirs = env_maker(EnvConfig(id=f"MinAtar/Breakout-v{version}"))()
    spec = NativeEnvs(make_game(f"graftwork/MinAtarBreakout-v{version}", {}), 1, 0).spec
    assert spec.observation_space == theirs.observation_space
    assert isinstance(theirs.action_space, gymnasium.spaces.Discrete)
    assert spec.num_actions == theirs.action_space.n
