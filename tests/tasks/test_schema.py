import numpy as np
import pytest
import torch
from gymnasium import spaces

from graftwork.networks import config_for
from graftwork.tasks import Dataset, Schema, Target, from_arrays, schema_of

N, T = 5, 3


def box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


LABELS = torch.tensor([0, 2, 1, 0, 2])

FORMS = {
    "numbers": (torch.rand(N, 4), box(4)),
    "images": (torch.rand(N, 8, 9), box(8, 9)),
    "bounded": (torch.rand(N, 8, 8), spaces.Box(0, 16, (8, 8), np.float32)),
    "bytes": (torch.randint(256, (N, 3, 8, 9), dtype=torch.uint8), spaces.Box(0, 255, (3, 8, 9), np.uint8)),
    "tokens": (torch.randint(7, (N,)), spaces.Discrete(7)),
    "many-tokens": (torch.randint(7, (N,)), spaces.Discrete(100)),
    "choices": (torch.randint(2, (N, 2, 2)), spaces.MultiDiscrete([[2, 5], [3, 4]])),
    "bits": (torch.randint(2, (N, 9), dtype=torch.uint8), spaces.MultiBinary(9)),
    "text": (torch.randint(4, (N, 6)), spaces.Text(6, charset="xyz")),
}


def one_head(data: Dataset, target: str = "class", given: str | None = None) -> Schema:
    return schema_of({"head": data}, {"head": target}, {"head": given})


@pytest.mark.parametrize("form", FORMS)
def test_encoder_is_the_one_that_an_agent_with_such_observations_would_have(form):
    inputs, space = FORMS[form]
    schema = one_head(Dataset(inputs, {"class": Target(LABELS, 3)}, space))
    rebuilt = schema.inputs.space()
    assert type(rebuilt) is type(space)
    assert rebuilt.shape == space.shape
    assert rebuilt.dtype == space.dtype
    assert config_for(rebuilt) == config_for(space)
    widths = [config_for(each).build(each).state_dict() for each in (space, rebuilt)]
    assert [tensor.shape for tensor in widths[0].values()] == [tensor.shape for tensor in widths[1].values()]
    assert schema.observation_dtype == inputs.dtype


@pytest.mark.parametrize("form", FORMS)
def test_schema_survives_its_file(form):
    inputs, space = FORMS[form]
    numbers = torch.rand(N, 2, 3)
    data = Dataset(inputs, {"class": Target(LABELS, 3, ("a", "b", "c")), "value": Target(numbers)}, space)
    schema = schema_of({"x": data, "y": data}, {"x": "class", "y": "value"}, {"x": None, "y": "class"})
    assert Schema.model_validate_json(schema.model_dump_json(indent=1)) == schema


def test_heads_tell_what_their_targets_are():
    sequences = from_arrays(
        torch.rand(N, T, 4),
        {"class": LABELS, "value": torch.rand(N, 2), "rows": torch.randint(4, (N, T)), "number": torch.rand(N)},
        names={"class": ["low", "mid", "high"], "rows": ["a", "b", "c", "d"]},
        lengths=torch.tensor([1, 2, 3, 3, 3]),
    )
    names = ("class", "value", "rows", "number")
    schema = schema_of(
        dict.fromkeys(names, sequences),
        {name: name for name in names},
        {"class": None, "value": "class", "rows": None, "number": None},
    )
    assert schema.inputs.is_sequence
    assert schema.inputs.shape == (4,)
    heads = schema.heads
    assert heads["class"].classes == ("low", "mid", "high")
    assert heads["rows"].classes == ("a", "b", "c", "d")
    assert [heads[name].per_row for name in names] == [False, False, True, False]
    assert [heads[name].is_regression for name in names] == [False, True, False, True]
    assert (heads["value"].shape, heads["number"].shape) == ((2,), ())
    assert (heads["value"].given, heads["value"].choices) == ("class", 3)


SAMPLES = from_arrays(
    torch.rand(N, T, 4),
    {"class": LABELS, "value": torch.rand(N), "rows": torch.randint(4, (N, T))},
    lengths=torch.full((N,), T),
)


@pytest.mark.parametrize(
    ("target", "given", "message"),
    [
        ("value", "value", r"^task\.heads\.head\.given=value: must be a target that is one class a sample$"),
        ("value", "rows", r"^task\.heads\.head\.given=rows: must be a target that is one class a sample$"),
        ("class", "class", r"^task\.heads\.head\.given=class: only predictions of numbers are told apart by it$"),
        ("value", "clas", r"^target 'clas': the data have none of that name; did you mean class\?$"),
        ("valeu", None, r"^target 'valeu': the data have none of that name; did you mean value\?$"),
    ],
)
def test_wrong_targets_are_named(target, given, message):
    with pytest.raises(ValueError, match=message):
        one_head(SAMPLES, target, given)


@pytest.mark.parametrize(
    ("other", "form"),
    [
        (from_arrays(torch.rand(N, 3), LABELS), r"\[3\] float32"),
        (from_arrays(torch.rand(N, 4, 4), LABELS, lengths=torch.full((N,), 4)), r"sequences of \[4\] float32"),
        (
            from_arrays(torch.randint(9, (N, 4)), LABELS, space=spaces.MultiDiscrete([9] * 4)),
            r"\[4\] int64 of 9 choices",
        ),
        (from_arrays(torch.zeros(N, 4, dtype=torch.uint8), LABELS), r"\[4\] uint8"),
    ],
)
def test_one_trunk_takes_one_form_of_inputs(other, form):
    first = from_arrays(torch.rand(N, 4), LABELS)
    with pytest.raises(
        ValueError,
        match=rf"^task\.heads\.b\.data: inputs are {form}, but those of a are \[4\] float32; one trunk takes one form$",
    ):
        schema_of({"a": first, "b": other}, {"a": "class", "b": "class"}, {"a": None, "b": None})


def test_vocabularies_of_different_sizes_are_different_forms():
    one, other = (from_arrays(torch.randint(size, (N,)), LABELS, space=spaces.Discrete(size)) for size in (7, 9))
    with pytest.raises(
        ValueError, match=r"inputs are \[\] int64 of 9 choices, but those of a are \[\] int64 of 7 choices"
    ):
        schema_of({"a": one, "b": other}, {"a": "class", "b": "class"}, {"a": None, "b": None})
