import re

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from graftwork.tasks.dataset import Dataset, Target
from graftwork.tasks.splits import split

N, D, T = 7, 3, 5
BOX = spaces.Box(-np.inf, np.inf, (D,), np.float32)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dataset(labels: list[int], num_classes: int, **more: Target) -> Dataset:
    """Whose first input is the number of the sample."""
    inputs = torch.arange(len(labels)).unsqueeze(1).repeat(1, D)
    return Dataset(inputs, {"class": Target(torch.tensor(labels), num_classes), **more}, BOX)


def samples(part: Dataset | None) -> list[int]:
    return [] if part is None else part.inputs[:, 0].long().tolist()


def sequences(inputs: Tensor, labels: Tensor, lengths: list[int]) -> Dataset:
    targets = {"tag": Target(labels, 4), "kind": Target(torch.zeros(len(labels)).long(), 2)}
    return Dataset(inputs, targets, BOX if inputs.ndim == 3 else spaces.Discrete(9), torch.tensor(lengths))


def test_numbers_take_the_types_that_networks_and_losses_want():
    data = Dataset(
        torch.ones(N, D, dtype=torch.float64),
        {
            "class": Target(torch.ones(N, dtype=torch.int32), 2),
            "flag": Target(torch.ones(N, dtype=torch.bool), 2, ("no", "yes")),
            "value": Target(torch.ones(N, 2, dtype=torch.float64)),
            "count": Target(torch.ones(N, dtype=torch.int64)),
        },
        BOX,
    )
    assert data.inputs.dtype == torch.float32
    assert [target.values.dtype for target in data.targets.values()] == [torch.int64] * 2 + [torch.float32] * 2
    assert data.targets["class"].names == ("0", "1")
    assert data.targets["flag"].names == ("no", "yes")
    assert (len(data), data.main) == (N, "class")


@pytest.mark.parametrize(
    ("space", "given", "stored"),
    [
        (spaces.Box(0, 255, (D,), np.uint8), torch.uint8, torch.uint8),
        (spaces.Box(0, 1, (D,), np.uint8), torch.bool, torch.uint8),
        (spaces.Box(0, 1, (D,), np.bool_), torch.bool, torch.float32),
        (spaces.Box(0, 1, (D,), np.float64), torch.int16, torch.float32),
        (spaces.MultiDiscrete([2, 3, 4]), torch.int32, torch.int64),
        (spaces.MultiBinary(D), torch.bool, torch.uint8),
        (spaces.Text(D), torch.int32, torch.int64),
    ],
)
def test_inputs_take_the_type_of_their_space(space, given, stored):
    data = Dataset(torch.ones(N, D, dtype=given), {"value": Target(torch.zeros(N))}, space)
    assert data.inputs.dtype == stored
    assert (data.inputs == 1).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_first_number_that_is_not_finite_is_named(bad):
    inputs, values = torch.zeros(N, D), torch.zeros(N, 2)
    inputs[4, 1] = inputs[5, 0] = bad
    with pytest.raises(ValueError, match=rf"^inputs: sample 4, entry \[1\] is {bad}; must be finite \(in float32\)$"):
        Dataset(inputs, {"value": Target(values)}, BOX)
    values[2, 0] = bad
    with pytest.raises(ValueError, match=rf"^target 'value': sample 2, entry \[0\] is {bad}; must be finite"):
        Dataset(torch.zeros(N, D), {"value": Target(values)}, BOX)


def test_number_beyond_float32_is_refused_as_it_was_given():
    values = torch.zeros(N, dtype=torch.float64)
    values[3] = 1e300
    with pytest.raises(ValueError, match=r"^target 'value': sample 3 is 1e\+300; must be finite"):
        Dataset(torch.zeros(N, D), {"value": Target(values)}, BOX)


@pytest.mark.parametrize("label", [-1, 4])
def test_label_out_of_range_is_named_with_what_is_allowed(label):
    with pytest.raises(ValueError, match=f"^target 'class': sample 2 is {label}; allowed: 0 to 3$"):
        dataset([0, 3, label, 9], 4)


