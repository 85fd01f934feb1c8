import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.spaces import leaves, tensors_of, to_arrays, to_tensors, zeros

Space = spaces.Space[Any]

NESTED = spaces.Dict(
    {
        "pose": spaces.Tuple([spaces.Box(-1, 1, (3,)), spaces.Discrete(4, start=2)]),
        "goal": spaces.Dict({"word": spaces.Text(5, charset="cab"), "eye": spaces.Box(0, 255, (2, 6), np.uint8)}),
    }
)
POSE = (np.array([0.5, -1.0, 0.0], np.float32), 3)
EYE = np.arange(12, dtype=np.uint8).reshape(2, 6)
OBSERVED = {"pose": POSE, "goal": {"word": "bac", "eye": EYE}}


def plain(found: Any) -> Any:
    return {name: leaf.tolist() for name, leaf in found.items()} if isinstance(found, dict) else found.tolist()


class TestLeaves:
    @pytest.mark.parametrize(
        ("space", "shape", "dtype"),
        [
            (spaces.Box(-1, 1, (2, 3)), (2, 3), torch.float32),
            (spaces.Box(-1, 1, (), np.float64), (), torch.float32),
            (spaces.Box(0, 9, (2,), np.int32), (2,), torch.float32),
            (spaces.Box(0, 1, (2,), np.bool_), (2,), torch.bool),
            (spaces.Box(0, 9, (4, 4, 3), np.uint8), (4, 4, 3), torch.uint8),
            (spaces.Discrete(5, start=-2), (), torch.int64),
            (spaces.MultiDiscrete([[2, 3], [4, 5]]), (2, 2), torch.int64),
            (spaces.MultiBinary(3), (3,), torch.uint8),
            (spaces.MultiBinary([3, 2]), (3, 2), torch.uint8),
            (spaces.Text(7), (7,), torch.int64),
        ],
        ids=str,
    )
    def test_any_other_space_than_dict_and_tuple_is_its_own(
        self, space: Space, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        ((name, leaf),) = leaves(space).items()
        assert (name, leaf.name, leaf.path, leaf.shape, leaf.dtype) == ("", "", (), shape, dtype)
        assert leaf.space is space

    def test_nested_names_are_joined_by_dots_in_gymnasiums_order(self) -> None:
        found = leaves(NESTED)
        assert {name: (leaf.path, leaf.shape) for name, leaf in found.items()} == {
            "goal.eye": (("goal", "eye"), (2, 6)),
            "goal.word": (("goal", "word"), (5,)),
            "pose.0": (("pose", 0), (3,)),
            "pose.1": (("pose", 1), ()),
        }
        assert list(found) == ["goal.eye", "goal.word", "pose.0", "pose.1"]

    def test_a_tuples_entries_stay_in_their_order(self) -> None:
        assert list(leaves(spaces.Tuple([spaces.Discrete(2)] * 12))) == [str(place) for place in range(12)]

    def test_a_dict_of_one_entry_is_a_dict(self) -> None:
        assert list(leaves(spaces.Dict({"a": spaces.Discrete(2)}))) == ["a"]

    @pytest.mark.parametrize(
        "space",
        [
            spaces.Sequence(spaces.Discrete(3)),
            spaces.Graph(spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64), None),
            spaces.OneOf([spaces.Discrete(3), spaces.Discrete(4)]),
            spaces.Dict({"a": spaces.Sequence(spaces.Box(np.arange(40.0), np.arange(40.0) + 1, dtype=np.float64))}),
        ],
        ids=lambda space: type(space).__name__,
    )
    def test_what_has_no_fixed_shape_is_refused_in_one_line(self, space: Space) -> None:
        with pytest.raises(
            ValueError, match=r"^observation space .* is not supported: it has no fixed shape"
        ) as caught:
            leaves(space)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("space", "text"),
        [
            (spaces.Dict({"a/b": spaces.Discrete(2)}), r"key 'a/b': must not be empty or contain '/'"),
            (spaces.Dict({"": spaces.Discrete(2)}), r"key '': must not be empty"),
            (spaces.Dict({"a": spaces.Dict({"": spaces.Discrete(2)})}), r"key 'a\.': must not be empty"),
            (
                spaces.Dict({"a.b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)})}),
                r"two entries are called 'a\.b'",
            ),
            (spaces.Dict({}), r"has no entries$"),
            (spaces.Tuple([]), r"has no entries$"),
        ],
    )
    def test_names_that_cannot_be_are_refused(self, space: Space, text: str) -> None:
        with pytest.raises(ValueError, match=r"^observation space.*" + text):
            leaves(space)


class TestToArrays:
    def test_by_hand(self) -> None:
        assert plain(to_arrays(NESTED, OBSERVED)) == {
            "goal.eye": [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]],
            "goal.word": [2, 1, 3, 0, 0],  # a, b, c are 1, 2, 3
            "pose.0": [0.5, -1.0, 0.0],
            "pose.1": 1,  # 3, counted from 2
        }

    @pytest.mark.parametrize(
        ("space", "value", "expected"),
        [
            (spaces.Discrete(3, start=-1), -1, 0),
            (spaces.Discrete(3), np.int32(2), 2),
            (spaces.MultiDiscrete([3, 5], start=[1, -2]), [3, -2], [2, 0]),
            (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
            (spaces.MultiBinary(2), np.array([True, False]), [1, 0]),
            (spaces.Box(-9, 9, (2,), np.int16), np.array([-3, 4], np.int16), [-3.0, 4.0]),
            (spaces.Box(-1, 1, (1,), np.float64), [0.5], [0.5]),
            (spaces.Box(0, 1, (2,), np.bool_), [True, False], [True, False]),
            (spaces.Box(0, 255, (2,), np.uint8), np.array([0, 255], np.uint16), [0, 255]),
            (spaces.Text(3, charset="xy", min_length=0), "", [0, 0, 0]),
        ],
        ids=str,
    )
    def test_a_lone_value_by_hand(self, space: Space, value: Any, expected: Any) -> None:
        found = to_arrays(space, value)
        assert isinstance(found, np.ndarray)
        assert found.tolist() == expected
        assert torch.from_numpy(found).dtype == leaves(space)[""].dtype

    def test_characters_have_the_same_numbers_whatever_order_they_were_given_in(self) -> None:
        one, other = (spaces.Text(3, charset=charset) for charset in ("qzb", {"z", "b", "q"}))
        assert plain(to_arrays(one, "zbq")) == plain(to_arrays(other, "zbq")) == [3, 1, 2]

    @pytest.mark.parametrize(
        ("path", "value", "text"),
        [
            (("pose", 0), np.zeros(2, np.float32), r"^observation 'pose\.0' has shape \(2,\), its space says \(3,\)$"),
            (("pose", 0), [[1.0], [2.0, 3.0]], r"^observation 'pose\.0' is no array of numbers: "),
            (("pose", 0), ["a", "b", "c"], r"^observation 'pose\.0' is of type <U1, its space says float32$"),
            (
                ("goal", "eye"),
                EYE.astype(np.uint16) + 300,
                r"^observation 'goal\.eye' holds 300, its space is of type uint8$",
            ),
            (("goal", "eye"), EYE / 2, r"^observation 'goal\.eye' is of type float64, its space says uint8$"),
            (("pose", 1), 2.0, r"^observation 'pose\.1' is of type float64, its space says int64$"),
            (("pose", 1), 1, r"^observation 'pose\.1' holds 1, which is not in Discrete\(4, start=2\)$"),
            (("pose", 1), 6, r"^observation 'pose\.1' holds 6, which is not in Discrete\(4, start=2\)$"),
            (("goal", "word"), "cabcab", r"^observation 'goal\.word' has 6 characters, Text\(.*\) at most 5$"),
            (("goal", "word"), "cat", r"^observation 'goal\.word' has the character 't', which Text\(.*\) does not$"),
            (("goal", "word"), 3, r"^observation 'goal\.word' is int, expected text of Text\("),
            (("goal",), 3, r"^observation 'goal\.eye': expected a dict with the entry 'eye', got int$"),
            (("goal",), {"eye": EYE}, r"^observation 'goal\.word': there is no entry 'word'$"),
            (("pose",), POSE[:1], r"^observation 'pose\.1': there is no entry 1$"),
        ],
    )
    def test_what_the_space_does_not_hold_is_an_error_that_names_the_leaf(
        self, path: tuple[str | int, ...], value: Any, text: str
    ) -> None:
        observed: dict[str, Any] = {"pose": list(POSE), "goal": {"word": "bac", "eye": EYE}}
        parent: Any = observed
        for step in path[:-1]:
            parent = parent[step]
        parent[path[-1]] = value
        with pytest.raises(ValueError, match=text) as caught:
            to_arrays(NESTED, observed)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("space", "value", "bad"),
        [
            (spaces.MultiDiscrete([3, 5], start=[1, -2]), [1, 3], 3),
            (spaces.MultiDiscrete([3, 5], start=[1, -2]), [0, 0], 0),
            (spaces.MultiBinary(3), [1, 0, 2], 2),
        ],
    )
    def test_a_choice_out_of_range_is_named(self, space: Space, value: Any, bad: int) -> None:
        with pytest.raises(ValueError, match=rf"^observation holds {bad}, which is not in Multi"):
            to_arrays(space, value)

    def test_what_is_too_large_for_float32_becomes_infinite(self) -> None:
        assert plain(to_arrays(spaces.Box(-np.inf, np.inf, (2,), np.float64), np.array([1e300, -1e300]))) == [
            math.inf,
            -math.inf,
        ]


