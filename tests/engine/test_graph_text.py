import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from graftwork.engine.graph_text import NotText, from_text, to_text
from graftwork.engine.traced import traced

X, Y = torch.arange(15.0).view(3, 5) - 7, torch.arange(10.0).view(2, 5).t()[:, :1]


def graph(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    def outputs(*tensors: Tensor) -> list[Tensor]:
        found = function(*tensors)
        return [found] if isinstance(found, Tensor) else found

    return traced(outputs)(*inputs)


def several(x: Tensor, y: Tensor) -> list[Tensor]:
    most = x.max(1)
    one_hot = torch.zeros(3, 2, dtype=torch.float64).scatter(1, most.indices.clamp(max=1).unsqueeze(1), 1.0)
    return [(x @ y).relu(), most.values, one_hot, torch.cat((x, x.neg()), 1)[:, 2:7:2], x.new_full((2,), torch.inf)]


def test_a_graph_read_back_computes_the_same():
    module, _ = from_text(to_text(graph(several, X, Y), [X, Y]))
    expected, found = several(X, Y), module(X, Y)
    assert len(found) == 5
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_text_is_the_same_after_there_and_back():
    text = to_text(graph(several, X, Y), [X, Y])
    module, inputs = from_text(text)
    assert to_text(module, inputs) == text


def test_inputs_have_the_form_that_was_recorded():
    _, (x, y) = from_text(to_text(graph(several, X, Y), [X, Y]))
    assert (x.shape, x.stride(), x.dtype) == ((3, 5), (5, 1), torch.float32)
    assert (y.shape, y.stride()) == ((5, 1), (1, 5))


def test_text_differs_with_the_form_of_inputs():
    wide = X.double()
    assert to_text(graph(torch.relu, X), [X]) != to_text(graph(torch.relu, wide), [wide])
    assert to_text(graph(torch.relu, X), [X]) != to_text(graph(torch.relu, X.t()), [X.t()])


def test_a_small_constant_is_written_out():
    constant = torch.tensor([2, 3], dtype=torch.int64)
    module, _ = from_text(to_text(graph(lambda x: x[:2, 0] * constant, X), [X]))
    torch.testing.assert_close(module(X)[0], X[:2, 0] * constant)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: x.add_(1), "aten.add_.Tensor changes what it is given, or draws random numbers"),
        (lambda x: torch.rand_like(x) + x, "aten.rand_like.default changes what it is given, or draws random numbers"),
        (lambda x: torch.nn.functional.dropout(x, 0.5), "draws random numbers"),
        (lambda x: torch.add(x, x, alpha=0.1), "a sum with a factor"),
        (lambda x: x + torch.arange(75_000.0).view(-1, 5)[:3] + torch.from_numpy(X.numpy()), None),
    ],
    ids=["in place", "random", "dropout", "alpha", "fine"],
)
def test_what_is_no_pure_function_is_refused(function: Callable[[Tensor], Tensor], reason: str | None):
    module = graph(function, X.clone())
    if reason is None:
        json.loads(to_text(module, [X]))
        return
    with pytest.raises(NotText, match=reason):
        to_text(module, [X])


def test_a_factor_of_whole_numbers_is_exact_and_kept():
    numbers = torch.arange(4)
    module, _ = from_text(to_text(graph(lambda x: torch.add(x, x, alpha=2**40), numbers), [numbers]))
    assert torch.equal(module(numbers)[0], numbers + 2**40 * numbers)
