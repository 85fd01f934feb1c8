import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.networks.flat import Flat
from graftwork.spaces import to_arrays


def row(space: spaces.Space, observation) -> list[float]:
    """The row of one observation as the space gives it."""
    arrays = to_arrays(space, observation)
    if isinstance(arrays, dict):
        batch = {name: torch.from_numpy(array).unsqueeze(0) for name, array in arrays.items()}
    else:
        batch = torch.from_numpy(arrays).unsqueeze(0)
    flat = Flat(space)
    rows = flat(batch)
    assert rows.shape == (1, flat.out_features)
    assert rows.dtype == torch.float32
    return rows[0].tolist()


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (spaces.Box(-9, 9, (2, 2)), np.array([[1, 2], [3, -4]], np.float32), [1, 2, 3, -4]),
        (spaces.Box(-9, 9, ()), np.float32(1.5), [1.5]),
        (spaces.Box(0, 255, (3,), np.uint8), np.array([0, 7, 255], np.uint8), [0, 7, 255]),
        (spaces.Box(0, 1, (2, 2), np.bool_), np.array([[True, False], [False, True]]), [1, 0, 0, 1]),
        (spaces.Discrete(4), 2, [0, 0, 1, 0]),
        (spaces.Discrete(3, start=-1), -1, [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([[2, 3], [1, 2]]), np.array([[0, 2], [0, 1]]), [1, 0, 0, 0, 1, 1, 0, 1]),
        (spaces.MultiBinary(3), np.array([0, 1, 1], np.int8), [0, 1, 1]),
        # Text: for each of three places no character, or one of the alphabet's two.
        (spaces.Text(3, charset="a"), "aa", [0, 1, 0, 1, 1, 0]),
        (spaces.Tuple([spaces.Discrete(2), spaces.Box(-9, 9, (1,))]), (1, np.array([5], np.float32)), [0, 1, 5]),
        (
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Dict({"c": spaces.Box(-9, 9, (2,))})}),
            {"b": 0, "a": {"c": np.array([3, 4], np.float32)}},
            [3, 4, 1, 0],  # in the order of keys, which gymnasium sorts
        ),
    ],
    ids=lambda value: " ".join(str(value).split()) if isinstance(value, spaces.Space) else "",
)
def test_quantities_are_as_they_are_and_choices_one_hot(space, observation, expected):
    assert row(space, observation) == expected


def test_rows_are_independent_of_each_other():
    flat = Flat(spaces.MultiDiscrete([2, 3]))
    numbers = torch.tensor([[1, 0], [0, 2], [1, 1]])
    assert flat(numbers).tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1], [0, 1, 0, 1, 0]]


def test_no_shape_depends_on_numbers():
    exported = torch.export.export(Flat(spaces.Discrete(4)), (torch.tensor([0, 0]),)).module()
    assert exported(torch.tensor([3, 1])).tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
