"""The games by gymnasium's own doors: make_vec makes native ones, make the originals."""

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from graftwork.envs import EnvConfig, native_envs
from graftwork.envs.native import GAMES

IDS = [env_id for env_id in GAMES if env_id != "graftwork/MinAtarBreakout-v0"]
B = 4


def make(env_id: str, num_envs: int = B, **kwargs: Any) -> VectorEnv[Any, Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # gymnasium takes version 0 for an older one, but it is the one with more actions.
        warnings.filterwarnings("ignore", r".*MinAtarBreakout-v0 is out of date", DeprecationWarning)
        return gymnasium.make_vec(env_id, num_envs, **kwargs)


def actions(env: VectorEnv[Any, Any, Any], num_rows: int) -> list[np.ndarray]:
    env.action_space.seed(3)
    return [env.action_space.sample() for _ in range(num_rows)]


@pytest.mark.parametrize("env_id", GAMES)
def test_rows_are_those_of_a_run_with_that_seed(env_id: str) -> None:
    env = make(env_id, max_episode_steps=7)
    ours = native_envs(EnvConfig(id=env_id, max_episode_steps=7), B, 12)
    np.testing.assert_array_equal(env.reset(seed=12)[0], ours.reset().observation)
    for action in actions(env, 30):
        *row, info = env.step(action)
        assert info == {}
        for part, expected in zip(row, ours.step(torch.from_numpy(action)), strict=False):
            assert isinstance(part, np.ndarray)
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("env_id", IDS)
def test_it_says_what_a_vector_environment_says(env_id: str) -> None:
    env = make(env_id)
    theirs = gymnasium.make_vec(env_id, B, vectorization_mode="sync")
    assert env.num_envs == B
    assert env.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    for space in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(env, space) == getattr(theirs, space)
    assert env.spec is not None
    assert env.spec.id == env_id
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for action in actions(env, 20):
        observation, reward, terminated, truncated, _ = env.step(action)
        assert observation in env.observation_space
        assert [part.shape for part in (reward, terminated, truncated)] == [(B,)] * 3
        assert [part.dtype for part in (reward, terminated, truncated)] == [np.float32, np.bool_, np.bool_]
    env.close()
    assert env.closed


@pytest.mark.parametrize("env_id", IDS)
def test_the_original_stands_behind_the_id(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r".*observation space m.*imum value is -?infinity")  # CartPole's
        env = gymnasium.make(env_id, max_episode_steps=3)
        check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(3)] == [False, False, True]


def test_the_limit_is_the_originals() -> None:
    for env_id, original in {
        "graftwork/CartPole-v1": "CartPole-v1",
        "graftwork/Acrobot-v1": "Acrobot-v1",
        "graftwork/MountainCar-v0": "MountainCar-v0",
    }.items():
        ours, theirs = gymnasium.spec(env_id), gymnasium.spec(original)
        assert (ours.max_episode_steps, ours.reward_threshold) == (theirs.max_episode_steps, theirs.reward_threshold)
        assert ours.entry_point == theirs.entry_point


def test_settings_reach_the_game() -> None:
    env = make("graftwork/CartPole-v1", sutton_barto_reward=True)
    env.reset(seed=0)
    assert env.step(np.zeros(B, np.int64))[1].tolist() == [0.0] * B


def test_a_seed_determines_the_episodes_and_none_goes_on_with_them() -> None:
    env, other = make("graftwork/CartPole-v1"), make("graftwork/CartPole-v1")
    first, second = env.reset(seed=5)[0], env.reset()[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(other.reset(seed=5)[0], first)
    np.testing.assert_array_equal(other.reset()[0], second)
    np.testing.assert_array_equal(other.reset(seed=5)[0], first)
    assert not np.array_equal(other.reset(seed=6)[0], first)


def test_without_any_seed_no_two_are_alike() -> None:
    observations = [make("graftwork/CartPole-v1").reset()[0] for _ in range(2)]
    assert not np.array_equal(*observations)


def test_what_it_gives_belongs_to_whoever_gets_it() -> None:
    env, other = make("graftwork/CartPole-v1"), make("graftwork/CartPole-v1")
    env.reset(seed=0)[0][:] = 9.0
    other.reset(seed=0)
    for action in actions(env, 20):
        row, expected = env.step(action)[:4], other.step(action)[:4]
        for part, wanted in zip(row, expected, strict=True):
            np.testing.assert_array_equal(part, wanted)
            part[:] = 1


def test_gymnasiums_statistics_wrapper_counts_its_episodes() -> None:
    env = RecordEpisodeStatistics(make("graftwork/MountainCar-v0", max_episode_steps=5))
    env.reset(seed=0)
    infos = [env.step(np.ones(B, np.int64))[4] for _ in range(5)]
    assert infos[-1]["episode"]["r"].tolist() == [-5.0] * B
    assert infos[-1]["episode"]["l"].tolist() == [5] * B


@pytest.mark.parametrize("wrong", [[0, 1, 2, 0], [0, 1, -1, 0], [0, 1, 0], [0.5, 0, 0, 0]])
def test_actions_that_are_none_are_refused(wrong: list[float]) -> None:
    env = make("graftwork/CartPole-v1")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^actions must be 4 of Discrete\(2\), got "):
        env.step(np.array(wrong))


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        make("graftwork/CartPole-v1").step(np.zeros(B, np.int64))
