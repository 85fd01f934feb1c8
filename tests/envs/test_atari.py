from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from graftwork.envs import EnvConfig, GymnasiumEnvs, atari, env_maker
from graftwork.networks import Conv, Impala

pytest.importorskip("ale_py", reason="needs the extra atari")
cv2 = pytest.importorskip("cv2", reason="needs the extra atari")

MACHADO, NOFRAMESKIP = "atari-machado", "atari-noframeskip"


def config(game: str, protocol: str, **fields: Any) -> EnvConfig:
    return EnvConfig.model_validate({"id": f"ALE/{game}-v5", "protocol": protocol, **fields})


def make(game: str, protocol: str, training: bool = True, **fields: Any) -> gymnasium.Env[Any, Any]:
    return env_maker(config(game, protocol, **fields), training=training)()


def emulator(env: gymnasium.Env[Any, Any]) -> Any:
    unwrapped: Any = env.unwrapped
    return unwrapped.ale


def play(env: gymnasium.Env[Any, Any], num_steps: int, seed: int = 0) -> list[tuple[Any, ...]]:
    """Random actions until an end: rows of observation, reward, terminated, truncated."""
    generator, rows = np.random.default_rng(seed), []
    for _ in range(num_steps):
        rows.append(env.step(generator.integers(env.action_space.n))[:4])  # type: ignore[attr-defined]
        if rows[-1][2] or rows[-1][3]:
            break
    return rows


@pytest.mark.parametrize(("protocol", "sticky"), [(MACHADO, 0.25), (NOFRAMESKIP, 0.0)])
def test_protocol_settles_the_emulator(protocol: str, sticky: float) -> None:
    env = make("Breakout", protocol)
    assert emulator(env).getFloat("repeat_action_probability") == sticky
    assert emulator(env).getInt("max_num_frames_per_episode") == 0  # steps are counted instead
    assert env.action_space == gymnasium.spaces.Discrete(4)  # of 18
    assert env.observation_space.shape == (4, 84, 84)
    assert env.observation_space.dtype == np.uint8
    assert make("Breakout", protocol, frame_stack=1).observation_space.shape == (84, 84)


@pytest.mark.parametrize("protocol", [MACHADO, NOFRAMESKIP])
@pytest.mark.parametrize("training", [True, False])
def test_a_game_is_truncated_after_its_steps(protocol: str, training: bool) -> None:
    assert atari.most_steps(None) == atari.most_steps(10**9) == 108_000 // 4
    env = make("MsPacman", protocol, training, max_episode_steps=6)
    env.reset(seed=1)
    begun = emulator(env).getEpisodeFrameNumber()
    rows = play(env, 100)
    assert [row[2:] for row in rows] == [(False, False)] * 5 + [(False, True)]
    assert emulator(env).getEpisodeFrameNumber() - begun == 24


def test_machado_begins_at_once_and_noframeskip_after_one_to_thirty_no_ops() -> None:
    env = make("MsPacman", MACHADO)
    env.reset(seed=4)
    assert emulator(env).getEpisodeFrameNumber() == 0
    env, begun = make("MsPacman", NOFRAMESKIP), set()
    for seed in range(8):
        env.reset(seed=seed)
        begun.add(emulator(env).getEpisodeFrameNumber())
    assert len(begun) > 3
    assert min(begun) >= 1
    assert max(begun) <= 30


def test_fire_is_pressed_where_a_game_has_it() -> None:
    frames = {}
    for game in ("Breakout", "MsPacman"):
        protocol = replace(atari.PROTOCOLS["atari-noframeskip"], no_ops=0)
        env = atari.make(f"ALE/{game}-v5", protocol, True, None, {})
        env.reset(seed=0)
        frames[game] = emulator(env).getEpisodeFrameNumber()
    assert frames == {"Breakout": 8, "MsPacman": 0}


