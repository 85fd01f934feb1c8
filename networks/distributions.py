"""Action distributions that sample from a generator passed in."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Categorical:
    """Categorical distribution over A actions.

    torch.distributions.Categorical draws from the global stream and validates at each call; this one does neither.
    """

    log_probs: Tensor  # [..., A], normalised

    @classmethod
    def from_logits(cls, logits: Tensor) -> "Categorical":
        return cls(logits.log_softmax(-1))

    def sample(self, generator: torch.Generator) -> Tensor:
        """One action each: [...] int64."""
        probs = self.log_probs.exp()
        return torch.multinomial(probs.reshape(-1, probs.shape[-1]), 1, generator=generator).view(probs.shape[:-1])

    def mode(self) -> Tensor:
        """The likeliest action; the first among equals: [...] int64."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """action: [...] int64 -> [...]."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)
