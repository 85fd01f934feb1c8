import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from graftwork.envs import EnvConfig, GymnasiumEnvs, env_maker
from graftwork.envs import minatar as adapter
from graftwork.networks import ConvConfig, ConvLayer, ImpalaConfig

pytest.importorskip("minatar", reason="needs the extra minatar", exc_type=ImportError)

GAMES = {  # channels and minimal actions, Young & Tian 2019
    "Asterix": (4, 5),
    "Breakout": (4, 3),
    "Freeway": (7, 3),
    "Seaquest": (10, 6),
    "SpaceInvaders": (6, 4),
}


def make(game: str, version: int = 1, **fields: Any) -> gymnasium.Env[Any, Any]:
    return env_maker(EnvConfig(id=f"MinAtar/{game}-v{version}", **fields))()


@pytest.mark.parametrize("game", GAMES)
def test_every_game_goes_by_the_packages_ids(game: str) -> None:
    channels, minimal = GAMES[game]
    for version, num_actions in ((0, 6), (1, minimal)):
        env = make(game, version)
        assert env.action_space == gymnasium.spaces.Discrete(num_actions)
        assert env.observation_space.shape == (channels, 10, 10)
        observation, _ = env.reset(seed=3)
        assert observation.dtype == np.bool_
        assert observation in env.observation_space
        assert observation.any()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("game", GAMES)
def test_games_are_played_as_the_package_plays_them(game: str, version: int) -> None:
    import minatar

    snake = {"SpaceInvaders": "space_invaders"}.get(game, game.lower())
    env, theirs = make(game, version), minatar.Environment(snake)
    actions = theirs.minimal_action_set() if version else range(6)
    generator, ends = np.random.default_rng(0), 0
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        theirs.random = theirs.env.random = np.random.RandomState(np.random.PCG64(np.random.SeedSequence(seed)))
        theirs.last_action = 0
        theirs.reset()
        for _ in range(120):
            np.testing.assert_array_equal(observation, theirs.state().transpose(2, 0, 1))
            action = generator.integers(len(actions))
            observation, reward, terminated, truncated, _ = env.step(action)
            assert (reward, terminated) == theirs.act(actions[action])
            assert not truncated
            if terminated:
                ends += 1
                break
    assert ends or game == "Freeway"  # which takes longer


def test_published_settings_are_the_defaults() -> None:
    parameters = inspect.signature(adapter.MinAtar).parameters
    assert parameters["sticky_action_prob"].default == 0.1
    assert parameters["difficulty_ramping"].default is True


@pytest.mark.parametrize(("sticky", "moved"), [(0.0, 3), (1.0, 0)])
def test_sticky_actions_repeat_the_one_before(sticky: float, moved: int) -> None:
    env = make("Breakout", kwargs={"sticky_action_prob": sticky})
    paddle = [env.reset(seed=0)[0][0, 9].argmax()]
    paddle += [env.step(2)[0][0, 9].argmax() for _ in range(3)]
    assert paddle[-1] - paddle[0] == moved


def test_a_new_episode_does_not_repeat_the_last_action_of_another() -> None:
    env = make("Breakout", kwargs={"sticky_action_prob": 0.0})
    env.reset(seed=0)
    env.step(2)
    env.unwrapped._sticky = 1.0  # type: ignore[attr-defined]
    before = env.reset(seed=0)[0][0, 9].argmax()
    assert env.step(2)[0][0, 9].argmax() == before


def test_freeway_terminates_by_its_own_clock() -> None:
    env = make("Freeway")
    env.reset(seed=0)
    ends = [env.step(0)[2] for _ in range(2501)]
    assert ends == [False] * 2500 + [True]


def test_max_episode_steps_truncates() -> None:
    env = make("Freeway", max_episode_steps=7)
    env.reset(seed=0)
    assert [env.step(1)[2:4] for _ in range(7)] == [(False, False)] * 6 + [(False, True)]


@pytest.mark.parametrize("game", GAMES)
def test_a_seed_determines_an_episode(game: str) -> None:
    def play(seed: int) -> list[Any]:
        env = make(game)
        rows = [env.reset(seed=seed)[0]]
        for action in np.random.default_rng(1).integers(env.action_space.n, size=60):  # type: ignore[attr-defined]
            observation, reward, terminated, *_ = env.step(action)
            rows.append((observation, reward, terminated))
            if terminated:
                break
        return [np.asarray(part).tolist() for row in rows for part in row]

    large = 2**62 + 5
    assert play(large) == play(large)
    assert any(play(large) != play(seed) for seed in range(5))


@pytest.mark.parametrize("game", GAMES)
def test_state_restored_in_mid_episode_goes_on_exactly(
    game: str, open_envs: Callable[..., GymnasiumEnvs], plain: Callable[..., Any]
) -> None:
    maker = env_maker(EnvConfig(id=f"MinAtar/{game}-v1"))
    envs, again = open_envs(maker), open_envs(maker)
    actions = torch.randint(GAMES[game][1], (90, 3), generator=torch.Generator().manual_seed(5))
    envs.reset()
    for action in actions[:50]:
        envs.step(action)
    again.load_state_dict(envs.state_dict())
    assert [plain(envs.step(action)) for action in actions[50:]] == [
        plain(again.step(action)) for action in actions[50:]
    ]


@pytest.mark.parametrize("game", GAMES)
def test_convolutions_and_impala_take_the_observations(game: str) -> None:
    envs = GymnasiumEnvs(env_maker(EnvConfig(id=f"MinAtar/{game}-v1")), 5, 0)
    observation = envs.reset().observation
    assert isinstance(observation, torch.Tensor)
    assert observation.dtype == torch.bool
    space = envs.spec.observation_space
    published = ConvConfig(channels="first", layers=(ConvLayer(channels=16, kernel=3),), hidden=128)
    for encoder in (published.build(space), ImpalaConfig(channels="first").build(space)):
        assert encoder.encode(observation).shape == (5, encoder.out_features)


def test_nothing_that_draws_is_imported() -> None:
    code = (
        "import sys; from graftwork.envs import EnvConfig, env_maker; "
        "env_maker(EnvConfig(id='MinAtar/Breakout-v1'))().reset(seed=0); "
        "assert not {'seaborn', 'matplotlib', 'minatar'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"^env\.id=MinAtar/Breakout-v1 needs .* minatar; pip install 'graftwork\[minat"
    ):
        make("Breakout")


def test_a_wrong_name_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean MinAtar/Breakout-v1\?$"):
        make("Brekout")
