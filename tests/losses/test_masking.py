import pytest
import torch

from graftwork.losses import masked_mean, masked_sum

T, B = 3, 5


def test_mean_is_over_the_true_entries_only():
    x = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    mask = torch.tensor([[True, False, True], [False, True, False]])
    # (1 + 4 + 16) / 3
    mean = masked_mean(x, mask)
    assert mean.shape == ()
    torch.testing.assert_close(mean, torch.tensor(7.0))


def test_mean_over_a_full_mask_is_the_mean():
    x = torch.randn(T, B, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(masked_mean(x, torch.ones(T, B, dtype=torch.bool)), x.mean())


def test_gradient_is_one_over_the_count_at_true_entries_and_zero_elsewhere():
    x = torch.zeros(B, requires_grad=True)
    mask = torch.tensor([True, False, True, True, True])
    (gradient,) = torch.autograd.grad(masked_mean(x, mask), x)
    torch.testing.assert_close(gradient, torch.tensor([0.25, 0.0, 0.25, 0.25, 0.25]))


def test_empty_mask_gives_zero_and_a_zero_gradient():
    x = torch.full((T, B), torch.nan, requires_grad=True)
    mean = masked_mean(x, torch.zeros(T, B, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(mean, x)
    assert mean.item() == 0.0
    assert gradient.tolist() == torch.zeros(T, B).tolist()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_masked_leaks_into_neither_value_nor_gradient(bad: float):
    x = torch.tensor([1.0, bad, 3.0], requires_grad=True)
    mean = masked_mean(x, torch.tensor([True, False, True]))
    (gradient,) = torch.autograd.grad(mean, x)
    assert mean.item() == 2.0
    assert gradient.tolist() == [0.5, 0.0, 0.5]


def test_nan_under_true_is_not_hidden():
    assert masked_mean(torch.tensor([1.0, torch.nan]), torch.tensor([False, True])).isnan()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_mean_has_the_type_of_its_input(dtype: torch.dtype):
    mean = masked_mean(torch.ones(T, B, dtype=dtype), torch.ones(T, B, dtype=torch.bool))
    assert mean.dtype == dtype


def test_a_mask_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"^mask must have shape \[3, 5\], got \[3, 1\]$"):
        masked_mean(torch.zeros(T, B), torch.ones(T, 1, dtype=torch.bool))


def test_sum_is_of_the_entries_under_true():
    x, mask = torch.tensor([[1.0, 2.0], [4.0, torch.nan]]), torch.tensor([[True, False], [True, False]])
    assert masked_sum(x, mask) == 5.0
    assert masked_sum(x, torch.zeros_like(mask)) == 0.0
    with pytest.raises(ValueError, match=r"mask must have shape \[2, 2\], got \[2\]"):
        masked_sum(x, mask[0])