@pytest.mark.parametrize(
    ("space", "value", "limit"),
    [
        (spaces.MultiDiscrete([2, 3, 4]), 3, 2),  # the entry [1] of the second sample
        (spaces.MultiBinary(D), 2, 1),
        (spaces.Text(D, charset="ab"), 3, 2),
    ],
)
def test_token_out_of_range_is_named_with_what_is_allowed(space, value, limit):
    inputs = torch.zeros(N, D, dtype=torch.uint8)
    inputs[1, 1] = value
    with pytest.raises(ValueError, match=rf"^inputs: sample 1, entry \[1\] is {value}; allowed: 0 to {limit}$"):
        Dataset(inputs, {"value": Target(torch.zeros(N))}, space)


CLASSES = Target(torch.zeros(N, dtype=torch.int64), 2)
WRONG = {
    "inputs: the shape is [7, 4], must be [N, 3] for Box(": (torch.zeros(N, 4), CLASSES, BOX),
    "inputs: the shape is [0, 3]; there must be at least one sample": (torch.zeros(0, D), CLASSES, BOX),
    "inputs: must be a tensor, got ndarray; from_arrays": (np.zeros((N, D)), CLASSES, BOX),
    "target 't': must be a tensor, got list; from_arrays": (torch.zeros(N, D), Target([0] * N, 2), BOX),
    "inputs: the type is complex64, must be real numbers": (torch.zeros(N, D).to(torch.complex64), CLASSES, BOX),
    "inputs: the type is float32, must be whole numbers": (torch.zeros(N), CLASSES, spaces.Discrete(3)),
    "inputs: the type is int64, must be whole uint8 numbers": (
        torch.zeros(N, D).long(),
        CLASSES,
        spaces.Box(0, 255, (D,), np.uint8),
    ),
    "has several entries; a data set's inputs are one tensor": (torch.zeros(N, D), CLASSES, spaces.Dict({"a": BOX})),
    "target 't': the shape is [6], but there are 7 inputs": (torch.zeros(N, D), Target(torch.zeros(6)), BOX),
    "target 't': the shape is [], but": (torch.zeros(N, D), Target(torch.zeros(())), BOX),
    "target 't': the shape is [7, 0]; there must be at least one number": (
        torch.zeros(N, D),
        Target(torch.zeros(N, 0)),
        BOX,
    ),
    "target 't': the shape is [7, 1]; classes must be [7]": (
        torch.zeros(N, D),
        Target(torch.zeros(N, 1).long(), 2),
        BOX,
    ),
    "target 't': the type is float32, must be whole numbers": (
        torch.zeros(N, D),
        Target(torch.zeros(N), 2),
        BOX,
    ),
    "target 't': has 2 classes and 3 names": (torch.zeros(N, D), Target(CLASSES.values, 2, ("a", "b", "c")), BOX),
    "target 't': has 0 classes": (torch.zeros(N, D), Target(CLASSES.values, 0), BOX),
    "target 't': has names of classes, but no num_classes": (
        torch.zeros(N, D),
        Target(torch.zeros(N), None, ("a",)),
        BOX,
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_trained_on_is_refused_in_one_line(message):
    inputs, target, space = WRONG[message]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Dataset(inputs, {"t": target}, space)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "a.b", "a/b"])
def test_name_that_could_be_no_part_of_a_state_is_refused(name):
    with pytest.raises(ValueError, match="a name must not be empty or contain"):
        Dataset(torch.zeros(N, D), {name: CLASSES}, BOX)
    with pytest.raises(ValueError, match="targets: there must be at least one"):
        Dataset(torch.zeros(N, D), {}, BOX)


def test_padding_may_hold_anything_and_is_set_to_zero():
    inputs, labels = torch.ones(3, T, D), torch.ones(3, T, dtype=torch.int32)
    inputs[0, 2], labels[0, 2:] = float("nan"), -100
    inputs[2, 4], labels[2, 4] = float("inf"), 99
    data = sequences(inputs, labels, [2, T, 4])
    inside = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    assert torch.equal(data.targets["tag"].values, inside)
    assert torch.equal(data.inputs, inside.float().unsqueeze(-1).expand(3, T, D))
    assert inputs[0, 2].isnan().all(), "what was given stays as it was"


