from copy import deepcopy

import pytest
import torch
from torch import Tensor

from graftwork.engine import Adam

SHAPES = [(5, 3), (5,), ()]


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def steps(optimizer: torch.optim.Optimizer, tensors: list[Tensor], count: int = 20) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        for tensor in tensors:
            tensor.grad = torch.randn(tensor.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_equals_torchs_bit_for_bit(epsilon: float) -> None:
    ours, theirs = parameters(), parameters()
    one, other = Adam(ours, epsilon), torch.optim.Adam(theirs, eps=epsilon, fused=True)
    for optimizer, tensors in ((one, ours), (other, theirs)):
        optimizer.param_groups[0]["lr"] = 0.03
        steps(optimizer, tensors)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert one.state[a].keys() == other.state[b].keys()
        assert all(torch.equal(one.state[a][key], other.state[b][key]) for key in one.state[a])


def test_groups_have_learning_rates_of_their_own() -> None:
    ours, theirs = parameters(), parameters()
    for tensors, make in ((ours, Adam), (theirs, lambda groups: torch.optim.Adam(groups, fused=True))):
        steps(make([{"params": tensors[:1], "lr": 0.5}, {"params": tensors[1:], "lr": 0.01}]), tensors)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_divides_by_grad_scale_and_skips_where_found_inf_is_one() -> None:
    ours, theirs = parameters(), parameters()
    one, other = Adam(ours), torch.optim.Adam(theirs, fused=True)
    for optimizer, tensors in ((one, ours), (other, theirs)):
        for scale, failed in ((4.0, 0.0), (1.0, 1.0), (2.0, 0.0)):
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(failed)  # type: ignore[attr-defined]
            steps(optimizer, tensors, 1)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert one.state[a]["step"] == other.state[b]["step"] == 2


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_weight_decay_it_is_adamw(weight_decay: float) -> None:
    ours, theirs = parameters(), parameters()
    steps(Adam(ours, 1e-8, (0.8, 0.95), weight_decay), ours)
    steps(torch.optim.AdamW(theirs, betas=(0.8, 0.95), weight_decay=weight_decay, fused=True), theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_parameter_without_a_gradient_stands_still_and_so_does_its_time() -> None:
    ours, theirs = parameters(), parameters()
    one, other = Adam(ours), torch.optim.Adam(theirs, fused=True)
    # Of three, those that learn: a late one joins, an early one rests and comes back, all rest.
    learning = [(0, 1), (0, 1, 2), (1, 2), (2,), (), (0, 2), (0, 1, 2)]
    for optimizer, tensors in ((one, ours), (other, theirs)):
        generator = torch.Generator().manual_seed(1)
        for learnt in learning:
            for _ in range(3):
                for index, tensor in enumerate(tensors):
                    gradient = torch.randn(tensor.shape, generator=generator)
                    tensor.grad = gradient if index in learnt else None
                optimizer.step()
    for a, b, updates in zip(ours, theirs, (12, 12, 15), strict=True):
        assert torch.equal(a, b)
        assert one.state[a]["step"] == other.state[b]["step"] == updates
        assert all(torch.equal(one.state[a][key], other.state[b][key]) for key in ("exp_avg", "exp_avg_sq"))


def test_a_group_without_gradients_is_left_out() -> None:
    ours, theirs = parameters(), parameters()
    for tensors, make in ((ours, Adam), (theirs, lambda groups: torch.optim.Adam(groups, fused=True))):
        optimizer = make([{"params": tensors[:2], "lr": 0.5}, {"params": tensors[2:], "lr": 0.01}])
        for learnt in (tensors[2:], tensors, tensors[:2]):
            for tensor in tensors:
                tensor.grad = None
            steps(optimizer, learnt, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_was_never_updated_has_no_state() -> None:
    ours = parameters()
    optimizer = Adam(ours)
    steps(optimizer, ours[:1], 2)
    assert list(optimizer.state) == ours[:1]


def test_a_copy_goes_on_by_itself() -> None:
    ours = parameters()
    optimizer = Adam(ours)
    steps(optimizer, ours, 3)
    other, theirs = deepcopy((optimizer, ours))
    for each, tensors in ((optimizer, ours), (other, theirs)):
        steps(each, tensors, 3)
    assert all(torch.equal(a, b) and a is not b for a, b in zip(ours, theirs, strict=True))
