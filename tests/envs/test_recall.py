import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from graftwork.envs import EnvConfig, GymnasiumEnvs, env_maker

IDS = ("graftwork/DelayedRecall-v0", "graftwork/TMaze-v0")
NORTH, EAST, SOUTH, WEST = range(4)

Row = tuple[list[float], float, bool, bool]


def make(name: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    return env_maker(EnvConfig(id=f"graftwork/{name}-v0", kwargs=kwargs))()


def play(env: gymnasium.Env[Any, Any], seed: int, actions: list[int]) -> list[Row]:
    observation, _ = env.reset(seed=seed)
    rows: list[Row] = [(observation.tolist(), 0.0, False, False)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((observation.tolist(), float(reward), terminated, truncated))
    return rows


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("kwargs", [{}, {"length": 1}], ids=["default", "length 1"])
def test_gymnasiums_checker_finds_nothing(env_id: str, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, **kwargs).unwrapped)


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_their_episodes_follow_from_their_seeds(env_id: str, asynchronous: bool) -> None:
    config = EnvConfig(id=env_id, kwargs={"length": 3})
    envs = [
        GymnasiumEnvs(env_maker(config), 3, 7),
        GymnasiumEnvs(env_maker(config), 3, 7, asynchronous=asynchronous),
    ]
    assert envs[0].spec.id == env_id
    generator = torch.Generator().manual_seed(0)
    one, other = (each.reset() for each in envs)
    seen = set()
    for _ in range(60):
        assert one.observation.equal(other.observation)
        assert one.reward.equal(other.reward)
        seen |= {tuple(row) for row in one.observation[one.is_first].tolist()}
        actions = torch.randint(4, (3,), generator=generator)
        one, other = (each.step(actions) for each in envs)
    assert len(seen) == {"graftwork/DelayedRecall-v0": 4, "graftwork/TMaze-v0": 2}[env_id]
    for each in envs:
        each.close()


@pytest.mark.parametrize(
    ("name", "kwargs", "text"),
    [
        ("DelayedRecall", {"length": -1}, "length=-1, symbols=4: must be at least 0 and at least 2"),
        ("DelayedRecall", {"symbols": 1}, "length=10, symbols=1: must be at least 0 and at least 2"),
        ("TMaze", {"length": 0}, "length=0: must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(name: str, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=rf"^env\.id=graftwork/{name}-v0 with .* cannot be made: .*{text}$"):
        make(name, **kwargs)


def test_an_id_that_is_nearly_right_is_named() -> None:
    with pytest.raises(ValueError, match=r"did you mean graftwork/TMaze-v0\?$"):
        env_maker(EnvConfig(id="graftwork/TMaz-v0"))()


class TestDelayedRecall:
    @pytest.mark.parametrize("length", [0, 3])
    def test_a_symbol_then_blank_rows_then_the_flag_and_the_answer_is_paid(self, length: int) -> None:
        env = make("DelayedRecall", length=length, symbols=3)
        symbols = set()
        for seed in range(20):
            symbol = int(np.argmax(env.reset(seed=seed)[0]))
            symbols.add(symbol)
            for answer in range(3):
                # A right answer at any other time than the last is worth nothing.
                rows = play(env, seed, [symbol] * (length + 1) + [answer])
                cue, blank, flag = [0.0] * 4, [0.0] * 4, [0.0, 0.0, 0.0, 1.0]
                cue[symbol] = 1.0
                assert rows == [
                    (cue, 0.0, False, False),
                    *[(blank, 0.0, False, False)] * length,
                    (flag, 0.0, False, False),
                    (blank, float(answer == symbol), True, False),
                ]
        assert symbols == {0, 1, 2}

    def test_noise_shows_symbols_that_mean_nothing(self) -> None:
        env = make("DelayedRecall", length=40, symbols=3, noise=True)
        rows = play(env, 5, [0] * 41)
        shown = np.array([row[0] for row in rows[1:-1]])
        assert shown.shape == (40, 4)
        assert (shown[:, :3].sum(1) == 1).all()
        assert (shown[:, 3] == 0).all()
        assert (shown[:, :3].sum(0) > 4).all()
        assert rows[-1][0] == [0.0, 0.0, 0.0, 1.0]
        symbol = int(np.argmax(rows[0][0]))
        assert play(env, 5, [0] * 41 + [symbol])[-1][1] == 1.0
        assert play(env, 5, [0] * 41 + [(symbol + 1) % 3])[-1][1] == 0.0

    def test_where_it_counts_all_rows_look_the_same(self) -> None:
        env = make("DelayedRecall", length=4)
        flags = {tuple(play(env, seed, [0] * 5)[-1][0]) for seed in range(20)}
        assert len(flags) == 1


class TestTMaze:
    CUES = ([0.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    WAY, JUNCTION = [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]

    def test_the_way_to_the_junction_and_both_turns(self) -> None:
        env = make("TMaze", length=3)
        goals = set()
        for seed in range(10):
            for turn in (NORTH, SOUTH):
                *way, last = play(env, seed, [EAST, EAST, EAST, turn])
                goal = (NORTH, SOUTH)[self.CUES.index(way[0][0])]
                goals.add(goal)
                assert way[1:] == [(row, 0.0, False, False) for row in (self.WAY, self.WAY, self.JUNCTION)]
                assert last == (self.JUNCTION, 1.0 if turn == goal else -0.025, True, False)
        assert goals == {NORTH, SOUTH}

    def test_standing_still_costs_a_little(self) -> None:
        actions = [NORTH, SOUTH, WEST, EAST, NORTH, WEST, EAST, EAST, EAST, WEST, EAST]
        rows = play(make("TMaze", length=2), 0, actions)
        cost = -0.025
        assert [row[1] for row in rows[1:]] == [cost, cost, cost, 0, cost, 0, 0, 0, cost, 0, 0]
        cue, way, junction = rows[0][0], self.WAY, self.JUNCTION
        seen = [cue, cue, cue, way, way, cue, way, junction, junction, way, junction]
        assert [row[0] for row in rows[1:]] == seen
        assert not any(terminated or truncated for *_, terminated, truncated in rows)

    def test_whoever_dawdles_is_truncated(self) -> None:
        rows = play(make("TMaze", length=2), 0, [EAST] * 30)
        assert [t for t, row in enumerate(rows) if row[3]] == [30]  # 10 * (length + 1)
        assert not rows[-1][2]
