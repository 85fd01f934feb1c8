import sys
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.envs import EnvConfig, EnvironmentFailure, FrameStack, GymnasiumEnvs, env_maker
from graftwork.envs.contract import EnvStep
from graftwork.spaces import leaves, tensors_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Make = Callable[[], gymnasium.Env[Any, Any]]
Open = Callable[..., GymnasiumEnvs]
Plain = Callable[[EnvStep], tuple[list[Any], ...]]

asynchronously = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
K = 3


class Counting(gymnasium.Env[Any, Any]):
    """Frames filled with the number of the step, all in the same memory; episodes of 6 steps."""

    def __init__(self, shape: tuple[int, ...], dtype: type[Any] = np.uint8) -> None:
        self.observation_space = spaces.Box(0, 9, shape, dtype)
        self.action_space = spaces.Discrete(2)
        self.frame = np.zeros(shape, dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.step_count = 0
        self.frame[...] = 1
        return self.frame, {"note": "first"}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        self.frame[...] = 1 + self.step_count
        return self.frame, 0.5, self.step_count == 6, False, {"note": "later"}


class Samples(gymnasium.Env[Any, Any]):
    """Samples of a space; `odd`, if given, in place of the third."""

    def __init__(self, space: spaces.Space[Any], odd: Any = None) -> None:
        self.observation_space, self.action_space = deepcopy(space), spaces.Discrete(2)
        self.odd = odd

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(5)
        self.count = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        observation = self.observation_space.sample()
        return observation if self.odd is None or self.count < 2 else self.odd, 0.0, False, False, {}


@pytest.mark.parametrize(
    ("shape", "stacked"),
    [
        ((), (3,)),
        ((5,), (15,)),
        ((6, 7), (3, 6, 7)),
        ((1, 6, 7), (3, 6, 7)),
        ((2, 6, 7), (6, 6, 7)),
        ((6, 7, 2), (6, 6, 7)),
        ((6, 7, 1), (3, 6, 7)),
        ((4, 7, 4), (12, 4, 7)),
        ((2, 3, 4, 5), (6, 3, 4, 5)),
    ],
    ids=str,
)
def test_frames_stand_along_axis_0_oldest_first_and_the_first_one_fills_up(
    shape: tuple[int, ...], stacked: tuple[int, ...]
) -> None:
    env = FrameStack(Counting(shape), K)
    assert env.observation_space == spaces.Box(0, 9, stacked, np.uint8)
    observation, info = env.reset()
    assert info == {"note": "first"}
    observations = [observation, *(env.step(0)[0] for _ in range(4))]
    for found, expected in zip(observations, [(1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)], strict=True):
        assert found in env.observation_space
        assert found.flags.c_contiguous
        frames = found.reshape(K, -1)
        assert frames.min(1).tolist() == frames.max(1).tolist() == list(expected)
    assert env.step(0)[1:] == (0.5, False, False, {"note": "later"})
    assert env.reset()[0].max() == 1  # nothing of the episode before


def test_channels_that_were_last_are_channels() -> None:
    space = spaces.Box(0, 255, (5, 7, 2), np.uint8)
    env = FrameStack(Samples(space), K)
    plain = Samples(space)
    frames = [plain.reset()[0], plain.step(0)[0]]
    env.reset()
    observation, *_ = env.step(0)
    for place, (frame, channel) in enumerate([(0, 0), (0, 1), (0, 0), (0, 1), (1, 0), (1, 1)]):
        assert observation[place].tolist() == frames[frame][:, :, channel].tolist()


def test_bounds_go_with_their_frames() -> None:
    low, high = np.array([-1.0, -2.0], np.float32), np.array([3.0, np.inf], np.float32)
    space = FrameStack(Samples(spaces.Box(low, high)), 2).observation_space
    assert space == spaces.Box(np.tile(low, 2), np.tile(high, 2))


@pytest.mark.parametrize(
    ("space", "stacked"),
    [
        (spaces.Discrete(5, start=-2), spaces.MultiDiscrete([5, 5, 5], start=[-2, -2, -2])),
        (spaces.MultiDiscrete([2, 4]), spaces.MultiDiscrete([2, 4] * 3)),
        (spaces.MultiBinary(2), spaces.MultiBinary((6,))),
        (spaces.MultiBinary([2, 5]), spaces.MultiBinary([6, 5])),
        (spaces.Box(0, 1, (4, 4, 2), np.bool_), spaces.Box(0, 1, (6, 4, 4), np.bool_)),
        (spaces.Text(2, charset="ab"), spaces.MultiDiscrete([3] * 6)),
        (
            spaces.Dict({"eye": spaces.Box(0, 9, (4, 5), np.uint8), "at": spaces.Tuple([spaces.Discrete(3)])}),
            spaces.Dict(
                {"eye": spaces.Box(0, 9, (3, 4, 5), np.uint8), "at": spaces.Tuple([spaces.MultiDiscrete([3] * 3)])}
            ),
        ),
    ],
    ids=str,
)
@asynchronously
def test_every_leaf_is_stacked(
    open_envs: Open, space: spaces.Space[Any], stacked: spaces.Space[Any], asynchronous: bool
) -> None:
    env = FrameStack(Samples(space), K)
    assert env.observation_space == stacked
    assert env.reset()[0] in stacked
    assert env.step(0)[0] in stacked
    alone = open_envs(lambda: Samples(space), 2)
    envs = open_envs(lambda: FrameStack(Samples(space), K), 2, asynchronous=asynchronous)
    assert (envs.spec.frame_stack, alone.spec.frame_stack) == (K, 1)
    assert list(leaves(stacked)) == list(leaves(space))
    action = torch.zeros(2, dtype=torch.int64)
    frames = [tensors_of(row.observation) for row in [alone.reset(), *(alone.step(action) for _ in range(4))]]
    rows = [tensors_of(row.observation) for row in [envs.reset(), *(envs.step(action) for _ in range(4))]]
    for t, row in enumerate(rows):
        for name, found in row.items():
            parts = [frames[max(0, u)][name] for u in (t - 2, t - 1, t)]
            if parts[0].ndim == 4:  # [B, H, W, C]
                parts = [part.movedim(3, 1) for part in parts]
            if parts[0].ndim in (1, 3) and isinstance(leaves(space)[name].space, (spaces.Box, spaces.Discrete)):
                parts = [part.unsqueeze(1) for part in parts]
            assert found.dtype == parts[0].dtype
            assert found.tolist() == torch.cat(parts, 1).tolist()


def test_what_was_observed_does_not_change_later_and_may_be_written_to() -> None:
    env = FrameStack(Counting((4,)), 2)
    seen = [env.reset()[0], *(env.step(0)[0] for _ in range(3))]
    assert [observation.tolist() for observation in seen] == [
        [a] * 4 + [b] * 4 for a, b in [(1, 1), (1, 2), (2, 3), (3, 4)]
    ]
    seen[-1][:] = 77
    assert env.step(0)[0].tolist() == [4] * 4 + [5] * 4


class TestSpec:
    def frames(self, open_envs: Open, make: Make) -> int:
        return open_envs(make, 2).spec.frame_stack

    def test_without_a_stack_it_is_1(self, open_envs: Open) -> None:
        assert self.frames(open_envs, lambda: Counting((4,))) == 1

    def test_wrappers_that_leave_observations_alone_are_seen_through(self, open_envs: Open) -> None:
        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.wrappers.ClipReward(gymnasium.wrappers.TimeLimit(FrameStack(Counting((4,)), K), 5), 0, 1)

        assert self.frames(open_envs, make) == K

    def test_a_wrapper_that_makes_others_of_them_hides_the_stack(self, open_envs: Open) -> None:
        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.wrappers.FlattenObservation(FrameStack(Counting((4, 5)), K))

        assert self.frames(open_envs, make) == 1

    def test_a_stack_of_a_dict_is_seen(self, open_envs: Open) -> None:
        space = spaces.Dict({"a": spaces.Discrete(2)})
        assert self.frames(open_envs, lambda: FrameStack(Samples(space), K)) == K


class TestConfig:
    def test_the_field_stacks_what_is_shown(self, open_envs: Open) -> None:
        config = EnvConfig(id="CartPole-v1", observe=(0, 2), frame_stack=4)
        envs = open_envs(env_maker(config), 2)
        assert envs.spec.frame_stack == 4
        assert envs.reset().observation.shape == (2, 8)

    def test_one_frame_is_no_stack(self) -> None:
        assert not isinstance(env_maker(EnvConfig(id="CartPole-v1"))(), FrameStack)

    @pytest.mark.parametrize("number", [0, -1])
    def test_no_frame_is_refused(self, number: int) -> None:
        with pytest.raises(ValueError, match="frame_stack"):
            EnvConfig(id="CartPole-v1", frame_stack=number)
        with pytest.raises(ValueError, match=rf"^env\.frame_stack={number}: must be at least 1$"):
            FrameStack(Counting((4,)), number)

    def test_more_frames_than_a_replay_can_count_are_refused(self) -> None:
        assert EnvConfig(id="CartPole-v1", frame_stack=256).frame_stack == 256
        with pytest.raises(ValueError, match="frame_stack"):
            EnvConfig(id="CartPole-v1", frame_stack=257)
        with pytest.raises(ValueError, match=r"^env\.frame_stack=257: must be at most 256$"):
            FrameStack(Counting((4,)), 257)


@asynchronously
def test_half_an_episode_is_restored_with_its_frames(open_envs: Open, plain: Plain, asynchronous: bool) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return FrameStack(Counting((4, 4)), K)

    envs = open_envs(make, 2)
    action = torch.zeros(2, dtype=torch.int64)
    rows, states = [plain(envs.reset())], [envs.state_dict()]
    for _ in range(10):
        rows.append(plain(envs.step(action)))
        states.append(envs.state_dict())
    other = open_envs(make, 2, asynchronous=asynchronous)
    for cut, state in enumerate(states):
        other.load_state_dict(state)
        for t in range(cut + 1, 11):
            assert plain(other.step(action)) == rows[t]


IMAGE = spaces.Box(0, 255, (4, 5), np.uint8)
POSE = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.filterwarnings("ignore:.*ERROR")
@asynchronously
@pytest.mark.parametrize("num_frames", [1, K], ids=["alone", "stacked"])
@pytest.mark.parametrize(
    ("space", "odd", "reason"),
    [
        (IMAGE, np.zeros((4, 6), np.uint8), "observation has shape (4, 6), its space says (4, 5)"),
        (IMAGE, np.zeros((4, 5, 1), np.uint8), "observation has shape (4, 5, 1), its space says (4, 5)"),
        (IMAGE, np.zeros((4, 5), np.float32), "observation is of type float32, its space says uint8"),
        (IMAGE, np.full((4, 5), 300, np.uint16), "observation holds 300, its space is of type uint8"),
        (POSE, np.zeros(2, np.complex64), "observation is of type complex64, its space says float32"),
        (POSE, np.zeros((1, 2), np.float32), "observation has shape (1, 2), its space says (2,)"),
        (POSE, None, "observation has shape (), its space says (2,)"),
        (
            spaces.Dict({"eye": IMAGE, "at": POSE}),
            {"eye": np.zeros((4, 5), np.uint8), "at": np.zeros(3, np.float32)},
            "observation 'at' has shape (3,), its space says (2,)",
        ),
        (
            spaces.Dict({"eye": IMAGE, "at": POSE}),
            {"eye": np.zeros((4, 5)), "at": np.zeros(2, np.float32)},
            "observation 'eye' is of type float64, its space says uint8",
        ),
        (spaces.Dict({"eye": IMAGE, "at": POSE}), {"at": np.zeros(2)}, "observation 'eye': there is no entry 'eye'"),
        (
            spaces.Dict({"eye": IMAGE, "at": POSE}),
            np.zeros(2, np.float32),
            "observation 'at': expected a dict with the entry 'at', got ndarray",
        ),
        (spaces.Discrete(3), 0.5, "observation is of type float64, its space says int64"),
        (spaces.MultiDiscrete([3, 4]), np.zeros(3, np.int64), "observation has shape (3,), its space says (2,)"),
        (spaces.Box(0, 1, (2,), np.bool_), np.ones(2), "observation is of type float64, its space says bool"),
        (spaces.Text(2, charset="ab"), "abc", "observation has 3 characters, Text(1, 2, charset=ab) at most 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_observation_of_another_shape_or_type_names_the_leaf_in_one_line(
    open_envs: Open, space: spaces.Space[Any], odd: Any, reason: str, num_frames: int, asynchronous: bool
) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        env = Samples(space, np.asarray(None) if odd is None else odd)
        return env if num_frames == 1 else FrameStack(env, num_frames)

    envs = open_envs(make, 2, asynchronous=asynchronous)
    action = torch.zeros(2, dtype=torch.int64)
    envs.reset()
    envs.step(action)
    with pytest.raises(EnvironmentFailure) as caught:
        envs.step(action)
    text = str(caught.value)
    assert text.startswith("environment failed at env ")
    assert ", episode 0, step 2 (begun by reset(seed=" in text
    assert text.endswith(f": ValueError: {reason}")


def test_entries_of_an_observation_that_grew_are_not_taken_for_others(open_envs: Open) -> None:
    class Grows(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, *others = self.env.step(action)
            return np.append(observation, np.float32(0)), *others  # type: ignore[return-value]

    from graftwork.envs import PartialObservation

    envs = open_envs(lambda: PartialObservation(Grows(gymnasium.make("CartPole-v1")), (0, 2)), 1)
    envs.reset()
    with pytest.raises(EnvironmentFailure, match=r": observation has shape \(5,\), its space says \(4,\)$"):
        envs.step(torch.tensor([1]))