def test_observation_is_the_grey_maximum_of_the_last_two_of_four_frames() -> None:
    env = make("Breakout", MACHADO)
    env.reset(seed=2)
    observation = env.step(1)[0]
    atari.register()
    raw = gymnasium.make("ALE/Breakout-v5", frameskip=1, repeat_action_probability=0.25, obs_type="grayscale")
    raw.reset(seed=atari.emulator_seed(2)[0])
    frames = [raw.step(1)[0] for _ in range(4)]
    expected = cv2.resize(np.maximum(*frames[2:]), (84, 84), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(observation[3], expected)


def test_machado_ends_with_the_game_alone() -> None:
    env = make("Breakout", MACHADO)
    env.reset(seed=0)
    rows = play(env, 2_000)
    assert [row[2] for row in rows] == [False] * (len(rows) - 1) + [True]
    assert emulator(env).lives() == 0


def test_noframeskip_ends_with_a_life_and_goes_on_with_the_game() -> None:
    env, lives, lengths = make("Breakout", NOFRAMESKIP), [], []
    env.reset(seed=0)
    game: Any = env
    while game.get_wrapper_attr("game_score") is None:
        lives.append(emulator(env).lives())
        lengths.append(len(play(env, 2_000, len(lives))))
        if game.get_wrapper_attr("game_continues"):
            env.reset()
    assert lives == [5, 4, 3, 2, 1]
    assert emulator(env).lives() == 0
    assert game.get_wrapper_attr("game_score")[1] == sum(lengths)
    env.reset(seed=0)
    assert emulator(env).lives() == 5


def test_a_seed_begins_a_new_game_though_a_life_was_lost() -> None:
    env = make("Breakout", NOFRAMESKIP)
    first = env.reset(seed=3)[0]
    play(env, 2_000)
    assert env.get_wrapper_attr("game_continues")
    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    assert emulator(env).lives() == 5


@pytest.mark.parametrize("protocol", [MACHADO, NOFRAMESKIP])
def test_training_sees_signs_and_evaluation_the_score(protocol: str) -> None:
    envs = [make("MsPacman", protocol, training, max_episode_steps=110) for training in (True, False)]
    for env in envs:
        env.reset(seed=5)
    clipped, true = ([row[1] for row in play(env, 110)] for env in envs)
    assert set(true) == {0.0, 10.0}  # a dot each
    assert clipped == np.sign(true).tolist()
    assert envs[0].get_wrapper_attr("game_score") == (sum(true), 110)


def test_evaluation_by_noframeskip_plays_whole_games_and_presses_fire_for_the_agent() -> None:
    env = make("Breakout", NOFRAMESKIP, training=False)
    env.reset(seed=0)
    before, pressed = emulator(env).getEpisodeFrameNumber(), []
    for _ in range(400):
        lives = emulator(env).lives()
        terminated = env.step(0)[2]  # no-ops alone: without the button the ball would never come again
        frames = emulator(env).getEpisodeFrameNumber()
        if emulator(env).lives() < lives and not terminated:
            pressed.append(frames - before)
        before = frames
        if terminated:
            break
    assert terminated
    assert len(pressed) == 4
    assert set(pressed) == {16}  # the step, a no-op, FIRE and the action after it


@pytest.mark.parametrize("game", ["Breakout", "MsPacman"])
def test_noframeskip_is_what_stable_baselines3_does(game: str) -> None:
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers", reason="needs the extra sb3")
    ours = make(game, NOFRAMESKIP)
    theirs = wrappers.AtariWrapper(
        gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True)
    )
    seed = atari.emulator_seed(7)[0]
    for env in (ours, theirs):
        env.reset(seed=seed)
    generator, ends = np.random.default_rng(0), 0
    for _ in range(400):
        action = generator.integers(ours.action_space.n)  # type: ignore[attr-defined]
        row, other = ours.step(action), theirs.step(action)
        assert row[1:4] == other[1:4]
        if not row[2]:  # final frames are of no matter to either
            # Theirs is the maximum of colours, made grey, where sprites flicker.
            assert np.mean(row[0][3] != other[0][..., 0]) < 0.02
        if row[2]:
            ends += 1
            seeds = {} if ours.get_wrapper_attr("game_continues") else {"seed": atari.emulator_seed(8)[0]}
            for env in (ours, theirs):
                env.reset(**seeds)
    assert ends


@pytest.mark.parametrize("protocol", [MACHADO, NOFRAMESKIP])
def test_a_seed_determines_a_game(protocol: str) -> None:
    env = make("Breakout", protocol)

    def rows(seed: int) -> list[list[int]]:
        first = env.reset(seed=seed)[0]
        return [frame[3, ::3, ::3].tolist() for frame in (first, *(row[0] for row in play(env, 20)))]

    large = 2**62 + 1
    expected = rows(large)
    assert rows(large) == expected
    assert any(rows(seed) != expected for seed in (3, 4))


def test_emulators_seeds_are_those_of_both_of_ale_pys_environments() -> None:
    atari.register()
    env = gymnasium.make("ALE/Pong-v5")
    for seed in range(5):
        given, emulators = atari.emulator_seed(seed)
        assert 0 < emulators < 2**31
        assert given >= seed
        env.reset(seed=given)
        assert emulator(env).getInt("random_seed") == emulators


