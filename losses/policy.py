"""Losses of stochastic policies."""

import torch
from torch import Tensor

from .masking import expect_shape


def policy_gradient(log_prob: Tensor, advantage: Tensor) -> Tensor:
    """-log_prob * advantage, whose descent is REINFORCE (Williams 1992; Sutton & Barto 2018, eq. 13.8 and 13.11).

    log_prob, advantage [...] -> [...]; `log_prob` is of the action taken.
    The advantage is detached, so a baseline inside it learns nothing here.
    Raises ValueError where the shapes differ.
    """
    expect_shape(log_prob.shape, advantage=advantage)
    return -log_prob * advantage.detach()


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy in nats, -sum_a p_a log p_a: 0 if one action is sure, log A if all are equal.

    log_probs [..., A], normalised (log_softmax) -> [...].
    An impossible action (-inf) counts as 0, its limit; value and gradient stay finite.
    """
    # 0 * -inf is NaN, forward and backward; 0 times the smallest finite number is 0, and clamp's gradient there is 0.
    finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
    return -(log_probs.exp() * finite).sum(-1)