def test_padding_of_tokens_is_set_to_zero():
    tokens = torch.tensor([[8, -1, -1], [1, 2, 700]])
    data = sequences(tokens, torch.zeros(2, 3).long(), [1, 2])
    assert data.inputs.tolist() == [[8, 0, 0], [1, 2, 0]]


def test_row_of_a_sequence_is_checked_up_to_its_length():
    labels = torch.zeros(3, T).long()
    labels[1, 3] = 4
    with pytest.raises(ValueError, match=r"^target 'tag': sample 1, entry \[3\] is 4; allowed: 0 to 3$"):
        sequences(torch.ones(3, T, D), labels, [2, 4, 4])
    assert len(sequences(torch.ones(3, T, D), labels, [2, 3, 4])) == 3


def test_lengths_are_checked():
    inputs, labels = torch.ones(3, T, D), torch.zeros(3, T).long()
    with pytest.raises(ValueError, match=r"^lengths: sample 1 is 6; allowed: 1 to 5$"):
        sequences(inputs, labels, [2, 6, 0])
    with pytest.raises(ValueError, match=r"^lengths: the shape is \[2\], must be \[3\]"):
        sequences(inputs, labels, [2, 4])
    with pytest.raises(ValueError, match=r"classes must be \[3\], or \[3, 5\] for a class of each row"):
        sequences(inputs, labels[:, :4], [2, 4, 4])
    rows = Target(labels, 4)
    with pytest.raises(ValueError, match=r"classes must be \[3\]; for a class of each row of a sequence give lengths"):
        Dataset(inputs, {"tag": rows}, spaces.Box(-1, 1, (T, D)))
    with pytest.raises(ValueError, match=r"inputs: the shape is \[3, 5\], must be \[N, T, 3\]"):
        Dataset(inputs[..., 0], {"t": Target(torch.zeros(3))}, BOX, torch.ones(3).long())


def test_select_keeps_every_part_of_a_sample_together():
    inputs = torch.arange(3).view(3, 1, 1).expand(3, T, D)
    data = sequences(inputs, torch.arange(3).unsqueeze(1).expand(3, T), [3, 4, 5]).select(torch.tensor([2, 0]))
    assert data.inputs[:, 0, 0].tolist() == data.targets["tag"].values[:, 0].tolist() == [2, 0]
    assert data.lengths is not None
    assert data.lengths.tolist() == [5, 3]
    with pytest.raises(ValueError, match="at least one sample"):
        data.select(torch.empty(0, dtype=torch.int64))


def test_kept_classes_are_numbered_anew_in_the_order_given():
    parity = Target(torch.tensor([0, 1, 0, 1, 0, 1]), 2)
    data = dataset([4, 1, 2, 3, 4, 1], 5, parity=parity).keep_classes("class", (4, 1))
    assert samples(data) == [0, 1, 4, 5]
    assert data.targets["class"].values.tolist() == [0, 1, 0, 1]
    assert data.targets["class"].names == ("4", "1")
    assert data.targets["class"].num_classes == 2
    assert data.targets["parity"].values.tolist() == [0, 1, 0, 1]
    assert list(data.targets) == ["class", "parity"]


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ((1, 5), "5 is no class of 'class': 0 to 4"),
        ((-1, 1), "-1 is no class of 'class': 0 to 4"),
        ((1, 2, 1), "1 is given twice"),
        ((0, 3), "the data have no sample of them"),
        ((), "give at least one"),
    ],
)
def test_classes_that_cannot_be_kept_are_named(classes, problem):
    with pytest.raises(ValueError, match=re.escape(f"classes={list(classes)}: {problem}")):
        dataset([4, 1, 2], 5).keep_classes("class", classes)


