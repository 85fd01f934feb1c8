from math import sqrt

import pytest
import torch

from graftwork.losses import signed_hyperbolic, signed_parabolic

SIZES = [0.0, 1e-30, 1e-6, 1e-3, 0.1, 1.0, 3.0, 100.0, 1e4, 1e7]
NUMBERS = [sign * size for size in SIZES for sign in (1, -1)]


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1e-2, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_undoes_the_other_at_any_size(epsilon, dtype):
    x = torch.tensor(NUMBERS, dtype=dtype)
    rtol = 1e-5 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(signed_parabolic(signed_hyperbolic(x, epsilon), epsilon), x, rtol=rtol, atol=0)
    torch.testing.assert_close(signed_hyperbolic(signed_parabolic(x, epsilon), epsilon), x, rtol=rtol, atol=0)


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_both_are_what_the_paper_prints(epsilon):
    for x in (-50.0, -3.0, -0.5, 0.0, 0.5, 3.0, 50.0):
        sign, given = (x > 0) - (x < 0), torch.tensor(x, dtype=torch.float64)
        expected = sign * (sqrt(abs(x) + 1) - 1) + epsilon * x
        assert signed_hyperbolic(given, epsilon).item() == pytest.approx(expected, rel=1e-12)
        expected = sign * (((sqrt(1 + 4 * epsilon * (abs(x) + 1 + epsilon)) - 1) / (2 * epsilon)) ** 2 - 1)
        assert signed_parabolic(given, epsilon).item() == pytest.approx(expected, rel=1e-10)


def test_by_hand():
    # sqrt(3 + 1) - 1 + 0.001 * 3
    assert signed_hyperbolic(torch.tensor(3.0)).item() == pytest.approx(1.003)
    assert signed_hyperbolic(torch.tensor(-3.0)).item() == pytest.approx(-1.003)
    assert signed_parabolic(torch.tensor(1.003)).item() == pytest.approx(3.0, rel=1e-6)


def test_gradients_at_zero_are_finite():
    x = torch.zeros(3, requires_grad=True)
    for function, expected in ((signed_hyperbolic, 0.501), (signed_parabolic, 1 / 0.501)):
        (gradient,) = torch.autograd.grad(function(x).sum(), x)
        torch.testing.assert_close(gradient, torch.full((3,), expected))
