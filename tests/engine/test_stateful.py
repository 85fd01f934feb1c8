import pytest
import torch
from torch import nn

from graftwork.engine import expect_keys, load_weights


def test_the_keys_that_are_missing_or_unknown_are_named() -> None:
    expect_keys("thing", {"a": 1, "b": 2}, {"b", "a"})
    with pytest.raises(ValueError, match=r"^state of thing: missing \['a', 'c'\], unexpected \['d'\]$"):
        expect_keys("thing", {"b": 1, "d": 2}, {"a", "b", "c"})
    with pytest.raises(ValueError, match=r"^state of thing: missing nothing, unexpected \['d'\]$"):
        expect_keys("thing", {"d": 2}, set())


def test_weights_and_buffers_are_copied() -> None:
    one, other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    one(torch.arange(15.0).reshape(5, 3))
    nn.init.normal_(one.weight)
    load_weights("norm", other, one.state_dict())
    for name, value in one.state_dict().items():
        assert other.state_dict()[name].equal(value)
        assert other.state_dict()[name].data_ptr() != value.data_ptr()


def test_a_weight_of_another_shape_is_named_and_nothing_changes() -> None:
    module = nn.Linear(3, 5)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match=r"^state of layer: weight is \[5, 7\], this one \[5, 3\]$"):
        load_weights("layer", module, nn.Linear(7, 5).state_dict())
    assert module.weight.equal(before)
    with pytest.raises(ValueError, match=r"^state of layer: missing \['bias'\]"):
        load_weights("layer", module, {"weight": before})
