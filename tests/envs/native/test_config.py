"""Native environments in a run's config: chosen by their id, and refused in one line what they cannot do."""

from typing import Any

import gymnasium
import pytest
from pydantic import ValidationError

from graftwork.configs import validate
from graftwork.envs import EnvConfig, NativeEnvs
from graftwork.envs.native import GAMES
from graftwork.runs import RunConfig
from graftwork.runs.build import build_envs
from graftwork.runs.parts import Objects

CARTPOLE = "graftwork/CartPole-v1"


def refusal(**fields: Any) -> str:
    with pytest.raises(ValueError, match=r"^env\.") as caught:
        validate(EnvConfig, {"id": CARTPOLE, **fields})
    text = str(caught.value)
    assert "\n" not in text
    return text


def run_config(**env: Any) -> RunConfig:
    return RunConfig.model_validate({"env": env, "agent": {"kind": "reinforce"}, "steps": 10, "device": "cpu"})


@pytest.mark.parametrize("env_id", GAMES)
def test_an_id_chooses_the_backend(env_id: str) -> None:
    config = EnvConfig(id=env_id)
    assert config.backend == "native"
    assert EnvConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("env_id", ["CartPole-v1", "graftwork/TMaze-v0", "MinAtar/Breakout-v1"])
def test_another_id_does_not(env_id: str) -> None:
    assert EnvConfig(id=env_id).backend == "gymnasium"


def test_the_original_can_be_asked_for() -> None:
    config = run_config(id=CARTPOLE, backend="gymnasium", frame_stack=2)
    envs = build_envs(config, Objects(), num_envs=2, stream=0, autoreset=True, asynchronous=False)
    assert not isinstance(envs, NativeEnvs)
    assert envs.spec.id == CARTPOLE
    assert envs.spec.frame_stack == 2


def test_fields_reach_the_environments() -> None:
    config = run_config(id=CARTPOLE, observe=[0, 2], max_episode_steps=9, kwargs={"sutton_barto_reward": True})
    envs = build_envs(config, Objects(), num_envs=2, stream=0, autoreset=False, asynchronous=False)
    assert isinstance(envs, NativeEnvs)
    simulation = envs.simulation
    assert (simulation.max_steps, simulation.autoreset, simulation.shown) == (9, False, (0, 2))
    assert simulation.game.model_dump() == {"sutton_barto_reward": True}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"asynchronous": True},
            f"env.asynchronous=true: env.id={CARTPOLE} steps all environments at once; remove one",
        ),
        (
            {"frame_stack": 4},
            f"env.frame_stack=4: env.id={CARTPOLE} shows one frame; env.backend=gymnasium stacks them",
        ),
        (
            {"protocol": "atari-machado"},
            f"env.protocol=atari-machado needs an env.id such as ALE/Pong-v5, got {CARTPOLE}",
        ),
        (
            {"kwargs": {"sutton_barto": True}},
            f"env.kwargs.sutton_barto=true: unknown field; did you mean sutton_barto_reward? (of env.id={CARTPOLE})",
        ),
        (
            {"kwargs": {"sutton_barto_reward": 3}},
            f"env.kwargs.sutton_barto_reward=3: must be true or false (of env.id={CARTPOLE})",
        ),
        (
            {"id": "graftwork/Acrobot-v1", "kwargs": {"gravity": 3}},
            "env.kwargs={'gravity': 3}: env.id=graftwork/Acrobot-v1 takes none",
        ),
        (
            {"id": "graftwork/MinAtarBreakout-v1", "kwargs": {"sticky_action_prob": 1.5}},
            "env.kwargs.sticky_action_prob=1.5: must be less than or equal to 1 "
            "(of env.id=graftwork/MinAtarBreakout-v1)",
        ),
        (
            {"id": "CartPole-v1", "backend": "native"},
            "env.id=CartPole-v1 with env.backend=native: must be one of graftwork/Acrobot-v1, graftwork/CartPole-v1, "
            "graftwork/MinAtarBreakout-v1, graftwork/MinAtarBreakout-v0, graftwork/MountainCar-v0; "
            "did you mean graftwork/CartPole-v1?",
        ),
    ],
)
def test_what_it_cannot_do_names_the_field(fields: dict[str, Any], text: str) -> None:
    assert refusal(**fields) == text


def test_a_wrapper_is_refused() -> None:
    objects = Objects(wrapper=gymnasium.Wrapper)
    with pytest.raises(
        ValueError, match=rf"^env\.id={CARTPOLE} steps all .* takes no wrapper; use env\.backend=gymnas"
    ):
        build_envs(run_config(id=CARTPOLE), objects, num_envs=1, stream=0, autoreset=True, asynchronous=False)


def test_an_id_that_is_nearly_native_is_explained() -> None:
    with pytest.raises(ValueError, match=r"did you mean graftwork/CartPole-v1\?$"):
        build_envs(
            run_config(id="graftwork/CartPol-v1"), Objects(), num_envs=1, stream=0, autoreset=True, asynchronous=False
        )


def test_fields_are_checked_when_the_config_is_made() -> None:
    with pytest.raises(ValidationError, match=r"env\.kwargs\.gravty"):
        EnvConfig(id=CARTPOLE, kwargs={"gravty": 9})
