import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from graftwork.configs.yaml_text import ConfigError, one_line, parse, parse_argument, render

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LOOKALIKES = st.sampled_from(
    ["1e-3", "1_000", "no", "on", "12:30", "~", "", "=", "<<", "2020-01-01", "0x1f", "010", ".5"]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT | LOOKALIKES
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("2.3e-3", 0.0023),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("1_000", 1000),
        ("+7", 7),
        ("010", 10),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("no", "no"),
        ("off", "off"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("CartPole-v1", "CartPole-v1"),
        ("1e", "1e"),
        ("_1", "_1"),
        ("inf", "inf"),
        ("'3'", "3"),
        ("[0, 2]", [0, 2]),
        ("{kind: mlp, hidden: [64]}", {"kind": "mlp", "hidden": [64]}),
    ],
)
def test_file_and_override_read_the_same_value(text, value):
    for read in (parse(text, "a.yaml"), parse_argument(text, "a=1")):
        assert read == value
        assert type(read) is type(value)


@pytest.mark.parametrize("text", ["runs/a #1", "a: b", "*a", "@x", "%x", "- x", "|", "!tag"])
def test_override_scalar_is_taken_whole(text):
    assert parse_argument(text, "a=1") == text


@given(VALUES)
def test_rendered_value_reads_back_exactly(value):
    assert parse(render(value), "a.yaml") == value


@given(st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3)))
def test_rendered_value_means_the_same_to_a_yaml_1_1_reader(value):
    assert yaml.safe_load(render(value)) == value


def test_rendered_list_of_scalars_stays_on_one_line():
    assert render({"hidden": [64, 32], "stages": [{"at": 1}]}) == "hidden: [64, 32]\nstages:\n- at: 1\n"


def test_value_in_a_message_is_one_line_and_cut():
    assert one_line({"kind": "mlp", "hidden": [64, 32]}) == "{kind: mlp, hidden: [64, 32]}"
    assert one_line("a\nb") == "'a b'"
    assert one_line("x" * 100) == "x" * 57 + "..."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nsteps: 2\nseed: 3\n", "a.yaml, line 3: the key seed is there twice"),
        ("env:\n  id: a\n  id: b\n", "a.yaml, line 3: the key id is there twice"),
        ("seed: 1\n2: 3\n", "a.yaml, line 2: the key 2 is not text"),
        ("seed: 1\nenv: [1,\n", "a.yaml, line 3: expected the node content, but found '<stream end>'"),
        ("seed: 1\n\tenv: 2\n", "a.yaml, line 2: found character '\\t' that cannot start any token"),
        ("seed: 1\n---\nseed: 2\n", "a.yaml, line 2: but found another document"),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", "a.yaml, line 2: the tag tag:yaml.org,2002:python/obj"),
        ("a: 1\nb: *c\n", "a.yaml, line 2: found undefined alias 'c'"),
        ("a: &a [*a]", "a.yaml: nested too deeply"),
        ("[" * 5000, "a.yaml: nested too deeply"),
        ("a: \x00", "a.yaml: unacceptable character #x0000: special characters are not allowed in"),
        ("a: 1\nb: " + "9" * 5000, "a.yaml, line 2: Exceeds the limit"),
    ],
)
def test_bad_yaml_is_one_line_with_the_place(text, message):
    with pytest.raises(ConfigError) as error:
        parse(text, "a.yaml")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
