from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.envs.rows import Block, Layout, NonFiniteEnvError
from graftwork.spaces import leaves, tensors_of

B = 3
FLOAT_MAX = float(np.finfo(np.float32).max)


def block_of(space: spaces.Space[Any], num_envs: int = B) -> Block:
    return Block(Layout(space, leaves(space), num_envs))


def box(shape: tuple[int, ...], dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(0, 1 if dtype == np.bool_ else 100, shape, dtype)


TWO = spaces.Dict({"eye": box((2, 5), np.uint8), "body": box((7,))})
SPACES = [box((4,)), box((1,)), box((40,)), box((4,), np.float64), box((2, 3), np.int16), box((5, 7), np.bool_), TWO]


def fill(block: Block, row: int, number: int) -> None:
    """Of that number all over."""
    block.begin(row)
    parts = block.observation if isinstance(block.observation, dict) else {"": block.observation}
    for rows in parts.values():
        rows[row] = number
    block.reward[row] = number / 2


class TestBlocks:
    @pytest.mark.parametrize("space", SPACES, ids=str)
    def test_no_two_tensors_share_memory(self, space: spaces.Space[Any]) -> None:
        block = block_of(space)
        for row in range(block.num_rows):
            fill(block, row, 1)
        steps = [block.step(row) for row in range(block.num_rows)]
        tensors = [tensor for step in steps for tensor in (*tensors_of(step.observation).values(), *step[1:5])]
        places = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors)
        assert len(places) == block.num_rows * (4 + len(leaves(space)))
        assert all(end <= begin for (_, end), (begin, _) in pairwise(places))

    def test_writing_to_a_row_changes_no_other(self) -> None:
        block = block_of(TWO)
        for row in range(3):
            fill(block, row, row + 1)
        steps = [block.step(row) for row in range(3)]
        for tensor in (*tensors_of(steps[1].observation).values(), *steps[1][1:5]):
            tensor.zero_()
        for row in (0, 2):
            seen = tensors_of(steps[row].observation)
            assert seen["eye"].tolist() == [[[row + 1] * 5] * 2] * B
            assert seen["body"].tolist() == [[row + 1.0] * 7] * B
            assert steps[row].reward.tolist() == [(row + 1) / 2] * B
            assert steps[row].is_first.tolist() == [True] * B

    @pytest.mark.parametrize("num_envs", [1, B])
    @pytest.mark.parametrize("space", SPACES, ids=str)
    def test_a_rows_tensors_are_of_the_leaves_types_and_lie_as_new_ones_do(
        self, space: spaces.Space[Any], num_envs: int
    ) -> None:
        block = block_of(space, num_envs)
        fill(block, 1, 1)
        step = block.step(1)
        for name, leaf in leaves(space).items():
            tensor = tensors_of(step.observation)[name]
            assert (tensor.dtype, tensor.shape) == (leaf.dtype, (num_envs, *leaf.shape))
            assert tensor.stride() == torch.empty(tensor.shape).stride()
            assert tensor.float().unique().tolist() == [1.0]
        assert step.reward.tolist() == [0.5] * num_envs

    def test_observations_begin_where_lines_of_the_cache_do(self) -> None:
        block = block_of(box((5,)))
        for row in range(block.num_rows):
            fill(block, row, 1)
        assert {block.step(row).observation.data_ptr() % 64 for row in range(block.num_rows)} == {0}

    @pytest.mark.parametrize(
        ("shape", "num_rows"), [((4,), 64), ((100, 100), 17), ((500, 500), 1), ((0,), 64)], ids=str
    )
    def test_of_large_rows_there_are_fewer(self, shape: tuple[int, ...], num_rows: int) -> None:
        assert block_of(box(shape, np.uint8)).num_rows == num_rows


class TestFiniteness:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("size", [4, 40])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_what_is_not_finite_is_found_in_its_row_and_named(self, dtype: Any, size: int, value: float) -> None:
        block = block_of(box((size,), dtype))
        for row in range(30):
            fill(block, row, row)
            block.check(row)
        fill(block, 30, 30)
        block.observation[30, 1, 2] = value
        with pytest.raises(NonFiniteEnvError, match=rf"^observation of env 1 is {value} at entry \[2\]$"):
            block.check(30)
        fill(block, 31, 31)
        block.check(31)

    def test_that_opposite_ones_do_not_cancel_out(self) -> None:
        block = block_of(box((4,)))
        fill(block, 0, 0)
        block.observation[0, 2, 1:3] = np.inf, -np.inf
        with pytest.raises(NonFiniteEnvError, match=r"^observation of env 2 is inf at entry \[1\]$"):
            block.check(0)

    @pytest.mark.parametrize("size", [4, 40])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_the_largest_numbers_are_finite(self, dtype: Any, size: int) -> None:
        block = block_of(box((size,), dtype))
        fill(block, 0, 0)
        block.observation[0], block.reward[0] = FLOAT_MAX, -FLOAT_MAX
        block.check(0)
        step = block.step(0)
        assert step.observation.unique().tolist() == [FLOAT_MAX]
        assert step.reward.tolist() == [-FLOAT_MAX] * B

    def test_a_number_too_large_for_float32_is_named_as_it_was(self) -> None:
        block = block_of(box((2, 2), np.float64))
        fill(block, 0, 0)
        block.observation[0, 1, 1, 0] = -1e300
        with pytest.raises(NonFiniteEnvError, match=r"^observation of env 1 is -1e\+300 at entry \[1, 0\]$"):
            block.check(0)

    def test_of_a_dict_the_leaf_is_named(self) -> None:
        block = block_of(TWO)
        fill(block, 5, 5)
        block.observation["body"][5, 2, 6] = np.nan
        with pytest.raises(NonFiniteEnvError, match=r"^observation 'body' of env 2 is nan at entry \[6\]$"):
            block.check(5)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
    def test_a_reward_is_named_after_the_observations(self, value: float) -> None:
        block = block_of(box((4,)))
        fill(block, 7, 0)
        block.reward[7, 1] = value
        with pytest.raises(NonFiniteEnvError, match=rf"^reward of env 1 is {str(value).replace('+', '.')}$"):
            block.check(7)
        block.observation[7, 2, 0] = np.nan
        with pytest.raises(NonFiniteEnvError, match=r"^observation of env 2 is nan at entry \[0\]$"):
            block.check(7)
