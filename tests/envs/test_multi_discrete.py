"""Environments whose actions have branches."""

import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

from graftwork.envs import EnvSpec, GymnasiumEnvs
from graftwork.envs.contract import EnvStep

cloudpickle.register_pickle_by_value(sys.modules[__name__])

Open = Callable[..., GymnasiumEnvs]
Plain = Callable[[EnvStep], tuple[list[Any], ...]]

asynchronously = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


class Echo(gymnasium.Env[Any, Any]):
    """Observes the action as the environment got it, and noise; spoils its action afterwards; episodes of 4 steps."""

    def __init__(self, space: gymnasium.Space[Any] | None = None) -> None:
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = MultiDiscrete([2, 5], start=[-1, 10]) if space is None else space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_count = 0
        return np.array([0, 0, self.np_random.normal()], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        assert action.dtype == np.int64
        self.step_count += 1
        observation = np.array([*action, self.np_random.normal() * action[1]], np.float32)
        action[:] = 99
        return observation, 1.0, self.step_count == 4, False, {}


def actions(num_rows: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([2, 5])
    return [(torch.rand(3, 2, generator=generator) * sizes).long() for _ in range(num_rows)]


def test_the_spec_names_the_branches(open_envs: Open) -> None:
    spec = open_envs(Echo).spec
    assert (spec.branches, spec.num_actions, spec.action_start) == ((2, 5), None, (-1, 10))
    assert spec.action_space == "MultiDiscrete([2 5], start=[-1 10])"
    assert spec.choices("dqn") == (2, 5)
    assert not spec.has_action_mask


def test_one_branch_is_not_discrete(open_envs: Open) -> None:
    spec = open_envs(lambda: Echo(MultiDiscrete([4]))).spec
    assert (spec.branches, spec.num_actions, spec.action_start) == ((4,), None, (0,))
    with pytest.raises(ValueError, match=r"^agent\.kind=dqn needs a Discrete action space, .* MultiDiscrete\(\[4\]\)$"):
        spec.discrete("dqn")


def test_choices_of_a_discrete_space_are_one_branch_and_of_a_box_are_refused(open_envs: Open) -> None:
    def spec(space: gymnasium.Space[Any]) -> EnvSpec:
        return open_envs(lambda: Echo(space), 1).spec

    assert spec(Discrete(7, start=3)).choices("dqn") == (7,)
    assert spec(Discrete(7)).branches is None
    with pytest.raises(
        ValueError,
        match=r"^agent\.kind=dqn needs a Discrete or MultiDiscrete action space, but env\.id=Echo has Box\(-1\.0, ",
    ):
        spec(Box(-1, 1, (2,))).choices("dqn")


@asynchronously
def test_each_branch_reaches_the_environment_in_its_own_numbers(open_envs: Open, asynchronous: bool) -> None:
    envs = open_envs(Echo, asynchronous=asynchronous)
    envs.reset()
    for action in actions(9):
        given = action.clone()
        row = envs.step(action)
        assert action.equal(given)
        started = ~row.is_first
        assert row.observation[started, :2].tolist() == (action + torch.tensor([-1, 10]))[started].tolist()


@asynchronously
@pytest.mark.parametrize("start", [(0, 0), (-1, 10)], ids=["from 0", "from others"])
def test_actions_are_recorded_and_replayed(
    open_envs: Open, plain: Plain, start: tuple[int, int], asynchronous: bool
) -> None:
    def make() -> gymnasium.Env[Any, Any]:
        return Echo(MultiDiscrete([2, 5], start=list(start)))

    envs = open_envs(make)
    given = actions(20)
    rows, states = [plain(envs.reset())], [envs.state_dict()]
    for action in given:
        rows.append(plain(envs.step(action)))
        states.append(envs.state_dict())
    taken = states[3]["actions"]
    assert [(part.dtype, part.shape) for part in taken] == [(torch.int64, (3, 2))] * 3
    assert torch.stack(taken, 1).tolist() == (torch.stack(given[:3]) + torch.tensor(start)).tolist()
    other = open_envs(make, asynchronous=asynchronous)
    for cut, state in enumerate(states):
        other.load_state_dict(state)
        for t in range(cut, min(cut + 7, 20)):
            assert plain(other.step(given[t])) == rows[t + 1], f"cut {cut}, row {t}"


def test_a_tensor_that_is_used_again_does_not_change_what_was_recorded(open_envs: Open) -> None:
    class Careful(Echo):
        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return super().step(action.copy())

    envs = open_envs(lambda: Careful(MultiDiscrete([2, 5])), 1)
    envs.reset()
    action = torch.tensor([[1, 3]])
    envs.step(action)
    action.zero_()
    assert envs.state_dict()["actions"][0].tolist() == [[1, 3]]


@asynchronously
def test_actions_in_a_matrix_are_refused_in_one_line(asynchronous: bool) -> None:
    with pytest.raises(ValueError, match=r"^action space MultiDiscrete\(.*\) is not supported: .*wrapper$") as caught:
        GymnasiumEnvs(lambda: Echo(MultiDiscrete([[2, 3], [4, 5]])), 2, 0, asynchronous=asynchronous)
    assert "\n" not in str(caught.value)
