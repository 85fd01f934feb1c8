import pytest
import torch

from graftwork.networks import NormalisedValueHead


def test_a_new_head_gives_what_its_layer_gives() -> None:
    head, features = NormalisedValueHead(3), torch.randn(5, 2, 3)
    torch.testing.assert_close(head(features), head.linear(features).squeeze(-1), rtol=0, atol=0)


def test_the_first_batch_is_taken_over_and_later_ones_in_part() -> None:
    head = NormalisedValueHead(3)
    head.adapt(torch.tensor(-100.0), torch.tensor(16.0))
    assert (head.mean.item(), head.deviation.item()) == (-100.0, 4.0)
    head.adapt(torch.tensor(-50.0), torch.tensor(0.0))
    assert head.mean.item() == pytest.approx(-95.0)  # nine tenths of -100, one of -50
    # Of that mixture: 0.9 * 16 + 0.1 * 0, and 0.9 * 5**2 + 0.1 * 45**2 about the mean.
    assert head.variance.item() == pytest.approx(14.4 + 22.5 + 202.5)


def test_the_first_batch_takes_values_to_its_own_scale() -> None:
    head, features = NormalisedValueHead(3), torch.randn(7, 3)
    before = head(features).detach()
    head.adapt(torch.tensor(-80.0), torch.tensor(9.0))
    torch.testing.assert_close(head(features), -80.0 + 3.0 * before)


def test_adapting_changes_no_value_but_the_scale_of_what_is_learnt() -> None:
    head, features = NormalisedValueHead(3), torch.randn(7, 3)
    head.is_new.fill_(False)
    before = head(features).detach()
    head.adapt(torch.tensor(30.0), torch.tensor(400.0))
    torch.testing.assert_close(head(features), before, rtol=1e-5, atol=1e-4)
    # A tenth of the way: the mean is 3, the variance 0.9 * (1 + 0.1 * 30**2) + 0.1 * 400 = 121.9.
    deviation = 121.9**0.5
    torch.testing.assert_close(head.linear(features).squeeze(-1), (before - 3.0) / deviation, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(head(features).sum(), head.linear.bias)
    assert slope.item() == pytest.approx(7 * deviation)


def test_targets_that_are_all_alike_keep_the_deviation_above_zero() -> None:
    head = NormalisedValueHead(2)
    head.adapt(torch.tensor(5.0), torch.tensor(0.0))
    assert head.deviation.item() == pytest.approx(1e-4)
    assert head(torch.ones(1, 2)).isfinite().all()


def test_statistics_are_part_of_the_state() -> None:
    head, other = NormalisedValueHead(2), NormalisedValueHead(2)
    head.adapt(torch.tensor(5.0), torch.tensor(4.0))
    other.load_state_dict(head.state_dict())
    assert (other.mean.item(), other.deviation.item()) == (5.0, 2.0)
    assert not other.is_new


def test_a_small_deviation_of_large_targets_is_told() -> None:
    head, generator = NormalisedValueHead(2), torch.Generator().manual_seed(0)
    for _ in range(50):
        target = 1e5 + 10 * torch.randn(4_000, generator=generator)
        head.adapt(target.mean(), target.var(correction=0))
    assert head.deviation.item() == pytest.approx(10.0, rel=0.02)
