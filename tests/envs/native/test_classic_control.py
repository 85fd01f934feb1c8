"""CartPole, Acrobot and MountainCar against gymnasium's, which are set to our state before each step."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from graftwork.envs import EnvStep, GymnasiumEnvs
from graftwork.envs.native import NativeEnvs, make_game

STEPS, B = 10_000, 20
GAMES = {"CartPole-v1": 2, "Acrobot-v1": 3, "MountainCar-v0": 3}


def step(name: str, state: list[float], action: int, **kwargs: Any) -> tuple[list[float], float, bool]:
    """State, reward and termination of one row."""
    game = make_game(f"graftwork/{name}", kwargs)
    after, reward, terminated = game.step(torch.tensor([state]), torch.tensor([action]), None)
    return after[0].tolist(), reward.item(), bool(terminated)


def chosen(name: str, state: Tensor, generator: torch.Generator) -> Tensor:
    """Random actions; in half of the environments mostly such that pump energy in, or no episode would be won."""
    actions = torch.randint(GAMES[name], (B,), generator=generator)
    if name == "CartPole-v1":
        return actions
    speed = state[:, 3] if name == "Acrobot-v1" else state[:, 1]
    pumps = (torch.arange(B) % 2 == 0) & (torch.rand(B, generator=generator) < 0.9)
    return torch.where(pumps, torch.where(speed > 0, 2, 0), actions)


@pytest.mark.parametrize("name", GAMES)
def test_every_step_agrees_with_gymnasiums(name: str) -> None:
    envs = NativeEnvs(make_game(f"graftwork/{name}", {}), B, 0)
    theirs: Any = gymnasium.make(name, disable_env_checker=True)
    limit = theirs.spec.max_episode_steps
    generator = torch.Generator().manual_seed(0)
    envs.reset()
    theirs.reset(seed=0)
    lengths, ended = np.zeros(B, np.int64), np.zeros(B, np.bool_)
    compared, terminations, truncations = 0, 0, 0
    while compared < STEPS:
        state = envs.state_dict()["state"]
        actions = chosen(name, state, generator)
        row = EnvStep(*(np.asarray(part) for part in envs.step(actions)[:5]))  # type: ignore[arg-type]
        assert row.is_first.tolist() == ended.tolist()
        ended = row.terminated | row.truncated
        lengths = (lengths + 1) * ~row.is_first
        for i in (~row.is_first).nonzero()[0]:
            theirs.unwrapped.state = state[i].double().numpy()
            theirs.unwrapped.steps_beyond_terminated = None
            observation, reward, terminated, _, _ = theirs.unwrapped.step(int(actions[i]))
            np.testing.assert_allclose(row.observation[i], observation, rtol=1e-6, atol=2e-6)
            assert (row.reward[i], row.terminated[i]) == (reward, terminated)
            assert row.truncated[i] == (lengths[i] >= limit)
            compared, terminations, truncations = (
                compared + 1,
                terminations + terminated,
                truncations + row.truncated[i],
            )
    assert terminations > 5
    assert truncations > 5 or name == "CartPole-v1"  # which falls earlier


@pytest.mark.parametrize("name", GAMES)
def test_spec_is_that_of_gymnasiums(name: str) -> None:
    theirs = GymnasiumEnvs(lambda: gymnasium.make(f"graftwork/{name}"), 1, 0)
    ours = NativeEnvs(make_game(f"graftwork/{name}", {}), 1, 0)
    assert ours.spec == theirs.spec
    assert ours.spec.observation_space == gymnasium.make(name).observation_space
    assert ours.simulation.max_steps == gymnasium.spec(name).max_episode_steps


@pytest.mark.parametrize("name", GAMES)
def test_observations_are_in_their_space(name: str) -> None:
    envs = NativeEnvs(make_game(f"graftwork/{name}", {}), 3, 0)
    rows = [envs.reset(), *(envs.step(torch.tensor([0, 1, GAMES[name] - 1])) for _ in range(150))]
    for row in rows:
        assert all(np.asarray(row.observation[i]) in envs.spec.observation_space for i in range(3))  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CartPole-v1", [-0.05] * 4, [0.05] * 4),
        ("Acrobot-v1", [-0.1] * 4, [0.1] * 4),
        ("MountainCar-v0", [-0.6, 0.0], [-0.4, 0.0]),
    ],
)
def test_episodes_begin_evenly_between_gymnasiums_bounds(name: str, low: list[float], high: list[float]) -> None:
    envs = NativeEnvs(make_game(f"graftwork/{name}", {}), 20_000, 0)
    envs.reset()
    state = envs.state_dict()["state"].double()
    span = torch.tensor(high).double() - torch.tensor(low)
    assert torch.allclose(state.min(0).values, torch.tensor(low).double(), atol=1e-4)
    assert torch.allclose(state.max(0).values, torch.tensor(high).double(), atol=1e-4)
    middle = (torch.tensor(low) + torch.tensor(high)).double() / 2
    deviation = span / 12**0.5
    assert ((state.mean(0) - middle).abs() <= 5 * deviation / 20_000**0.5).all()
    assert torch.allclose(state.std(0), deviation, rtol=0.02)


class TestCartPole:
    # At rest, upright, and pushed right, by hand: pull = 10 / 1.1 = 9.0909, turn = -pull / (2 / 3 - 0.05 / 1.1)
    # = -14.6341, acceleration = pull + 0.05 / 1.1 * 14.6341 = 9.7561; velocities take 0.02 of these, and nothing has
    # moved yet.
    def test_a_push_moves_cart_and_pole_apart(self) -> None:
        after, reward, terminated = step("CartPole-v1", [0.0, 0.0, 0.0, 0.0], 1)
        assert after == pytest.approx([0.0, 0.195122, 0.0, -0.292683], abs=1e-6)
        assert (reward, terminated) == (1.0, False)

    def test_left_is_right_mirrored(self) -> None:
        state = [0.3, -0.2, 0.1, 0.4]
        right, _, _ = step("CartPole-v1", state, 1)
        left, _, _ = step("CartPole-v1", [-part for part in state], 0)
        assert left == [-part for part in right]

    @pytest.mark.parametrize(
        ("state", "ends"),
        [
            ([2.38, 0.99, 0.0, 0.0], False),  # to 2.3998
            ([2.38, 1.01, 0.0, 0.0], True),  # to 2.4002
            ([-2.38, -0.99, 0.0, 0.0], False),
            ([-2.38, -1.01, 0.0, 0.0], True),
            ([0.0, 0.0, 0.2, 0.47], False),  # to 0.2094; 12 degrees are 0.20944
            ([0.0, 0.0, 0.2, 0.48], True),  # to 0.2096
            ([0.0, 0.0, -0.2, -0.47], False),
            ([0.0, 0.0, -0.2, -0.48], True),
        ],
    )
    def test_leaving_the_track_or_falling_terminates(self, state: list[float], ends: bool) -> None:
        assert step("CartPole-v1", state, 1)[1:] == (1.0, ends)

    def test_the_other_reward_is_a_penalty_for_falling(self) -> None:
        assert step("CartPole-v1", [0.0] * 4, 1, sutton_barto_reward=True)[1:] == (0.0, False)
        assert step("CartPole-v1", [2.5, 0.0, 0.0, 0.0], 1, sutton_barto_reward=True)[1:] == (-1.0, True)


class TestMountainCar:
    @pytest.mark.parametrize(("action", "velocity"), [(0, -0.001), (1, 0.0), (2, 0.001)])
    def test_at_the_bottom_only_the_engine_counts(self, action: int, velocity: float) -> None:
        after, reward, terminated = step("MountainCar-v0", [-math.pi / 6, 0.0], action)
        assert after == pytest.approx([-math.pi / 6 + velocity, velocity], abs=1e-7)
        assert (reward, terminated) == (-1.0, False)

    def test_the_slope_pulls(self) -> None:
        # At 0 it is steepest: the velocity becomes 0.03 + 0.001 - 0.0025.
        assert step("MountainCar-v0", [0.0, 0.03], 2)[0] == pytest.approx([0.0285, 0.0285], abs=1e-7)

    def test_the_wall_at_the_left_stops_the_car(self) -> None:
        assert step("MountainCar-v0", [-1.19, -0.05], 0)[0] == pytest.approx([-1.2, 0.0], abs=1e-7)

    def test_speed_is_limited(self) -> None:
        assert step("MountainCar-v0", [-0.5, 0.0699], 2)[0] == pytest.approx([-0.43, 0.07], abs=1e-6)
        assert step("MountainCar-v0", [0.0, -0.0699], 0)[0] == pytest.approx([-0.07, -0.07], abs=1e-6)

    @pytest.mark.parametrize(("position", "ends"), [(0.448, False), (0.452, True)])
    def test_the_goal_terminates(self, position: float, ends: bool) -> None:
        # At 0.45 cos(1.35) is 0.219: the velocity becomes 0.05 + 0.001 - 0.00055 = 0.0505.
        assert step("MountainCar-v0", [position, 0.05], 2)[1:] == (-1.0, ends)

    def test_the_goal_may_ask_for_a_velocity(self) -> None:
        assert step("MountainCar-v0", [0.46, 0.05], 2, goal_velocity=0.06)[2] is False
        assert step("MountainCar-v0", [0.46, 0.065], 2, goal_velocity=0.06)[2] is True


class TestAcrobot:
    def test_hanging_at_rest_it_stays(self) -> None:
        after, reward, terminated = step("Acrobot-v1", [0.0] * 4, 1)
        assert after == pytest.approx([0.0] * 4, abs=1e-7)
        assert (reward, terminated) == (-1.0, False)

    @pytest.mark.parametrize(
        ("state", "ends"), [([math.pi, 0.0, 0.0, 0.0], True), ([math.pi / 2, 0.0, 0.0, 0.0], False)]
    )
    def test_the_height_terminates_and_costs_nothing(self, state: list[float], ends: bool) -> None:
        assert step("Acrobot-v1", state, 1)[1:] == (0.0 if ends else -1.0, ends)

    def test_angles_go_round_and_speeds_are_limited(self) -> None:
        angle_1, angle_2, spin_1, spin_2 = step("Acrobot-v1", [3.1, -3.1, 12.5, -28.0], 0)[0]
        assert -math.pi <= angle_1 < 0  # 3.1 and more than 0.04, past half a turn
        assert 0 < angle_2 <= math.pi
        assert abs(spin_1) <= 4 * math.pi + 1e-5
        assert abs(spin_2) <= 9 * math.pi + 1e-5
