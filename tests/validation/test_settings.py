"""When settings are the same, and where they are not."""

import pytest

from graftwork.validation.settings import digest, first_difference


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c=2, now 3"),
        ({"a": 1}, {"a": 1, "b": {"c": 0}}, "b=null, now {c: 0}"),
        ({"a": 1, "b": 2}, {"b": 2}, "a=1, now null"),
        ({"a": 1}, {"a": True}, "a=1, now true"),
        ({"a": [1, 2]}, {"a": [2, 1]}, "a=[1, 2], now [2, 1]"),
    ],
)
def test_first_difference_is_a_dotted_field(before, after, expected):
    assert first_difference(before, after) == expected


def test_digest_depends_on_what_is_set_and_not_on_its_order():
    assert digest({"a": 1, "b": {"c": 0.5}}) == digest({"b": {"c": 0.5}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 12


def test_tolerance_is_of_numbers_only():
    before = {"a": [1.0, 2.0], "b": "x", "c": True}
    assert first_difference(before, {"a": [1.0, 2.0 + 1e-12], "b": "x", "c": True}, tolerance=1e-9) is None
    assert (
        first_difference(before, {"a": [1.0, 2.1], "b": "x", "c": True}, tolerance=1e-9)
        == "a=[1.0, 2.0], now [1.0, 2.1]"
    )
    assert first_difference(before, {"a": [1.0], "b": "x", "c": True}, tolerance=1e-9) == "a=[1.0, 2.0], now [1.0]"
    assert first_difference(before, {"a": [1.0, 2.0], "b": "x", "c": 1}, tolerance=1e-9) == "c=true, now 1"
