"""Scales on which large returns are learnt without clipping rewards."""

from torch import Tensor


def signed_hyperbolic(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """sign(x) (sqrt(|x| + 1) - 1) + epsilon x: like a root for large values, half of x near 0.

    x [...] -> [...]. `signed_parabolic` is its inverse.
    Source: Pohlen et al. 2018, proposition A.2, where epsilon is 1e-2; 1e-3 is that of Kapturowski et al. 2019.
    """
    # sqrt(a + 1) - 1 = a / (sqrt(a + 1) + 1), which keeps the digits of a small x.
    return x / ((x.abs() + 1).sqrt() + 1) + epsilon * x


def signed_parabolic(x: Tensor, epsilon: float = 1e-3) -> Tensor:
    """sign(x) (((sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon))**2 - 1): undoes `signed_hyperbolic`.

    x [...] -> [...]. To float tolerance at any size, and for epsilon = 0.
    Source: Pohlen et al. 2018, proposition A.2.
    """
    size = x.abs()
    root = (1 + 4 * epsilon * (size + 1 + epsilon)).sqrt()
    # The same rearranged: as printed, float32 loses four of seven digits to the difference that epsilon divides.
    # What is squared is 1 + |part|, for root**2 = (1 + 2 epsilon)**2 + 4 epsilon |x|.
    part = 2 * x / (root + 1 + 2 * epsilon)
    return part * (part.abs() + 2)
