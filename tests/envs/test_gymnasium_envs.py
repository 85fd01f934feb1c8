from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from graftwork.envs import GymnasiumEnvs, NonFiniteEnvError
from graftwork.envs.contract import EnvStep, Episode
from graftwork.envs.sync_envs import SyncEnvs
from graftwork.spaces import first_leaf, leaves, tensors_of, to_arrays

Make = Callable[[], gymnasium.Env[Any, Any]]
Open = Callable[..., GymnasiumEnvs]
Actions = Callable[..., list[Tensor]]
Plain = Callable[[EnvStep], tuple[list[Any], ...]]


class Scripted(gymnasium.Env[Any, Any]):
    """Observes 10 * episode + step, is paid half the step, and ends as the script says, the same again and again."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    action_space = spaces.Discrete(4)

    def __init__(self, lengths: tuple[int, ...], ends: tuple[str, ...]) -> None:
        self.lengths, self.ends, self.episode = lengths, ends, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episode, self.step_count = self.episode + 1, 0
        return np.array([10.0 * self.episode]), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_count += 1
        assert self.step_count <= self.lengths[self.episode], "stepped after its end"
        end = self.ends[self.episode] if self.step_count == self.lengths[self.episode] else ""
        observation = np.array([10.0 * self.episode + self.step_count])
        return observation, self.step_count / 2, end == "terminated", end == "truncated", {}


def scripted() -> Make:
    """Two environments: episodes of 2 and 3 steps, and of 1 and 4."""
    scripts = iter([((2, 3, 9), ("terminated", "truncated", "")), ((1, 4, 9), ("truncated", "terminated", ""))])
    return lambda: Scripted(*next(scripts))


def columns(rows: Iterable[EnvStep]) -> dict[str, list[list[float]]]:
    """Each field of some rows, an environment a list."""
    kept = list(rows)
    return {
        "observation": torch.stack([row.observation[:, 0] for row in kept], 1).tolist(),
        **{
            name: torch.stack([getattr(row, name) for row in kept], 1).tolist()
            for name in ("reward", "terminated", "truncated", "is_first")
        },
    }


class TestRows:
    def test_after_an_end_comes_the_final_observation_and_then_a_filler(self, open_envs: Open) -> None:
        envs = open_envs(scripted(), 2)
        action = torch.zeros(2, dtype=torch.int64)
        found = columns([envs.reset(), *(envs.step(action) for _ in range(7))])
        yes, no = True, False
        assert found == {
            "observation": [[0, 1, 2, 10, 11, 12, 13, 20], [0, 1, 10, 11, 12, 13, 14, 20]],
            "reward": [[0, 0.5, 1, 0, 0.5, 1, 1.5, 0], [0, 0.5, 0, 0.5, 1, 1.5, 2, 0]],
            "terminated": [[no, no, yes, no, no, no, no, no], [no, no, no, no, no, no, yes, no]],
            "truncated": [[no, no, no, no, no, no, yes, no], [no, yes, no, no, no, no, no, no]],
            "is_first": [[yes, no, no, yes, no, no, no, yes], [yes, no, yes, no, no, no, no, yes]],
        }
        assert envs.finished() == [Episode(0.5, 1), Episode(1.5, 2), Episode(3.0, 3), Episode(5.0, 4)]
        assert envs.finished() == []

    def test_at_rest_the_final_observation_stays_until_a_reset(self, open_envs: Open) -> None:
        envs = open_envs(scripted(), 2, autoreset=False)
        action = torch.zeros(2, dtype=torch.int64)
        rows = [envs.reset(), *(envs.step(action) for _ in range(4)), envs.reset(), envs.step(action)]
        yes, no = True, False
        assert columns(rows) == {
            "observation": [[0, 1, 2, 2, 2, 10, 11], [0, 1, 1, 1, 1, 10, 11]],
            "reward": [[0, 0.5, 1, 0, 0, 0, 0.5], [0, 0.5, 0, 0, 0, 0, 0.5]],
            "terminated": [[no, no, yes, no, no, no, no], [no] * 7],
            "truncated": [[no] * 7, [no, yes, no, no, no, no, no]],
            "is_first": [[yes, no, no, yes, yes, yes, no], [yes, no, yes, yes, yes, yes, no]],
        }
        assert envs.finished() == [Episode(0.5, 1), Episode(1.5, 2)]

    def test_a_reset_forgets_the_running_episodes(self, open_envs: Open) -> None:
        envs = open_envs(scripted(), 2)
        action = torch.zeros(2, dtype=torch.int64)
        envs.reset()
        envs.step(action)  # ends the second's episode 0; the first's is half done
        assert envs.reset().is_first.tolist() == [True, True]
        for _ in range(4):
            envs.step(action)
        assert envs.finished() == [Episode(0.5, 1), Episode(3.0, 3), Episode(5.0, 4)]

    def test_types_are_those_of_the_contract(self, open_envs: Open) -> None:
        envs = open_envs(scripted(), 2)
        for row in (envs.reset(), envs.step(torch.zeros(2, dtype=torch.int64))):
            assert (row.observation.dtype, row.observation.shape) == (torch.float32, (2, 1))
            assert (row.reward.dtype, row.reward.shape) == (torch.float32, (2,))
            for flag in (row.terminated, row.truncated, row.is_first):
                assert (flag.dtype, flag.shape) == (torch.bool, (2,))

    @pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
    def test_earlier_rows_do_not_change(
        self, any_walk: Make, open_envs: Open, random_actions: Actions, plain: Plain, asynchronous: bool
    ) -> None:
        envs = open_envs(any_walk, asynchronous=asynchronous)
        rows = [envs.reset()]
        then = [plain(rows[0])]
        for action in random_actions(140):  # more than two blocks
            rows.append(envs.step(action))
            then.append(plain(rows[-1]))
        envs.reset()
        assert [plain(row) for row in rows] == then

    @pytest.mark.parametrize("autoreset", [True, False], ids=["autoreset", "resting"])
    def test_processes_of_their_own_change_nothing(
        self, any_walk: Make, open_envs: Open, random_actions: Actions, plain: Plain, autoreset: bool
    ) -> None:
        here = open_envs(any_walk, autoreset=autoreset)
        elsewhere = open_envs(any_walk, autoreset=autoreset, asynchronous=True)
        assert here.spec == elsewhere.spec
        assert plain(here.reset()) == plain(elsewhere.reset())
        for action in random_actions(60):
            assert plain(here.step(action)) == plain(elsewhere.step(action))
        assert here.finished() == elsewhere.finished() != []


class TestFinished:
    def test_episodes_asked_for_late_are_those_asked_for_at_each_row(
        self, walk: Make, open_envs: Open, random_actions: Actions
    ) -> None:
        often, late = open_envs(walk), open_envs(walk)
        found = []
        for envs in (often, late):
            envs.reset()
        for action in random_actions(300):
            often.step(action)
            late.step(action)
            found += often.finished()
        assert late.finished() == found
        assert len(found) > 100
        assert late.finished() == []

    def test_those_that_were_not_asked_for_are_not_in_a_checkpoint_and_half_ones_are(
        self, walk: Make, open_envs: Open, random_actions: Actions
    ) -> None:
        envs, other = open_envs(walk), open_envs(walk)
        other.reset()
        for action in random_actions(9):
            other.step(action)  # forgotten by what is loaded
        envs.reset()
        for action in random_actions(100):
            envs.step(action)
        other.load_state_dict(envs.state_dict())
        before = envs.finished()
        for action in random_actions(90):
            envs.step(action)
            other.step(action)
        assert other.finished() == envs.finished() != []
        assert len(before) > 20

    def test_a_row_that_fails_counts_for_nothing(self, broken: Callable[..., Make], open_envs: Open) -> None:
        envs, action = open_envs(broken("nan", 4)), torch.ones(3, dtype=torch.int64)
        envs.reset()
        states = []

        def play() -> None:
            for _ in range(60):
                states.append(envs.state_dict())
                envs.step(action)

        with pytest.raises(NonFiniteEnvError):
            play()
        after = envs.state_dict()
        assert after["statistics"] == states[-1]["statistics"]
        assert after["observation"].equal(states[-1]["observation"])


class Spaces(gymnasium.Env[Any, Any]):
    """Observes samples of a space and remembers its actions."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action
        self.observed: list[Any] = []
        self.acted: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.observation_space.seed(3)
        return self.observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.acted.append(action)
        return self.observe(), 0.0, False, False, {}

    def observe(self) -> Any:
        self.observed.append(self.observation_space.sample())
        return self.observed[-1]


