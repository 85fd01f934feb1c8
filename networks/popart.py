"""A value that is learnt in units of its own targets."""

import torch
from torch import Tensor

from .heads import ValueHead

RATE = 0.1  # share of a batch in the running statistics
LEAST_DEVIATION = 1e-4


class NormalisedValueHead(ValueHead):
    """State value: [..., F] -> [...], whose layer learns how many deviations it is from the mean of its targets.

    So a value of -100 is not a hundred steps of an optimizer away, and its error has no weight that depends on the
    task's rewards. Its owner calls `adapt` before each update (PopArt: van Hasselt et al. 2016, algorithm 1).
    """

    mean: Tensor  # [], of the targets
    variance: Tensor  # []
    is_new: Tensor  # [] bool, no target has come yet

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features)
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("variance", torch.tensor(1.0))
        self.register_buffer("is_new", torch.tensor(True))

    @property
    def deviation(self) -> Tensor:
        """Of the targets, []; at first 1."""
        return self.variance.clamp(min=LEAST_DEVIATION**2).sqrt()

    def forward(self, features: Tensor) -> Tensor:
        return self.mean + self.deviation * super().forward(features)

    @torch.no_grad()
    def adapt(self, mean: Tensor, variance: Tensor) -> None:
        """Move the statistics towards those of a batch of targets, each []; no value changes.

        But for the first batch: its statistics are taken as they are, and values begin about its mean instead of 0.
        """
        mean_before, deviation_before = self.mean.clone(), self.deviation
        rate = torch.where(self.is_new, 1.0, RATE)
        shift = mean - self.mean
        # Of the mixture. A mean square less the square of the mean would cancel where returns are large and alike.
        self.variance.copy_((1 - rate) * (self.variance + rate * shift**2) + rate * variance)
        self.mean.add_(rate * shift)
        weight = self.linear.weight * deviation_before / self.deviation
        bias = (mean_before + deviation_before * self.linear.bias - self.mean) / self.deviation
        self.linear.weight.copy_(torch.where(self.is_new, self.linear.weight, weight))
        self.linear.bias.copy_(torch.where(self.is_new, self.linear.bias, bias))
        self.is_new.fill_(False)
