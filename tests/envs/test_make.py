import difflib
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from graftwork.envs import EnvConfig, GymnasiumEnvs, PartialObservation, env_maker


def refusal(config: EnvConfig) -> str:
    """What is said of a config that no environment can be made from; one line."""
    with pytest.raises(ValueError, match=f"^env.id={config.id}") as caught:
        env_maker(config)()
    text = str(caught.value)
    assert "\n" not in text
    return text


class Needy(gymnasium.Env[Any, Any]):
    def __init__(self, size: int) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CartPol-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("CartPole-v7", "CartPole-v1"),
        ("Acrobat-v1", "Acrobot-v1"),
        ("LunarLandr-v3", "LunarLander-v3"),
    ],
)
def test_an_unknown_id_names_the_nearest(name: str, meant: str) -> None:
    assert refusal(EnvConfig(id=name)).endswith(f"; did you mean {meant}?")


def test_an_id_like_no_other_names_none() -> None:
    assert not difflib.get_close_matches("xyzzy-v0", gymnasium.registry)
    assert "did you mean" not in refusal(EnvConfig(id="xyzzy-v0"))


@pytest.mark.parametrize("name", ["", "a:b:c", "CartPole v1"])
def test_an_id_of_no_form_is_refused(name: str) -> None:
    refusal(EnvConfig(id=name))


def test_an_argument_that_the_environment_refuses_is_named() -> None:
    text = refusal(EnvConfig(id="CartPole-v1", kwargs={"gravty": 3}))
    assert text.startswith("env.id=CartPole-v1 with env.kwargs={'gravty': 3} cannot be made: TypeError: ")
    assert "did you mean" not in text


def test_a_value_that_the_environment_refuses_is_named() -> None:
    text = refusal(EnvConfig(id="FrozenLake-v1", kwargs={"map_name": "9x9"}))
    assert text == "env.id=FrozenLake-v1 with env.kwargs={'map_name': '9x9'} cannot be made: KeyError: '9x9'"


def test_an_argument_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Needy-v0", Needy)
    text = refusal(EnvConfig(id="Needy-v0"))
    assert "TypeError: " in text
    assert "missing 1 required positional argument: 'size'" in text


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco" or "envs.mujoco" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    text = refusal(EnvConfig(id="HalfCheetah-v5"))
    assert text.startswith("env.id=HalfCheetah-v5 needs a package that is not installed: ")
    assert "mujoco" in text


def test_a_module_that_is_not_there_is_named() -> None:
    text = refusal(EnvConfig(id="no_such_module:CartPole-v1"))
    assert "needs a package that is not installed: No module named 'no_such_module'" in text


def test_max_episode_steps_truncates() -> None:
    envs = GymnasiumEnvs(env_maker(EnvConfig(id="CartPole-v1", max_episode_steps=3)), 2, 0)
    rows = [envs.reset(), *(envs.step(torch.tensor([0, 1])) for _ in range(3))]
    assert [row.truncated.tolist() for row in rows] == [[False, False]] * 3 + [[True, True]]
    assert not any(row.terminated.any() for row in rows)


def test_arguments_reach_the_environment() -> None:
    env = env_maker(EnvConfig(id="FrozenLake-v1", kwargs={"map_name": "8x8"}))()
    assert env.observation_space == gymnasium.spaces.Discrete(64)


def test_cartpole_without_velocities_observes_its_positions_alone() -> None:
    actions = [0, 0, 1, 0, 1, 1, 0]
    hidden, full = (env_maker(EnvConfig(id="CartPole-v1", observe=observe))() for observe in ((0, 2), None))
    shown = [hidden.reset(seed=3)[0], *(hidden.step(action)[0] for action in actions)]
    everything = [full.reset(seed=3)[0], *(full.step(action)[0] for action in actions)]
    assert np.array_equal(shown, np.array(everything)[:, [0, 2]])  # cart position and pole angle
    assert all(observation in hidden.observation_space for observation in shown)
    assert np.array_equal(hidden.observation_space.high, full.observation_space.high[[0, 2]])
    assert GymnasiumEnvs(lambda: hidden, 1, 0).spec.observation_space == hidden.observation_space


@pytest.mark.parametrize(
    ("observe", "text"),
    [
        ((), r"^env\.observe=\[\]: must name entries from 0 to 3$"),
        ((0, 4), r"^env\.observe=\[0, 4\]: must name entries from 0 to 3$"),
        ((-1,), r"^env\.observe=\[-1\]: must name entries from 0 to 3$"),
    ],
)
def test_entries_that_are_not_there_are_refused(observe: tuple[int, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        env_maker(EnvConfig(id="CartPole-v1", observe=observe))()


def test_entries_of_no_vector_are_refused_in_one_line() -> None:
    class Image(gymnasium.Env[Any, Any]):
        observation_space = Box(np.arange(60.0).reshape(6, 10), np.full((6, 10), 99.0), dtype=np.float64)

    with pytest.raises(
        ValueError, match=r"^env\.observe needs a vector observation, but the environment has "
    ) as caught:
        PartialObservation(Image(), (0,))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"but the environment has Discrete\(16\)$"):
        env_maker(EnvConfig(id="FrozenLake-v1", observe=(0,)))()
