"""Losses of predictions against known targets, and what is added to them or weighs them.

Regression takes `squared` and `huber` of the error, as action values do (value.py).
"""

from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from .masking import expect_shape

# Where a unit's mean activation counts as 0 or 1 for kl_sparsity: bounds its gradient by 1 / 1e-6.
_RATE_MARGIN = 1e-6


def cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(logits)[target], the target mixed with the uniform distribution by `label_smoothing` in [0, 1].

    logits [..., C]; target [...] int64, from 0 to C - 1 even in elements that are masked afterwards -> [...].
    A class ruled out by a logit of -inf has an infinite loss under label smoothing.
    Raises ValueError for any other shape.
    Source: Szegedy et al. 2016, section 7: q'(k) = (1 - e) [k = target] + e / C.
    """
    log_probs = logits.log_softmax(-1)
    loss = -_pick(log_probs, target)
    if label_smoothing == 0:
        return loss
    return (1 - label_smoothing) * loss - label_smoothing * log_probs.mean(-1)


def binary_cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    """-(target * log sigmoid(logit) + (1 - target) * log sigmoid(-logit)), stable for logits of any size.

    logit [...]; target [...], bool, integers 0 and 1, or a probability -> [...].
    Raises ValueError where the shapes differ.
    """
    expect_shape(logit.shape, target=target)
    return F.binary_cross_entropy_with_logits(logit, target.to(logit.dtype), reduction="none")


def multiclass_hinge(logits: Tensor, target: Tensor, margin: float = 1.0) -> Tensor:
    """max(0, margin + max_{j != target} logits[j] - logits[target]): 0 once the target leads all by the margin.

    logits [..., C]; target [...] int64, from 0 to C - 1 -> [...].
    Other than torch's multi_margin_loss, which sums over the classes and divides by their number.
    Raises ValueError for any other shape.
    Source: Crammer & Singer 2001, section 3.
    """
    own = _pick(logits, target)
    others = logits.scatter(-1, target.unsqueeze(-1), -torch.inf)
    return F.relu(margin + others.amax(-1) - own)


def kl_sparsity(activation: Tensor, target: float) -> Tensor:
    """Sum over units of KL(target || mean activation), both as the chance of a unit to be active: 0 if all means agree.

    activation [..., F] in [0, 1], averaged over all but the last dimension -> []. What does not lie in [0, 1] goes
    through sigmoid first; it's not done here, since a sigmoid of a sigmoid would never come below 1/2.
    A unit that is always off (or on) has a large but finite value and gradient, away from that state.
    Raises ValueError for a target not strictly between 0 and 1.
    Source: Ng 2011, Sparse autoencoder (CS294A lecture notes), section 3.
    """
    if not 0 < target < 1:
        raise ValueError(f"target must lie between 0 and 1, both excluded, got {target}; 0.05 is usual")
    mean = activation.reshape(-1, activation.shape[-1]).mean(0)
    # The clamped value with the gradient of the mean itself: clamp's own is 0, and would leave a dead unit dead.
    rate = mean + (mean.clamp(_RATE_MARGIN, 1 - _RATE_MARGIN) - mean).detach()
    negative_entropy = target * log(target) + (1 - target) * log(1 - target)
    return (negative_entropy - target * rate.log() - (1 - target) * (1 - rate).log()).sum()


def uncertainty_weighted(loss: Tensor, log_variance: Tensor, *, is_regression: bool) -> Tensor:
    """A task's loss weighted by a noise that is learnt along: exp(-s) * loss + s / 2, with loss / 2 for a regression.

    loss, log_variance (s = log sigma**2, a parameter that starts at 0) [...] -> [...], each task by itself: add them.
    A regression's `loss` is the squared error without a factor, twice `squared`; then sigma**2 becomes its mean. Given
    a loss that has the half in it already, as `squared` and `huber` do, `is_regression=False` is the same formula.
    May be negative. Raises ValueError where the shapes differ.
    Source: Kendall, Gal & Cipolla 2018, eq. 7 (regression) and 10 (classification), in s as section 3.2 advises.
    """
    expect_shape(loss.shape, log_variance=log_variance)
    scale = 0.5 if is_regression else 1.0
    return scale * (-log_variance).exp() * loss + 0.5 * log_variance


def _pick(scores: Tensor, target: Tensor) -> Tensor:
    expect_shape(scores.shape[:-1], target=target)
    return scores.gather(-1, target.unsqueeze(-1)).squeeze(-1)
