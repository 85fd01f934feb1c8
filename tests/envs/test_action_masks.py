"""Walks whose infos say which actions are legal, as gymnasium's Taxi does."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from graftwork.envs import EnvironmentFailure, GymnasiumEnvs, env_maker, episode_seed
from graftwork.envs.actions import choices
from graftwork.envs.contract import EnvStep
from graftwork.envs.make import EnvConfig

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Make = Callable[[], gymnasium.Env[Any, Any]]
Open = Callable[..., GymnasiumEnvs]

pytestmark = pytest.mark.filterwarnings("ignore:.*ERROR")  # gymnasium warns of a worker's error before it raises it
asynchronously = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Masked(gymnasium.Env[Any, Any]):
    """Random masks of 3 actions, from the seed; an episode ends after 2 to 6 steps, then with a mask of no action.

    An illegal action is an error. In the episode of the seed `bad`, the info of step 1 is `wrong`.
    """

    def __init__(self, bad: int | None = None, wrong: dict[str, Any] | None = None, ends: str = "terminated") -> None:
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = Discrete(3, start=4)
        self.bad, self.wrong, self.ends = bad, wrong, ends
        self.num_resets = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.is_bad = seed == self.bad
        self.num_resets += 1
        self.step_count, self.length = 0, int(self.np_random.integers(2, 7))
        return self.observe(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.mask[int(action) - 4], "illegal"
        self.step_count += 1
        done = self.step_count == self.length
        observation, info = self.observe(), self.info()
        if done:
            info = {"action_mask": np.zeros(3, np.int8)}
        if self.is_bad and self.step_count == 1:
            info = self.wrong or {}
        return observation, 1.0, done and self.ends == "terminated", done and self.ends == "truncated", info

    def observe(self) -> Any:
        return self.np_random.normal(size=2).astype(np.float32)

    def info(self) -> dict[str, Any]:
        mask = self.np_random.integers(0, 2, 3)
        mask[self.np_random.integers(3)] = 1
        self.mask = mask.astype(np.int8)
        return {"action_mask": self.mask, "prob": 1.0}


class Fixed(gymnasium.Env[Any, Any]):
    """One mask for ever."""

    def __init__(self, space: gymnasium.Space[Any], mask: Any) -> None:
        self.observation_space, self.action_space, self.mask = Box(0, 1, (1,), np.float32), space, mask

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(1, np.float32), {"action_mask": self.mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), 0.0, False, False, {"action_mask": self.mask}


def first_legal(row: EnvStep) -> Tensor:
    assert row.action_mask is not None
    return row.action_mask.int().argmax(-1)


def play(envs: GymnasiumEnvs) -> None:
    """Episodes 0 to 2 and more, unless something fails."""
    row = envs.reset()
    for _ in range(60):
        row = envs.step(first_legal(row))


@asynchronously
@pytest.mark.parametrize("autoreset", [True, False], ids=["autoreset", "resting"])
def test_rows_have_the_masks_that_the_environments_gave(open_envs: Open, autoreset: bool, asynchronous: bool) -> None:
    envs = open_envs(Masked, autoreset=autoreset, asynchronous=asynchronous)
    assert envs.spec.has_action_mask
    rows = [envs.reset()]
    for _ in range(30):
        rows.append(envs.step(first_legal(rows[-1])))
    for i in range(3):
        episode, env, done, expected = -1, Masked(), True, np.zeros(3)
        for t, row in enumerate(rows):
            assert row.action_mask is not None
            assert (row.action_mask.dtype, row.action_mask.shape) == (torch.bool, (3, 3))
            if row.is_first[i] and (autoreset or t == 0):
                episode += 1
                _, info = env.reset(seed=episode_seed(0, 0, i, episode))
                expected = info["action_mask"]
            elif not row.is_first[i]:
                *_, done, _, info = env.step(4 + int(first_legal(rows[t - 1])[i]))
                expected = np.ones(3) if done else info["action_mask"]
            assert row.action_mask[i].tolist() == (expected == 1).tolist()
        assert episode >= 3 or not autoreset


@asynchronously
def test_earlier_masks_do_not_change(open_envs: Open, asynchronous: bool) -> None:
    envs = open_envs(Masked, asynchronous=asynchronous)
    rows, then = [envs.reset()], []
    for _ in range(20):
        then.append(rows[-1].action_mask.tolist())  # type: ignore[union-attr]
        rows.append(envs.step(first_legal(rows[-1])))
    assert [row.action_mask.tolist() for row in rows[:-1]] == then  # type: ignore[union-attr]


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_only_a_final_row_that_forbids_everything_is_opened(open_envs: Open, ends: str) -> None:
    envs = open_envs(partial(Masked, ends=ends), 1)
    rows = [envs.reset()]
    while not (rows[-1].terminated | rows[-1].truncated).any():
        rows.append(envs.step(first_legal(rows[-1])))
    assert rows[-1].action_mask.tolist() == [[True] * 3]  # type: ignore[union-attr]


def test_a_truncated_row_keeps_the_mask_that_its_value_is_bootstrapped_with(open_envs: Open) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return gymnasium.wrappers.TimeLimit(Fixed(Discrete(3), np.array([0, 1, 1], np.int8)), 1)

    envs = open_envs(make, 1)
    envs.reset()
    row = envs.step(torch.tensor([1]))
    assert row.truncated.tolist() == [True]
    assert row.action_mask.tolist() == [[False, True, True]]  # type: ignore[union-attr]


def test_after_termination_a_mask_may_be_missing(open_envs: Open) -> None:
    class Ends(Fixed):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return np.zeros(1, np.float32), 0.0, True, False, {}

    envs = open_envs(lambda: Ends(Discrete(3), np.array([0, 1, 1], np.int8)), 2)
    rows = [envs.reset(), *(envs.step(torch.tensor([1, 2])) for _ in range(2))]
    assert [row.action_mask[0].tolist() for row in rows] == [  # type: ignore[index]
        [False, True, True],
        [True, True, True],
        [False, True, True],
    ]


@asynchronously
def test_taxi_has_a_mask_and_cartpole_has_none(open_envs: Open, asynchronous: bool) -> None:
    taxi = open_envs(env_maker(EnvConfig(id="Taxi-v4")), 2, asynchronous=asynchronous)
    row = taxi.reset()
    assert taxi.spec.has_action_mask
    assert row.action_mask is not None
    for i in range(2):
        _, info = gymnasium.make("Taxi-v4").reset(seed=episode_seed(0, 0, i, 0))
        assert row.action_mask[i].tolist() == (info["action_mask"] == 1).tolist()
    pole = open_envs(env_maker(EnvConfig(id="CartPole-v1")), 2, asynchronous=asynchronous)
    assert not pole.spec.has_action_mask
    assert pole.reset().action_mask is None
    assert pole.step(torch.tensor([0, 1])).action_mask is None


def test_masks_lie_where_the_rows_lie(open_envs: Open) -> None:
    row = open_envs(Masked, device="meta").reset()
    assert row.action_mask is not None
    assert row.action_mask.device == row.reward.device == torch.device("meta")


def test_looking_for_a_mask_costs_no_reset(open_envs: Open) -> None:
    env = Masked()
    envs = open_envs(lambda: env, 1)
    assert env.num_resets == 1
    first = envs.reset()
    assert env.num_resets == 1
    again, _ = Masked().reset(seed=episode_seed(0, 0, 0, 0))
    assert first.observation[0].tolist() == again.tolist()
    assert envs.reset(0).observation.equal(first.observation)
    assert env.num_resets == 2


def test_another_first_episode_than_the_one_looked_at_is_begun(open_envs: Open) -> None:
    one, other = open_envs(Masked), open_envs(Masked)
    one.reset()
    for expected, found in zip(one.reset(), other.reset(1), strict=True):
        assert expected.equal(found)


@asynchronously
@pytest.mark.parametrize("autoreset", [True, False], ids=["autoreset", "resting"])
def test_masks_go_on_after_a_restore_at_every_cut(open_envs: Open, autoreset: bool, asynchronous: bool) -> None:
    envs = open_envs(Masked, autoreset=autoreset)
    states, rows = [envs.state_dict()], [envs.reset()]
    for t in range(25):
        states.append(envs.state_dict())
        rows.append(envs.reset() if not autoreset and t % 9 == 8 else envs.step(first_legal(rows[-1])))
    other = open_envs(Masked, autoreset=autoreset, asynchronous=asynchronous)
    for cut, state in enumerate(states[:-1]):
        other.load_state_dict(state)
        for t in range(cut, min(cut + 9, 25)):
            is_reset = t == 0 or (not autoreset and (t - 1) % 9 == 8)
            row = other.reset() if is_reset else other.step(first_legal(rows[t - 1]))
            for expected, found in zip(rows[t], row, strict=True):
                assert expected.equal(found), f"cut {cut}, row {t}"


@asynchronously
@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"action_mask": np.zeros(3, np.int8)}, r"the action mask forbids every action"),
        ({"action_mask": np.ones(4, np.int8)}, r"the action mask has shape (4,), the action space says (3,)"),
        ({"action_mask": np.array([1, 0, 2])}, r"the action mask holds 2; allowed: 0 and 1"),
        ({"action_mask": np.array([0.0, -np.inf, 0.0])}, r"the action mask holds -inf; allowed: 0 and 1"),
        ({"action_mask": None}, r"the action mask has shape (), the action space says (3,)"),
        ({"mask": np.ones(3)}, r"the info has no action mask, but that of the first reset had one"),
    ],
    ids=["none legal", "length", "value", "float", "None", "missing"],
)
def test_a_mask_that_is_wrong_names_env_episode_and_step(
    open_envs: Open, wrong: dict[str, Any], reason: str, asynchronous: bool
) -> None:
    bad = episode_seed(0, 0, 1, 2)
    envs = open_envs(partial(Masked, bad, wrong), asynchronous=asynchronous)
    with pytest.raises(EnvironmentFailure) as caught:
        play(envs)
    expected = f"environment failed at env 1, episode 2, step 1 (begun by reset(seed={bad})): ValueError: {reason}"
    assert str(caught.value) == expected


def test_a_mask_that_comes_late_is_an_error(walk: Make, open_envs: Open) -> None:
    class Late(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
            observation, reward, terminated, truncated, _ = self.env.step(action)
            return observation, reward, terminated, truncated, {"action_mask": np.ones(3, np.int8)}

    envs = open_envs(lambda: Late(walk()), 2)
    assert not envs.spec.has_action_mask
    envs.reset()
    with pytest.raises(
        EnvironmentFailure, match=r"env 0, episode 0, step 1 .*: ValueError: an info has an action mask"
    ):
        envs.step(torch.tensor([0, 1]))


def test_environments_of_which_some_have_no_mask_are_refused(walk: Make) -> None:
    makers = iter([Masked, lambda: gymnasium.wrappers.TransformAction(walk(), int, Discrete(3, start=4)), Masked])
    with pytest.raises(
        ValueError, match=r"^Masked: all environments must have an action mask or none; without: \[1\]$"
    ):
        GymnasiumEnvs(lambda: next(makers)(), 3, 0)


def test_a_mask_of_actions_that_are_no_choices_means_nothing(open_envs: Open) -> None:
    envs = open_envs(lambda: Fixed(Box(-1, 1, (2,)), "whatever"), 2)
    assert not envs.spec.has_action_mask
    assert envs.reset().action_mask is None


def test_an_environment_whose_first_reset_fails_can_be_made_and_then_says_where(open_envs: Open) -> None:
    class Fails(Masked):
        def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
            raise RuntimeError("no fuel")

    envs = open_envs(Fails, 2)
    with pytest.raises(EnvironmentFailure, match=r"env 0, episode 0, step 0 .*: RuntimeError: no fuel$"):
        envs.reset()


class TestBranches:
    """Of 2, 4 and 3 actions."""

    space = MultiDiscrete([2, 4, 3])
    rows = ((False, True, False, False), (True, False, False, True), (False, True, True, False))

    @asynchronously
    @pytest.mark.parametrize(
        "mask",
        [
            (np.array([0, 1], np.int8), np.array([1, 0, 0, 1], np.int8), np.array([0, 1, 1], np.int8)),
            [[0, 1], [1, 0, 0, 1], [0, 1, 1]],
            np.array([0, 1, 1, 0, 0, 1, 0, 1, 1], np.int8),
            [0, 1, 1, 0, 0, 1, 0, 1, 1],
        ],
        ids=["tuple", "lists", "joined", "list"],
    )
    def test_each_branch_is_a_row_padded_with_false(self, open_envs: Open, mask: Any, asynchronous: bool) -> None:
        envs = open_envs(lambda: Fixed(self.space, mask), 2, asynchronous=asynchronous)
        assert envs.spec.has_action_mask
        for row in (envs.reset(), envs.step(torch.tensor([[1, 0, 2], [1, 3, 1]]))):
            assert row.action_mask is not None
            assert row.action_mask.dtype == torch.bool
            assert row.action_mask.tolist() == [[list(branch) for branch in self.rows]] * 2

    def test_branches_of_one_size_may_be_a_matrix(self, open_envs: Open) -> None:
        mask = np.array([[0, 1, 1], [1, 0, 0]], np.int8)
        row = open_envs(lambda: Fixed(MultiDiscrete([3, 3]), mask), 2).reset()
        assert row.action_mask.tolist() == [(mask == 1).tolist()] * 2  # type: ignore[union-attr]

    def test_one_branch_is_a_branch(self, open_envs: Open) -> None:
        row = open_envs(lambda: Fixed(MultiDiscrete([3]), (np.array([0, 1, 1]),)), 2).reset()
        assert row.action_mask.tolist() == [[[False, True, True]]] * 2  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("mask", "reason"),
        [
            ((np.ones(2), np.zeros(4), np.ones(3)), "the action mask forbids every action of branch 1"),
            ((np.ones(2), np.ones(4)), "the action mask has 2 parts, the action space 3 branches"),
            (
                (np.ones(2), np.ones(4), np.ones(2)),
                "the action mask of branch 2 has shape (2,), the action space says (3,)",
            ),
            (np.ones(8), "the action mask has shape (8,), the action space says (9,)"),
            ((np.ones(2), None, np.ones(3)), "the action mask of branch 1 has shape (), the action space says (4,)"),
            ((np.ones(2), np.ones(4), np.full(3, 0.5)), "the action mask of branch 2 holds 0.5; allowed: 0 and 1"),
        ],
        ids=["none legal", "parts", "length", "joined length", "None", "value"],
    )
    def test_a_mask_that_is_wrong_names_the_branch(self, open_envs: Open, mask: Any, reason: str) -> None:
        envs = open_envs(lambda: Fixed(self.space, mask), 2)
        with pytest.raises(EnvironmentFailure) as caught:
            envs.reset()
        assert str(caught.value).endswith(f": ValueError: {reason}")

    def test_what_is_opened_stays_padded(self) -> None:
        found = choices(self.space)
        assert found is not None
        legal = found.legal([0, 0, 1, 0, 0, 1, 0, 0, 0])
        assert found.opened(legal).tolist() == [
            [True, True, False, False],
            [True, False, False, True],
            [True, True, True, False],
        ]
