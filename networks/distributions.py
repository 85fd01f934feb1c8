"""Action distributions that sample from a generator passed in.

Those of torch.distributions draw from the global stream and validate at each call; these do neither. Every one has
`sample(generator)`, `mode()` and `log_prob(action)`, and `entropy()` where that has a closed form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor
from torch.nn import functional as F

_HALF_LOG_2PI = 0.5 * log(2 * pi)


@dataclass(frozen=True)
class Categorical:
    """Categorical distribution over A actions."""

    log_probs: Tensor  # [..., A], normalised

    @classmethod
    def from_logits(cls, logits: Tensor) -> "Categorical":
        return cls(logits.log_softmax(-1))

    def among(self, legal: Tensor) -> "Categorical":
        """Given that the action is one of `legal` [..., A] bool, of which there must be one: the others get -inf."""
        return Categorical.from_logits(self.log_probs.masked_fill(~legal, -torch.inf))

    def sample(self, generator: torch.Generator) -> Tensor:
        """One action each: [...] int64."""
        return self.sampled(self.chance(self.log_probs.shape, generator, self.log_probs.dtype))

    @staticmethod
    def chance(shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """What `sampled` takes for log-probabilities of that shape, [..., A]."""
        return torch.empty(shape, dtype=dtype, device=generator.device).exponential_(generator=generator)

    def sampled(self, chance: Tensor) -> Tensor:
        """`sample` as a function of its random numbers [..., A]: [...] int64.

        They are exponential, and divided by rates the least of them comes first with its rate's share. Draws what
        torch.multinomial does of the same generator, in a tenth of its time.
        """
        return (self.log_probs.exp() / chance).argmax(-1)

    def mode(self) -> Tensor:
        """The likeliest action; the first among equals: [...] int64."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """action: [...] int64 -> [...]."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """In nats: [...]; an impossible action counts as 0, its limit."""
        # 0 * -inf is NaN, forward and backward; 0 times the smallest finite number is 0, as is clamp's gradient there.
        finite = self.log_probs.clamp(min=torch.finfo(self.log_probs.dtype).min)
        return -(self.log_probs.exp() * finite).sum(-1)


@dataclass(frozen=True)
class MultiCategorical:
    """K independent Categoricals, each over a number of actions of its own: what a MultiDiscrete space asks for."""

    factors: tuple[Categorical, ...]

    @classmethod
    def from_logits(cls, logits: Tensor, sizes: Sequence[int]) -> "MultiCategorical":
        """logits: [..., sum(sizes)], the factors' side by side."""
        return cls(tuple(map(Categorical.from_logits, logits.split_with_sizes(list(sizes), -1))))

    def sample(self, generator: torch.Generator) -> Tensor:
        """[..., K] int64, drawn factor by factor."""
        return torch.stack([factor.sample(generator) for factor in self.factors], -1)

    def mode(self) -> Tensor:
        """[..., K] int64."""
        return torch.stack([factor.mode() for factor in self.factors], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Of the whole action: [..., K] int64 -> [...]."""
        pairs = zip(self.factors, action.unbind(-1), strict=True)
        return torch.stack([factor.log_prob(part) for factor, part in pairs]).sum(0)

    def entropy(self) -> Tensor:
        """In nats: [...]."""
        return torch.stack([factor.entropy() for factor in self.factors]).sum(0)


@dataclass(frozen=True)
class Bernoulli:
    """K independent bits: what a MultiBinary space asks for."""

    logits: Tensor  # [..., K], of a bit being 1

    def sample(self, generator: torch.Generator) -> Tensor:
        """[..., K] int64 of 0 and 1."""
        return torch.bernoulli(self.logits.sigmoid(), generator=generator).long()

    def mode(self) -> Tensor:
        """[..., K] int64; 0 where both are as likely."""
        return (self.logits > 0).long()

    def log_prob(self, action: Tensor) -> Tensor:
        """Of all bits together: [..., K] of 0 and 1, of any dtype -> [...]."""
        return F.logsigmoid(torch.where(action.bool(), self.logits, -self.logits)).sum(-1)

    def entropy(self) -> Tensor:
        """In nats: [...]."""
        # Even in the logit, and in this form a sum of two positive terms: nothing cancels.
        x = self.logits.abs()
        return (F.softplus(-x) + x * (-x).sigmoid()).sum(-1)


@dataclass(frozen=True)
class Gaussian:
    """Normal distribution with a diagonal covariance, over all of R^K: bounds are the caller's to enforce."""

    mean: Tensor  # [..., K]
    log_std: Tensor  # [..., K]

    def sample(self, generator: torch.Generator) -> Tensor:
        """[..., K], without gradient.

        With one, log_prob(sample) would be constant in the mean, and a policy gradient would teach it nothing.
        """
        return self.rsample(generator).detach()

    def rsample(self, generator: torch.Generator) -> Tensor:
        """`sample` as a function of mean and deviation, with their gradient (Kingma & Welling 2014, section 2.4)."""
        return self.mean + self.log_std.exp() * _noise_like(self.mean, generator)

    def mode(self) -> Tensor:
        """[..., K]."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density: [..., K] -> [...]."""
        return self._log_prob_of_noise((action - self.mean) * (-self.log_std).exp())

    def entropy(self) -> Tensor:
        """In nats: [...]; negative where the deviations are small."""
        return (self.log_std + (_HALF_LOG_2PI + 0.5)).sum(-1)

    def _log_prob_of_noise(self, noise: Tensor) -> Tensor:
        return -(0.5 * noise * noise + self.log_std + _HALF_LOG_2PI).sum(-1)


@dataclass(frozen=True)
class SquashedGaussian:
    """A Gaussian's tanh, scaled to bounds: every action lies within them.

    It has no entropy in closed form; -log_prob of a sample is an unbiased estimate.
    Source: Haarnoja et al. 2018, appendix C.
    """

    mean: Tensor  # [..., K], before tanh
    log_std: Tensor  # [..., K], before tanh
    low: Tensor  # [K]
    high: Tensor  # [K], above `low`

    def sample(self, generator: torch.Generator) -> Tensor:
        """[..., K] within the bounds, without gradient; see Gaussian.sample."""
        return self._squash(Gaussian(self.mean, self.log_std).sample(generator))

    def sample_with_log_prob(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A sample [..., K] and its log-density [...], both with the gradient of Gaussian.rsample.

        The sample equals that of `sample`. The log-density is exact even where tanh has rounded to 1, as `log_prob`,
        which knows the action alone, cannot be.
        """
        noise = _noise_like(self.mean, generator)
        raw = self.mean + self.log_std.exp() * noise
        # Of the noise, not of (raw - mean) / std, which is 0 / 0 in floats once the deviation is tiny.
        log_prob = Gaussian(self.mean, self.log_std)._log_prob_of_noise(noise)
        return self._squash(raw), log_prob - self._log_determinant(raw)

    def mode(self) -> Tensor:
        """The squashed mean, [..., K]: the median of each entry, which is not where the density is highest."""
        return self._squash(self.mean)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density: [..., K] within the bounds -> [...].

        Finite on the bounds too: an action there counts as lying one rounding error inside.
        """
        centre, half = self._centre_and_half()
        unit = (action - centre) / half
        inside = 1 - torch.finfo(unit.dtype).eps
        raw = unit.clamp(-inside, inside).atanh()
        return Gaussian(self.mean, self.log_std).log_prob(raw) - self._log_determinant(raw)

    def _squash(self, raw: Tensor) -> Tensor:
        centre, half = self._centre_and_half()
        # Clamped because centre + half may round to just above high.
        return (centre + half * raw.tanh()).clamp(self.low, self.high)

    def _centre_and_half(self) -> tuple[Tensor, Tensor]:
        return 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)

    def _log_determinant(self, raw: Tensor) -> Tensor:
        """Sum of log |d action / d raw|: [..., K] -> [...]."""
        # log(1 - tanh(x)**2), which is log 0 in floats from |x| = 10 on, in a form that stays exact.
        log_slope = 2 * (log(2) - raw - F.softplus(-2 * raw))
        return (log_slope + self._centre_and_half()[1].log()).sum(-1)


def _noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the tensor's shape, dtype and device."""
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype, device=tensor.device)
