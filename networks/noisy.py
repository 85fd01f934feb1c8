"""Linear layers with learnt noise in their weights, as a way to explore."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# From here on noisy weights are made before they are multiplied. The other way, two products and no such weights, takes
# acting in one environment a twentieth of the time (512 x 512), and learning from 256 rows twice as long.
_FEW_ROWS = 32


class NoisyLinear(nn.Module):
    """A linear layer each of whose weights has noise of a scale that is learnt: [..., F] -> [..., G].

    At rest, `is_noisy` False, weights and biases are their means mu; with it they are mu + sigma * epsilon. The noise
    is factorised: a weight's epsilon is a factor of its input times one of its output, a bias's that of its output, and
    a factor is sgn(x) sqrt(|x|) of a standard normal x. Factors are buffers, 0 at first, and stand still until
    `resample`: all rows have the same noise. They are saved with the weights, and `follow` copies them, so a target
    network with a noise of its own wants a `resample` of its own.

    Nothing but `is_noisy` decides what is computed, and engine.Recorded does not notice it: keep one for each value.
    While it is False no gradient reaches the scales sigma.
    Source: Fortunato et al. 2018, eq. 9 to 11; sigma starts at `noise` / sqrt(F), section 3.2, where `noise` is 0.5.
    """

    input_noise: Tensor
    output_noise: Tensor

    def __init__(self, in_features: int, out_features: int, noise: float = 0.5) -> None:
        super().__init__()
        self.noise, self.is_noisy = noise, False
        # Section 3.2: mu is U(-1/sqrt(F), 1/sqrt(F)), which is how torch's own layer starts.
        mean = nn.Linear(in_features, out_features)
        self.weight, self.bias = mean.weight, mean.bias
        self.weight_noise = nn.Parameter(torch.empty_like(mean.weight))
        self.bias_noise = nn.Parameter(torch.empty_like(mean.bias))
        self.register_buffer("input_noise", torch.empty(in_features))
        self.register_buffer("output_noise", torch.empty(out_features))
        self.reset_noise()

    @torch.no_grad()
    def reset_noise(self) -> None:
        """Back to the first scales, and to no noise; nothing is drawn."""
        for scale in (self.weight_noise, self.bias_noise):
            scale.fill_(self.noise * self.weight.shape[1] ** -0.5)
        self.input_noise.zero_()
        self.output_noise.zero_()

    def forward(self, features: Tensor) -> Tensor:
        if not self.is_noisy:
            return F.linear(features, self.weight, self.bias)
        if features.numel() < _FEW_ROWS * features.shape[-1]:
            scaled = F.linear(features * self.input_noise, self.weight_noise, self.bias_noise)
            return F.linear(features, self.weight, self.bias) + scaled * self.output_noise
        weight = self.weight + self.weight_noise * (self.output_noise.unsqueeze(1) * self.input_noise)
        return F.linear(features, weight, self.bias + self.bias_noise * self.output_noise)


def noisy_layers(module: nn.Module) -> list[NoisyLinear]:
    """All in it, in the order of `modules`; none twice."""
    return [layer for layer in module.modules() if isinstance(layer, NoisyLinear)]


def resample(layers: Sequence[NoisyLinear], generator: torch.Generator) -> None:
    """Draw the noise of all layers anew: one call to the generator, layer after layer, inputs before outputs.

    In place, so that what has recorded the buffers reads the new noise. The generator may be on another device.
    """
    if not layers:
        return
    factors = [buffer for layer in layers for buffer in (layer.input_noise, layer.output_noise)]
    sizes = [len(factor) for factor in factors]
    drawn = torch.randn(sum(sizes), generator=generator, device=generator.device)
    shaped = (drawn.sign() * drawn.abs().sqrt()).to(factors[0].device)
    torch._foreach_copy_(factors, list(torch.split(shaped, sizes)))


@contextmanager
def noise(layers: Sequence[NoisyLinear], on: bool) -> Iterator[None]:
    """Set `is_noisy` of all layers, and put back what each had afterwards."""
    before = [layer.is_noisy for layer in layers]
    for layer in layers:
        layer.is_noisy = on
    try:
        yield
    finally:
        for layer, was_noisy in zip(layers, before, strict=True):
            layer.is_noisy = was_noisy
