from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from graftwork.engine.traced import traced


class Case(NamedTuple):
    weight: Tensor  # [5, 3]
    inputs: Tensor  # [7, 3]


def case(seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 3, generator=generator).requires_grad_()
    return Case(weight, torch.randn(7, 3, generator=generator))


def loss_and_gradient(weight: Tensor, inputs: Tensor) -> list[Tensor]:
    loss = nn.functional.linear(inputs, weight).relu().square().mean()
    return [loss.detach(), *torch.autograd.grad(loss, [weight])]


def targets(function, *tensors: Tensor) -> list[str]:
    return [str(node.target) for node in traced(function)(*tensors).graph.nodes if node.op == "call_function"]


def test_forward_and_backward_are_repeated_on_other_numbers():
    module = traced(loss_and_gradient)(*case(0))
    with torch.no_grad():
        again = module(*case(1))
    for actual, expected in zip(again, loss_and_gradient(*case(1)), strict=True):
        assert torch.equal(actual, expected)


def test_operations_are_those_below_autograd():
    names = targets(loss_and_gradient, *case(0))
    assert "aten.linear.default" not in names
    assert {
        "aten.mm.default",
        "aten.relu.default",
        "aten.threshold_backward.default",
    } <= set(names)


def test_what_is_written_in_place_is_read_afterwards():
    def function(x: Tensor) -> list[Tensor]:
        total = x.clone()
        total.add_(1.0)
        view = total[1:]
        view.mul_(2.0)
        return [total * 3.0, total]

    first, total = traced(function)(torch.zeros(2))(torch.tensor([1.0, 4.0]))
    assert first.tolist() == [6.0, 30.0]
    assert total.tolist() == [2.0, 10.0]


def test_operations_with_several_results_are_repeated():
    def function(x: Tensor) -> list[Tensor]:
        values, places = x.max(dim=1)
        left, right = x.split([1, 2], dim=1)
        return [values, places, right - left]

    values, places, difference = traced(function)(torch.zeros(2, 3))(torch.tensor([[1.0, 5.0, 2.0], [4.0, 3.0, 0.0]]))
    assert (values.tolist(), places.tolist()) == ([5.0, 4.0], [1, 0])
    assert difference.tolist() == [[4.0, 1.0], [-1.0, -4.0]]


def test_numbers_of_the_function_are_fresh_in_each_call():
    def function(x: Tensor) -> list[Tensor]:
        count = torch.tensor([1.0, 2.0])
        count += x
        return [count]

    module = traced(function)(torch.zeros(2))
    assert [module(torch.ones(2))[0].tolist() for _ in range(2)] == [
        [2.0, 3.0],
        [2.0, 3.0],
    ]


def test_tensors_from_elsewhere_are_constants():
    scale = torch.tensor(3.0)
    module = traced(lambda x: [x * scale])(torch.ones(()))
    assert module(torch.tensor(5.0))[0] == 15.0


def test_names_of_arguments_are_kept():
    def function(x: Tensor, weight: Tensor) -> list[Tensor]:
        return [
            torch.add(x, weight, alpha=2),
            torch.zeros(4, dtype=torch.int64) + weight.long(),
        ]

    scaled, whole = traced(function)(torch.zeros(4), torch.zeros(4))(torch.ones(4), torch.full((4,), 3.0))
    assert scaled.tolist() == [7.0] * 4
    assert (whole.tolist(), whole.dtype) == ([3] * 4, torch.int64)


@pytest.mark.parametrize(
    "read",
    [lambda x: float(x.sum()), lambda x: 1.0 if x.sum() > 0 else 0.0],
    ids=["number", "if"],
)
def test_reading_a_number_is_refused(read):
    with pytest.raises(RuntimeError, match="reads a number"):
        traced(lambda x: [x * read(x)])(torch.ones(3))


def test_what_a_tensor_looks_like_is_noted():
    module = traced(lambda x: [x.argmax(dim=1)])(torch.zeros(5, 7))
    (node,) = [node for node in module.graph.nodes if node.op == "call_function"]
    assert node.meta["tensor_meta"] == (torch.Size([5]), torch.int64)
