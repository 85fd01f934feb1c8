"""What every loss leans on: the mean over a mask, and the refusal of shapes that would broadcast."""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of `x` where `mask` is True; 0, with a zero gradient, where no entry is.

    x [...], mask [...] bool -> [].
    A NaN or infinity under False reaches neither the mean nor the gradient with respect to `x`. (What made `x` may
    still turn that zero gradient into NaN, as 0 * inf: mask its inputs as well.)
    Raises ValueError where the shapes differ.
    """
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of `x` where `mask` is True; else as masked_mean."""
    expect_shape(x.shape, mask=mask)
    return torch.where(mask, x, 0.0).sum()


def expect_shape(shape: torch.Size, **tensors: Tensor) -> None:
    """Raise ValueError that names the first of `tensors` of another shape.

    Broadcasting would otherwise make [B, B] of [B] and a [B, 1] column, and train on it in silence. Costs 0.5 us.
    """
    for name, tensor in tensors.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")
