import pytest
import torch
from torch import Tensor

from graftwork.spaces import (
    Observation,
    columns_of,
    first_leaf,
    map_leaves,
    observation_of,
    rows_of,
    stack,
    tensors_of,
)

T, B = 4, 5


def tree(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"b": torch.rand(T, B, 3, generator=generator), "a": torch.rand(T, B, generator=generator)}


def same(one: Observation, other: Observation) -> bool:
    ours, theirs = tensors_of(one), tensors_of(other)
    return list(ours) == list(theirs) and all(ours[name].equal(theirs[name]) for name in ours)


def test_a_function_of_trees_is_one_of_each_leaf_and_keeps_order() -> None:
    one, other = tree(), tree(1)
    found = map_leaves(torch.add, one, {"a": other["a"], "b": other["b"]})
    assert same(found, {"b": one["b"] + other["b"], "a": one["a"] + other["a"]})
    assert same(map_leaves(torch.add, one["a"], other["a"]), one["a"] + other["a"])


def test_rows_are_stacked_leaf_by_leaf() -> None:
    parts = [tree(seed) for seed in range(3)]
    found = stack(parts)
    assert same(found, {name: torch.stack([part[name] for part in parts]) for name in ("b", "a")})
    assert first_leaf(found).shape == (3, T, B, 3)
    assert same(stack([part["a"] for part in parts]), torch.stack([part["a"] for part in parts]))


def test_trees_of_other_names_are_not_stacked() -> None:
    with pytest.raises(KeyError, match="b"):
        stack([tree(), {"a": torch.zeros(T, B)}])


@pytest.mark.parametrize("part", [slice(2), slice(1, None), slice(None, -1), slice(None)], ids=str)
def test_rows_of_a_tree_are_those_of_each_leaf(part: slice) -> None:
    whole = tree()
    assert same(rows_of(whole, part), {"b": whole["b"][part], "a": whole["a"][part]})
    assert same(rows_of(whole["a"], part), whole["a"][part])


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_columns_are_parts_of_one_size_and_a_rest(size: int) -> None:
    whole = tree()
    starts = range(0, B, size)
    parts = columns_of(whole, size)
    assert len(parts) == len(starts)
    for part, start in zip(parts, starts, strict=True):
        assert same(part, {name: leaf[:, start : start + size] for name, leaf in whole.items()})
    lone = columns_of(whole["b"], size)
    assert all(same(part, whole["b"][:, start : start + size]) for part, start in zip(lone, starts, strict=True))


def test_a_lone_tensor_is_a_tree_of_one_leaf_without_a_name() -> None:
    lone, whole = torch.zeros(3), tree()
    assert tensors_of(lone).keys() == {""}
    assert observation_of(tensors_of(lone)) is lone
    assert observation_of(tensors_of(whole)) == whole
    assert observation_of({"a": lone}) == {"a": lone}
    assert first_leaf(lone) is lone