def test_samples_are_chosen_by_a_target_that_is_one_class_for_each():
    data = sequences(torch.ones(3, T, D), torch.zeros(3, T).long(), [2, 4, 4])
    with pytest.raises(ValueError, match="target 'tag': is a class for each row"):
        data.keep_classes("tag", (0, 1))
    with pytest.raises(ValueError, match="target 'ink': is numbers"):
        dataset([0, 1], 2, ink=Target(torch.zeros(2))).few("ink", 1, seeded())
    with pytest.raises(ValueError, match="target 'knd': the data have none of that name; did you mean kind"):
        data.keep_classes("knd", (0, 1))


def test_few_draws_as_many_of_each_class_and_no_sample_twice():
    labels = [0, 1, 2, 0, 1, 2, 2, 2, 0, 1]
    data = dataset(labels, 3)
    seen = [samples(data.few("class", 2, seeded(seed))) for seed in range(40)]
    assert all(sorted(labels[sample] for sample in drawn) == [0, 0, 1, 1, 2, 2] for drawn in seen)
    assert all(drawn == sorted({*drawn}) for drawn in seen)
    assert {sample for drawn in seen for sample in drawn} == set(range(10))
    assert seen[3] == samples(data.few("class", 2, seeded(3)))
    with pytest.raises(ValueError, match=r"^per_class=4: class '0' has only 3 samples$"):
        data.few("class", 4, seeded())


LABELS = st.lists(st.integers(0, 4), min_size=3, max_size=80)
SHARES = st.sampled_from([0.0, 0.01, 0.15, 0.25, 0.4])


@given(LABELS, SHARES, SHARES, st.integers(0, 9))
def test_splits_are_disjoint_exhaustive_and_of_the_sizes_asked_for(labels, validation, test, seed):
    data = dataset(labels, 5)
    total = len(labels)
    sizes = [max(round(share * total), 1) if share else 0 for share in (validation, test)]
    if sum(sizes) >= total:
        with pytest.raises(ValueError, match=f"of {total} samples none is left to train on"):
            split(data, validation, test, seeded(seed))
        return
    parts = split(data, validation, test, seeded(seed))
    assert [len(samples(part)) for part in parts] == [total - sum(sizes), *sizes]
    assert sorted(sample for part in parts for sample in samples(part)) == list(range(total))
    assert all(samples(part) == sorted(samples(part)) for part in parts)
    assert [samples(part) for part in split(data, validation, test, seeded(seed))] == [samples(part) for part in parts]


@given(LABELS, SHARES, SHARES, st.integers(0, 9))
def test_each_class_is_spread_over_the_splits_by_their_shares(labels, validation, test, seed):
    total = len(labels)
    sizes = [max(round(share * total), 1) if share else 0 for share in (validation, test)]
    if sum(sizes) >= total:
        return
    parts = split(dataset(labels, 5), validation, test, seeded(seed))
    for part in parts:
        found = [] if part is None else part.targets["class"].values.tolist()
        for label in range(5):
            assert abs(found.count(label) - labels.count(label) * len(found) / total) < 2


def test_another_seed_splits_otherwise_and_every_sample_comes_anywhere():
    data = dataset([0, 1] * 10, 2)
    tests = [samples(split(data, 0.0, 0.25, seeded(seed)).test) for seed in range(60)]
    assert len({tuple(test) for test in tests}) > 50
    counts = [sum(sample in test for test in tests) for sample in range(20)]
    # Each is in a test split with probability 1/4: 15 times of 60, with a deviation of 3.4.
    assert min(counts) >= 3
    assert max(counts) <= 30


def test_numbers_and_classes_of_rows_are_split_without_regard_to_them():
    data = Dataset(torch.zeros(8, D), {"value": Target(torch.arange(8.0))}, BOX)
    assert [len(part) for part in split(data, 0.25, 0.25, seeded()) if part] == [4, 2, 2]
    rows = sequences(torch.ones(8, T, D), torch.zeros(8, T).long(), [T] * 8)
    assert [len(part) for part in split(rows, 0.25, 0.25, seeded()) if part] == [4, 2, 2]


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.1, 1.0), (float("nan"), 0.2)])
def test_share_outside_its_bounds_is_refused(validation, test):
    with pytest.raises(ValueError, match=r"^(validation|test)=\S+: must be in \[0, 1\)$"):
        split(dataset([0, 1, 2], 3), validation, test, seeded())
