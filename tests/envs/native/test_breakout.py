"""MinAtar's Breakout by its rules, worked out by hand; test_breakout_package.py puts it beside the package's."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from graftwork.envs.native import NativeEnvs, make_game
from graftwork.envs.native.draws import chance

ID = "graftwork/MinAtarBreakout-v1"
NOOP, LEFT, RIGHT = range(3)

CERTAIN, NEVER = torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])  # bits of a chance that comes true or not


class Ball(NamedTuple):
    """A state by hand; the paddle is at 4, and the wall whole, unless told otherwise."""

    x: int
    y: int
    dx: int
    dy: int
    paddle: int = 4
    struck: bool = False
    bricks: tuple[tuple[int, int], ...] | None = None  # (row, column); None is the whole wall
    last_action: int = NOOP


def state_of(ball: Ball) -> Tensor:
    wall = [(row, column) for row in (1, 2, 3) for column in range(10)]
    bits = sum(1 << row * 10 + column for row, column in (wall if ball.bricks is None else ball.bricks))
    row = [bits, ball.x, ball.y, ball.dx, ball.dy, ball.x, ball.y, ball.struck, ball.paddle, ball.last_action]
    return torch.tensor([[int(part) for part in row]])


def bricks_of(state: Tensor) -> set[tuple[int, int]]:
    return {divmod(cell, 10) for cell in range(63) if int(state[0, 0]) >> cell & 1}


def play(ball: Ball, action: int = NOOP, bits: Tensor | None = None) -> tuple[Tensor, float, bool]:
    state, reward, terminated = make_game(ID, {}).step(state_of(ball), torch.tensor([action]), bits)
    return state, reward.item(), bool(terminated)


def ball_of(state: Tensor) -> tuple[int, ...]:
    """Column, row and direction."""
    return tuple(state[0, 1:5].tolist())


class TestRules:
    @pytest.mark.parametrize(
        ("ball", "after"),
        [
            (Ball(5, 5, 1, 1), (6, 6, 1, 1)),
            (Ball(9, 5, 1, 1), (9, 6, -1, 1)),  # the right wall
            (Ball(0, 6, -1, -1), (0, 5, 1, -1)),  # the left wall
            (Ball(4, 0, -1, -1, bricks=((3, 3),)), (3, 0, -1, 1)),  # the ceiling
            (Ball(9, 0, 1, -1, bricks=((3, 3),)), (9, 0, -1, 1)),  # a corner
        ],
    )
    def test_the_ball_flies_and_bounces_off_walls(self, ball: Ball, after: tuple[int, ...]) -> None:
        state, reward, terminated = play(ball)
        assert ball_of(state) == after
        assert state[0, 5:7].tolist() == [ball.x, ball.y]  # the trail
        assert (reward, terminated) == (0.0, False)

    def test_a_brick_that_is_hit_is_worth_one_and_gone(self) -> None:
        state, reward, terminated = play(Ball(5, 4, 1, -1))
        assert ball_of(state) == (6, 4, 1, 1)  # reflected, in the brick's column
        assert bricks_of(state) == {(row, column) for row in (1, 2, 3) for column in range(10)} - {(3, 6)}
        assert (reward, terminated) == (1.0, False)
        assert state[0, 7] == 1

    def test_right_after_a_hit_the_ball_flies_through_a_brick(self) -> None:
        state, reward, _ = play(Ball(5, 2, 1, 1, struck=True))
        assert ball_of(state) == (6, 3, 1, 1)
        assert len(bricks_of(state)) == 30
        assert (reward, state[0, 7]) == (0.0, 1)  # and through the next one

    def test_where_it_meets_none_it_may_hit_again(self) -> None:
        state, _, _ = play(Ball(5, 5, 1, 1, struck=True))
        assert state[0, 7] == 0

    @pytest.mark.parametrize(
        ("ball", "after"),
        [
            (Ball(4, 8, 1, 1, paddle=4), (5, 8, 1, -1)),  # from above the paddle
            (Ball(4, 8, 1, 1, paddle=5), (5, 8, -1, -1)),  # onto its edge: back where it came from
            (Ball(9, 8, 1, 1, paddle=9), (9, 8, -1, -1)),  # above it, in the corner
        ],
    )
    def test_the_paddle_returns_the_ball(self, ball: Ball, after: tuple[int, ...]) -> None:
        state, reward, terminated = play(ball)
        assert ball_of(state) == after
        assert (reward, terminated) == (0.0, False)

    @pytest.mark.parametrize("paddle", [3, 6])
    def test_a_lost_ball_terminates(self, paddle: int) -> None:
        state, reward, terminated = play(Ball(4, 8, 1, 1, paddle=paddle))
        assert ball_of(state) == (5, 9, 1, 1)
        assert (reward, terminated) == (0.0, True)

    def test_the_paddle_moves_before_the_ball(self) -> None:
        assert not play(Ball(4, 8, 1, 1, paddle=3), RIGHT)[2]
        assert play(Ball(4, 8, 1, 1, paddle=5), RIGHT)[2]

    @pytest.mark.parametrize(
        ("paddle", "action", "after"), [(0, LEFT, 0), (0, RIGHT, 1), (9, RIGHT, 9), (9, LEFT, 8), (4, NOOP, 4)]
    )
    def test_the_paddle_stays_on_the_board(self, paddle: int, action: int, after: int) -> None:
        assert play(Ball(5, 5, 1, 1, paddle=paddle), action)[0][0, 8] == after

    def test_the_wall_comes_back_when_the_ball_reaches_the_bottom(self) -> None:
        empty = Ball(4, 7, 1, 1, paddle=5, bricks=())
        above, _, _ = play(empty)
        assert bricks_of(above) == set()
        returned, _, terminated = play(empty._replace(y=8))
        assert len(bricks_of(returned)) == 30
        assert not terminated

    def test_a_sticky_action_repeats_the_one_before(self) -> None:
        ball = Ball(5, 5, 1, 1, last_action=LEFT)
        state, _, _ = play(ball, RIGHT, CERTAIN)
        assert state[0, 8:].tolist() == [3, LEFT]
        state, _, _ = play(ball, RIGHT, NEVER)
        assert state[0, 8:].tolist() == [5, RIGHT]

    def test_difficulty_does_not_ramp(self) -> None:
        """In the package neither, whatever it is told; the ball keeps its speed however long the game is."""
        state = state_of(Ball(5, 5, 1, 1))
        game = make_game(ID, {})
        for _ in range(500):
            x, y = state[0, 1:3].tolist()
            state, _, _ = game.step(state, torch.tensor([NOOP]), None)
            state[0, 8] = state[0, 1]  # the paddle is always there
            assert max(abs(state[0, 1] - x), abs(state[0, 2] - y)) <= 1


class TestObservation:
    def test_planes_are_paddle_ball_trail_and_bricks(self) -> None:
        state, _, _ = play(Ball(5, 6, 1, -1, paddle=4, bricks=((1, 0), (2, 7), (3, 9))), RIGHT)
        observation = make_game(ID, {}).observe(state)
        assert (observation.dtype, observation.shape) == (torch.bool, (1, 4, 10, 10))
        assert observation[0].nonzero().tolist() == [
            [0, 9, 5],
            [1, 5, 6],
            [2, 6, 5],
            [3, 1, 0],
            [3, 2, 7],
            [3, 3, 9],
        ]

    def test_four_of_six_actions_do_nothing(self) -> None:
        game, state = make_game("graftwork/MinAtarBreakout-v0", {}), state_of(Ball(5, 5, 1, 1)).repeat(6, 1)
        paddle = game.step(state, torch.arange(6), None)[0][:, 8]
        assert paddle.tolist() == [4, 3, 4, 5, 4, 4]


class TestStickiness:
    @pytest.mark.parametrize(("probability", "moved"), [(0.0, 3), (1.0, 0)])
    def test_of_probability_zero_or_one_is_exact(self, probability: float, moved: int) -> None:
        envs = NativeEnvs(make_game(ID, {"sticky_action_prob": probability}), 5, 0)
        envs.reset()
        for _ in range(3):
            envs.step(torch.full((5,), RIGHT))
        assert (envs.state_dict()["state"][:, 8] == 4 + moved).all()

    def test_a_new_episode_repeats_a_no_op(self) -> None:
        envs = NativeEnvs(make_game(ID, {"sticky_action_prob": 1.0}), 5, 0)
        envs.reset()
        assert (envs.state_dict()["state"][:, 9] == 0).all()

    def test_each_environment_and_step_draws_its_own(self) -> None:
        envs = NativeEnvs(make_game(ID, {"sticky_action_prob": 0.5}), 300, 0)
        envs.reset()
        rows = []
        for _ in range(4):
            bits = envs.simulation._chance(envs.live)
            assert bits is not None
            rows.append(chance(bits, 0.5))
            envs.step(torch.zeros(300, dtype=torch.int64))
        for one in rows:
            assert 100 < int(one.sum()) < 200
            assert sum(torch.equal(one, other) for other in rows) == 1
