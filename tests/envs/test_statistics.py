from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from graftwork.envs.contract import Episode
from graftwork.envs.statistics import EpisodeStatistics

NUM_ROWS, NUM_ENVS = 400, 3


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reward, done and is_first, [T, B], of episodes of five steps on average."""
    rng = np.random.default_rng(0)
    done, is_first = np.zeros((2, NUM_ROWS, NUM_ENVS), np.bool_)
    for t in range(NUM_ROWS):
        is_first[t] = done[t - 1] if t else False
        done[t] = (rng.random(NUM_ENVS) < 0.2) & ~is_first[t]
    reward = np.where(is_first, 0.0, rng.normal(size=done.shape) * 10.0 ** rng.integers(-9, 9, done.shape))
    return reward, done, is_first


def by_hand() -> list[Episode]:
    reward, done, is_first = rows()
    expected = []
    running: list[list[float]] = [[] for _ in range(NUM_ENVS)]
    for t in range(NUM_ROWS):
        for i in range(NUM_ENVS):
            running[i] = [] if is_first[t, i] else [*running[i], reward[t, i]]
            if done[t, i]:
                total = 0.0
                for each in running[i]:  # in order, so to the same bits
                    total += each
                expected.append(Episode(total, len(running[i])))
    return expected


@pytest.mark.parametrize(
    "cuts",
    [range(NUM_ROWS + 1), [0, NUM_ROWS], [0, 1, 8, 8, 64, 65, 129, NUM_ROWS]],
    ids=["each row", "all at once", "some"],
)
@pytest.mark.parametrize("period", [1, 3, NUM_ROWS])
def test_however_many_rows_at_once_it_equals_a_count_by_hand(cuts: Sequence[int], period: int) -> None:
    statistics, columns, found = EpisodeStatistics(NUM_ENVS), rows(), []
    for begin, end in pairwise(cuts):
        statistics.update(*(column[begin:end] for column in columns))
        if end % period == 0:
            found += statistics.finished()
    assert found + statistics.finished() == by_hand()
    assert len(by_hand()) > 150


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 8, 200])
def test_a_checkpoint_between_two_rows_changes_nothing(cut: int) -> None:
    one, other = EpisodeStatistics(NUM_ENVS), EpisodeStatistics(NUM_ENVS)
    one.update(*(column[:cut] for column in rows()))
    other.load_state_dict(one.state_dict())
    before = one.finished()
    other.update(*(column[cut:] for column in rows()))
    assert before + other.finished() == by_hand()


def test_half_an_episode_is_saved_and_restored() -> None:
    one, other = EpisodeStatistics(2), EpisodeStatistics(2)
    no = np.zeros((1, 2), np.bool_)
    one.update(np.array([[1.5, 2.0]]), no, no)
    other.load_state_dict(one.state_dict())
    other.update(np.array([[0.25, 3.0]]), np.array([[True, False]]), no)
    assert other.finished() == [Episode(1.75, 2)]
    assert other.state_dict() == {"return": [0.0, 5.0], "length": [0, 2]}


def test_first_rows_forget_what_was_running() -> None:
    statistics = EpisodeStatistics(1)
    column = [[False], [False], [True], [False], [False]]
    done = [[False], [False], [False], [False], [True]]
    statistics.update(np.array([[1.0], [2.0], [4.0], [8.0], [16.0]]), np.array(done), np.array(column))
    assert statistics.finished() == [Episode(24.0, 2)]
