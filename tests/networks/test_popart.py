import pytest
import torch

from graftwork.networks import NormalisedValueHead


def test_a_new_head_gives_what_its_layer_gives() -> None:
    head, features = NormalisedValueHead(3), torch.randn(5, 2, 3)
    torch.testing.assert_close(head(features), head.linear(features).squeeze(-1), rtol=0, atol=0)


def test_the_first_batch_is_taken_over_and_later_ones_in_part() -> None:
    head = NormalisedValueHead(3)
    head.adapt(torch.tensor(-100.0), torch.tensor(10_016.0))  # deviation 4
    assert head.mean.item() == -100.0
    assert head.deviation.item() == pytest.approx(4.0, abs=1e-2)
    head.adapt(torch.tensor(-50.0), torch.tensor(2_500.0))
    assert head.mean.item() == pytest.approx(-95.0)  # nine tenths of -100, one of -50
    assert head.square.item() == pytest.approx(9_264.4)


def test_adapting_changes_no_value_but_the_scale_of_what_is_learnt() -> None:
    head, features = NormalisedValueHead(3), torch.randn(7, 3)
    before = head(features).detach()
    head.adapt(torch.tensor(30.0), torch.tensor(1_300.0))  # deviation 20
    torch.testing.assert_close(head(features), before, rtol=1e-5, atol=1e-4)
    # value = 30 + 20 layer(x): what the layer is off by is a twentieth of what the value is.
    torch.testing.assert_close(head.linear(features).squeeze(-1), (before - 30.0) / 20.0, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(head(features).sum(), head.linear.bias)
    assert slope.item() == pytest.approx(7 * 20.0)


def test_targets_that_are_all_alike_keep_the_deviation_above_zero() -> None:
    head = NormalisedValueHead(2)
    head.adapt(torch.tensor(5.0), torch.tensor(25.0))
    assert head.deviation.item() == pytest.approx(1e-4)
    assert head(torch.ones(1, 2)).isfinite().all()


def test_statistics_are_part_of_the_state() -> None:
    head, other = NormalisedValueHead(2), NormalisedValueHead(2)
    head.adapt(torch.tensor(5.0), torch.tensor(29.0))
    other.load_state_dict(head.state_dict())
    assert (other.mean.item(), other.deviation.item()) == (5.0, 2.0)
    assert not other.is_new