numbers = st.integers(1, 4)
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
plain_spaces = st.one_of(
    shapes.map(lambda shape: spaces.Box(-5, 5, shape, np.float32)),
    shapes.map(lambda shape: spaces.Box(-5, 5, shape, np.float64)),
    shapes.map(lambda shape: spaces.Box(0, 255, shape, np.uint8)),
    st.builds(lambda size, start: spaces.Discrete(size, start=start), numbers, st.integers(-3, 3)),
    st.lists(numbers, min_size=1, max_size=3).map(spaces.MultiDiscrete),
    numbers.map(spaces.MultiBinary),
    st.builds(lambda size: spaces.Text(size, charset="xyz"), numbers),
)
any_space = st.recursive(
    plain_spaces,
    lambda parts: st.one_of(
        st.dictionaries(st.sampled_from("abc"), parts, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(any_space, st.integers(0, 2**20))
def test_every_sample_of_a_space_has_the_form_of_its_leaves_and_can_be_read_back(space: Space, seed: int) -> None:
    space.seed(seed)
    sample, found = space.sample(), leaves(space)
    arrays = to_arrays(space, sample)
    assert isinstance(arrays, dict) == isinstance(space, spaces.Dict | spaces.Tuple)
    named = arrays if isinstance(arrays, dict) else {"": arrays}
    empty = tensors_of(zeros(space, 2, 7))
    assert list(named) == list(found) == list(empty)
    for name, leaf in found.items():
        tensor, value = torch.from_numpy(named[name]), leaf.find(sample)
        assert (tensor.shape, tensor.dtype) == (leaf.shape, leaf.dtype)
        assert (empty[name].shape, empty[name].dtype) == ((2, 7, *leaf.shape), leaf.dtype)
        if isinstance(leaf.space, spaces.Text):
            assert "".join(" xyz"[number] for number in tensor.tolist()).rstrip() == value
        else:
            start = leaf.space.start if isinstance(leaf.space, spaces.Discrete | spaces.MultiDiscrete) else 0
            np.testing.assert_array_equal(named[name] + start, np.asarray(value, named[name].dtype))


@settings(max_examples=200)
@given(any_space, st.integers(1, 4), st.integers(0, 2**20))
def test_a_batch_is_its_observations_stacked_nested_or_flat(space: Space, size: int, seed: int) -> None:
    space.seed(seed)
    samples = [space.sample() for _ in range(size)]

    def batched(parts: list[Any]) -> Any:
        if isinstance(parts[0], dict):
            return {key: batched([part[key] for part in parts]) for key in parts[0]}
        if isinstance(parts[0], tuple):
            return tuple(batched(list(entries)) for entries in zip(*parts, strict=True))
        return parts if isinstance(parts[0], str) else np.stack(parts)

    singles = [to_tensors(space, sample) for sample in samples]
    assert all(is_single for _, is_single in singles)
    whole = batched(samples)
    by_name = {name: leaf.find(whole) for name, leaf in leaves(space).items()}
    for given_ in (whole, by_name.get("", by_name)):
        batch, is_single = to_tensors(space, given_)
        assert not is_single
        for name, tensor in tensors_of(batch).items():
            assert tensor.equal(torch.cat([tensors_of(one)[name] for one, _ in singles]))


class TestToTensors:
    def test_one_gets_a_leading_axis(self) -> None:
        batch, is_single = to_tensors(NESTED, OBSERVED)
        assert is_single
        assert isinstance(batch, dict)
        assert {name: leaf.shape for name, leaf in batch.items()} == {
            "goal.eye": (1, 2, 6),
            "goal.word": (1, 5),
            "pose.0": (1, 3),
            "pose.1": (1,),
        }

    def test_numbers_for_a_box_may_be_of_any_type(self) -> None:
        image = spaces.Box(0, 255, (2,), np.uint8)
        for value in ([7, 255], np.array([7.0, 255.0]), torch.tensor([7, 255]), np.array([255, 7])[::-1]):
            batch, is_single = to_tensors(image, value)
            assert isinstance(batch, torch.Tensor)
            assert (batch.dtype, batch.tolist(), is_single) == (torch.uint8, [[7, 255]], True)

    def test_a_box_of_bools_takes_a_byte_for_each(self) -> None:
        grid = spaces.Box(0, 1, (2, 3), np.bool_)
        batch, is_single = to_tensors(grid, np.array([[True, False, True], [False, False, True]]))
        assert isinstance(batch, torch.Tensor)
        assert (batch.dtype, batch.element_size(), is_single) == (torch.bool, 1, True)
        assert batch.tolist() == [[[True, False, True], [False, False, True]]]
        again, _ = to_tensors(grid, [[1, 0, 1], [0, 0, 1]])
        assert isinstance(again, torch.Tensor)
        assert again.equal(batch)
        assert tensors_of(zeros(grid, 4))[""].dtype == torch.bool

    def test_choices_and_texts_may_come_alone_or_many(self) -> None:
        choice, word = spaces.Discrete(4, start=2), spaces.Text(3, charset="ab")
        assert plain(to_tensors(choice, 5)[0]) == [3]
        assert plain(to_tensors(choice, torch.tensor([5, 2]))[0]) == [3, 0]
        assert plain(to_tensors(word, "ba")[0]) == [[2, 1, 0]]
        assert plain(to_tensors(word, np.array(["ba", "a"]))[0]) == [[2, 1, 0], [1, 0, 0]]

    @pytest.mark.parametrize(
        ("space", "value", "text"),
        [
            (spaces.Box(0, 1, (4,)), np.zeros(3), r"^observation has shape \(1, 3\), expected \[B, \*\(4,\)\]$"),
            (spaces.Box(0, 1, (4,)), np.zeros((5, 3)), r"^observation has shape \(5, 3\), expected \[B, \*\(4,\)\]$"),
            (spaces.Box(0, 1, (4,)), np.zeros((2, 5, 4)), r"^observation has shape \(2, 5, 4\), expected"),
            (spaces.Box(0, 1, (4,)), {"a": 1.0}, r"^observation is no array of numbers: "),
            (spaces.Box(0, 1, (4,)), None, r"^observation is no array of numbers: "),
            (spaces.Box(0, 1, (4,)), "left", r"^observation is no array of numbers: "),
            (spaces.Box(0, 1, (4,)), [[1.0, 2.0], [1.0]], r"^observation is no array of numbers: "),
            (spaces.Discrete(4), 4, r"^observation holds 4, which is not in Discrete\(4\)$"),
            (spaces.Discrete(4), 1.5, r"^observation is of type float64, its space says int64$"),
            (
                spaces.Discrete(4),
                np.zeros((2, 2), np.int64),
                r"^observation has shape \(2, 2\), expected \[B, \*\(\)\]$",
            ),
            (spaces.MultiDiscrete([2, 3]), [1, 1, 1], r"^observation has shape \(1, 3\), expected \[B, \*\(2,\)\]$"),
            (spaces.Text(3, charset="ab"), 7, r"^observation is int, expected a text or a list of texts$"),
            (spaces.Text(3, charset="ab"), ["ab", "c"], r"^observation has the character 'c'"),
            (NESTED, 3, r"^observation 'goal\.eye': expected a dict with the entry 'goal', got int$"),
            (
                NESTED,
                {**OBSERVED, "pose": (np.zeros((7, 3)), 3)},
                r"^observation: .* of 'goal\.eye' is one, 'goal\.word' is one, 'pose\.0' 7, 'pose\.1' is one$",
            ),
        ],
        ids=str,
    )
    def test_what_the_space_does_not_hold_is_an_error(self, space: Space, value: Any, text: str) -> None:
        with pytest.raises(ValueError, match=text) as caught:
            to_tensors(space, value)
        assert "\n" not in str(caught.value)