OTHER_THAN_BOX: list[spaces.Space[Any]] = [
    spaces.Discrete(5),
    spaces.Discrete(5, start=-2),
    spaces.MultiBinary(3),
    spaces.MultiDiscrete([2, 4]),
    spaces.Text(4),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2, 2), np.float32)]),
    spaces.Tuple([spaces.Discrete(3)] * 11),
    spaces.Dict({"a": spaces.Box(0, 9, (2,), np.int32), "b": spaces.MultiBinary(4)}),
    spaces.Dict({"seen": spaces.Box(0, 1, (3, 2), np.bool_), "place": spaces.Discrete(3)}),
    spaces.Dict(
        {
            "eye": spaces.Box(0, 255, (2, 3), np.uint8),
            "body": spaces.Dict({"pose": spaces.Box(-1, 1, (2,), np.float64), "word": spaces.Text(3)}),
        }
    ),
]


class TestSpaces:
    @pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
    @pytest.mark.parametrize("space", OTHER_THAN_BOX, ids=str)
    def test_an_observation_that_is_no_box_becomes_its_leaves(
        self, space: spaces.Space[Any], asynchronous: bool, open_envs: Open
    ) -> None:
        envs = open_envs(lambda: Spaces(deepcopy(space), spaces.Discrete(2)), 2, asynchronous=asynchronous)
        assert envs.spec.observation_space == space
        own = deepcopy(space)
        own.seed(3)
        actions = torch.zeros(2, dtype=torch.int64)
        rows = [envs.reset(), *(envs.step(actions) for _ in range(5))]
        for row in rows:
            expected = to_arrays(space, own.sample())
            named = expected if isinstance(expected, dict) else {"": expected}
            found = tensors_of(row.observation)
            assert list(found) == list(named)
            for name, leaf in leaves(space).items():
                assert found[name].dtype == leaf.dtype
                assert found[name].tolist() == [named[name].tolist()] * 2

    def test_a_box_is_not_wrapped(self, walk: Make, open_envs: Open) -> None:
        env = walk()
        envs = open_envs(lambda: env, 1)
        assert isinstance(envs._envs, SyncEnvs)
        assert envs._envs.envs[0].env is env

    @pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
    @pytest.mark.parametrize(
        ("dtype", "expected"),
        [
            (np.uint8, torch.uint8),
            (np.float64, torch.float32),
            (np.float32, torch.float32),
            (np.int16, torch.float32),
            (np.bool_, torch.bool),
        ],
    )
    def test_uint8_and_bool_are_kept_and_everything_else_becomes_float32(
        self, dtype: type[Any], expected: torch.dtype, asynchronous: bool, open_envs: Open
    ) -> None:
        env = Spaces(spaces.Box(0, 1 if dtype is np.bool_ else 7, (2, 3), dtype), spaces.Discrete(2))
        envs = open_envs(lambda: env, 1, asynchronous=asynchronous)
        row = envs.reset()
        assert first_leaf(row.observation).dtype == expected
        env.reset()
        assert row.observation.float().tolist() == [env.observed[-1].astype(np.float32).tolist()]

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Sequence(spaces.Discrete(3)),
            spaces.Graph(spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64), None),
            spaces.Dict({"a": spaces.Sequence(spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64))}),
        ],
        ids=lambda space: type(space).__name__,
    )
    def test_a_space_without_a_fixed_shape_is_refused_in_one_line(self, space: spaces.Space[Any]) -> None:
        with pytest.raises(ValueError, match=r"^observation space .* is not supported: .* wrap the env") as caught:
            GymnasiumEnvs(lambda: Spaces(space, spaces.Discrete(2)), 1, 0)
        assert "\n" not in str(caught.value)

    def test_the_first_action_has_the_number_the_space_starts_with(self, open_envs: Open) -> None:
        env = Spaces(spaces.Box(0, 1, (1,)), spaces.Discrete(3, start=-1))
        envs = open_envs(lambda: env, 1)
        assert (envs.spec.num_actions, envs.spec.action_start) == (3, -1)
        envs.reset()
        for action in (0, 2, 1):
            envs.step(torch.tensor([action]))
        assert env.acted == [-1, 1, 0]
        # A restored environment gets the same actions again, not moved twice.
        envs.load_state_dict(envs.state_dict())
        assert env.acted == [-1, 1, 0] * 2

    def test_continuous_actions_are_said_in_one_line(self, open_envs: Open) -> None:
        space = spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64)
        spec = open_envs(lambda: Spaces(spaces.Box(0, 1, (1,)), space), 1).spec
        assert spec.num_actions is None
        with pytest.raises(
            ValueError,
            match=r"^agent\.kind=dqn needs a Discrete action space, but env\.id=Spaces has Box\(\[ ?0\. +1\.",
        ) as caught:
            spec.discrete("dqn")
        assert "\n" not in str(caught.value)