@pytest.mark.parametrize(("protocol", "game"), [(MACHADO, "Pong"), (NOFRAMESKIP, "Breakout")])
def test_state_restored_in_mid_game_goes_on_exactly(
    protocol: str, game: str, open_envs: Callable[..., GymnasiumEnvs]
) -> None:
    maker = env_maker(config(game, protocol))
    envs = open_envs(maker, 2)
    actions = torch.randint(4, (90, 2), generator=torch.Generator().manual_seed(5))
    envs.reset()
    rows, states, ends = [], {}, [0]
    for number, action in enumerate(actions):
        if number == 80 or (len(ends) == 3 and number - ends[2] in (1, 2)):  # pending, and begun without an action yet
            states[number] = envs.state_dict()
        rows.append(envs.step(action))
        if rows[-1].terminated[0]:
            ends.append(number)
    finished = envs.finished()
    assert len(states) == (3 if protocol == NOFRAMESKIP else 1)
    for number, state in states.items():
        again = open_envs(maker, 2)
        again.load_state_dict(state)
        for action, row in zip(actions[number:], rows[number:], strict=True):
            for tensor, expected in zip(again.step(action)[:5], row[:5], strict=True):
                assert torch.equal(tensor, expected)
        late = again.finished()
        assert late == finished[len(finished) - len(late) :]


@pytest.mark.parametrize("encoder", [Conv, Impala])
def test_nature_cnn_and_impala_take_the_frames(encoder: Any) -> None:
    envs = GymnasiumEnvs(env_maker(config("Pong", MACHADO)), 1, 0)
    built = encoder(envs.spec.observation_space)
    assert envs.spec.frame_stack == 4
    assert built.encode(envs.reset().observation).shape == (1, built.out_features)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": "CartPole-v1"}, "env.protocol=atari-machado needs an env.id such as ALE/Pong-v5, got CartPole-v1"),
        ({"kwargs": {"frameskip": 2}}, "env.kwargs.frameskip=2 contradicts env.protocol=atari-machado"),
        ({"max_episode_steps": 27_001}, "env.max_episode_steps=27001: env.protocol=atari-machado ends a game after 27"),
        ({"kwargs": {"repeat_action_probability": 0}}, "env.kwargs.repeat_action_probability=0 contradicts"),
        ({"protocol": None, "backend": "ale"}, "env.backend=ale needs an env.protocol: atari-machado or atari-nof"),
        ({"backend": "ale", "kwargs": {"mode": 1}}, "env.backend=ale takes no env.kwargs, got {'mode': 1}"),
        ({"backend": "ale", "asynchronous": True}, "env.asynchronous=true: env.backend=ale has threads of its own"),
        ({"backend": "ale", "observe": (1,)}, "env.observe=[1]: env.backend=ale shows images"),
    ],
)
def test_what_contradicts_a_protocol_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        EnvConfig.model_validate({"id": "ALE/Pong-v5", "protocol": MACHADO, **fields})
    (error,) = caught.value.errors()
    assert text in error["msg"]
    assert "\n" not in error["msg"]


def test_other_arguments_reach_the_game() -> None:
    env = make("Pong", MACHADO, kwargs={"mode": 1, "render_mode": "rgb_array"})
    env.reset(seed=0)
    frame: Any = env.render()
    assert frame.shape == (210, 160, 3)
    with pytest.raises(ValueError, match=r"^env\.id=ALE/Pong-v5 with env\.kwargs={'mode': 77} cannot be made: "):
        make("Pong", MACHADO, kwargs={"mode": 77})


def test_an_unknown_game_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"^env\.id=ALE/Pongg-v5: .*; did you mean ALE/Pong-v5\?$"):
        make("Pongg", MACHADO)


@pytest.mark.parametrize(("module", "package"), [("ale_py", "ale-py"), ("cv2", "opencv-python-headless")])
def test_a_missing_package_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = atari.find_spec
    monkeypatch.setattr(atari, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(
        ValueError, match=rf"^env\.id=ALE/Pong-v5 needs .*: {package}; pip install 'graftwork\[atari\]'$"
    ):
        make("Pong", MACHADO)


def test_without_a_protocol_the_game_is_as_ale_py_has_it() -> None:
    env = env_maker(EnvConfig(id="ALE/Pong-v5"))()
    assert env.observation_space.shape == (210, 160, 3)
    assert emulator(env).getFloat("repeat_action_probability") == 0.25
