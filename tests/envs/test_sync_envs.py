from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from graftwork.envs.address import AddressedEnv
from graftwork.envs.arrays import in_arrays
from graftwork.envs.rows import Block, Layout
from graftwork.envs.sync_envs import SyncEnvs
from graftwork.spaces import leaves


def addressed(env_id: str, index: int, autoreset: bool = True) -> AddressedEnv:
    return AddressedEnv(gymnasium.make(env_id, disable_env_checker=True), 0, 0, index, autoreset)


def block_of(envs: SyncEnvs) -> Block:
    return Block(Layout(envs.observation_space, leaves(envs.envs[0].own_space), len(envs.envs)))


@pytest.mark.parametrize("autoreset", [True, False])
def test_rows_are_those_of_gymnasiums_own(autoreset: bool) -> None:
    makers = [partial(addressed, "CartPole-v1", index, autoreset) for index in range(3)]
    ours, theirs = SyncEnvs(makers), SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    begin: dict[str, Any] = {"begin": 4}
    block = block_of(ours)
    ours.reset(begin, block, 0)
    np.testing.assert_array_equal(block.observation[0], theirs.reset(options=begin)[0])
    generator, ends = np.random.default_rng(0), 0
    for _ in range(100):
        actions = generator.integers(2, size=3)
        ours.step(actions, block, 1)
        ends += int((block.terminated[1] | block.truncated[1]).sum())
        mine = (block.observation[1], block.reward[1], block.terminated[1], block.truncated[1])
        for a, b in zip(mine, theirs.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert ends >= 3
    theirs.close()


def test_environments_of_different_spaces_are_refused() -> None:
    makers = [partial(addressed, env_id, 0) for env_id in ("CartPole-v1", "MountainCar-v0")]
    with pytest.raises(ValueError, match=r"^environments must have one space, got Box\(.*\) and Box\(.*\)$"):
        SyncEnvs(makers)


def test_so_are_environments_whose_spaces_differ_but_not_their_arrays() -> None:
    def make(name: str) -> AddressedEnv:
        return AddressedEnv(in_arrays(gymnasium.make("FrozenLake-v1", map_name=name)), 0, 0, 0, True)

    with pytest.raises(ValueError, match=r"^environments must have one space, got Discrete\(16\) and Discrete\(64\)$"):
        SyncEnvs([partial(make, "4x4"), partial(make, "8x8")])
