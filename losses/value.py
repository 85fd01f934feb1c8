"""Errors of action values, and what to make of an error."""

import torch
from torch import Tensor
from torch.nn import functional as F

from .masking import expect_shape


def q_learning(q: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """TD error of Q-learning: reward + discount * max_a next_q[a] - q[action] (Sutton & Barto 2018, eq. 6.8).

    q, next_q [..., A]; action (int64), reward, discount [...] -> [...].
    The target is detached: gradients reach `q` alone. A forbidden action has next_q = -inf, but one must be left even
    after termination: 0 * -inf is NaN.
    Raises ValueError for any other shape, [B, 1] columns included.
    """
    expect_shape(q.shape, next_q=next_q)
    return _td_error(q, action, reward, discount, next_q.amax(-1))


def double_q_learning(
    q: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_q: Tensor, next_q_selector: Tensor
) -> Tensor:
    """TD error of double Q-learning: reward + discount * next_q[argmax_a next_q_selector[a]] - q[action].

    q, next_q, next_q_selector [..., A]; action (int64), reward, discount [...] -> [...].
    `next_q` comes from the target network, `next_q_selector` from the online one. Of equal selectors the first action
    is taken. The target is detached: gradients reach `q` alone. A forbidden action has next_q_selector = -inf.
    Raises ValueError for any other shape, [B, 1] columns included.
    Source: van Hasselt, Guez & Silver 2016, eq. 4.
    """
    expect_shape(q.shape, next_q=next_q, next_q_selector=next_q_selector)
    return _td_error(q, action, reward, discount, _pick(next_q, next_q_selector.argmax(-1)))


def huber(error: Tensor, delta: float = 1.0) -> Tensor:
    """error**2 / 2 up to |error| = delta (> 0), then delta * (|error| - delta / 2), so that |gradient| <= delta.

    error [...] -> [...]. At delta = 1 this is the smooth L1 loss, the "clipped error" of Mnih et al. 2015.
    Source: Huber 1964.
    """
    # One kernel forward and one backward; from abs and clamp it takes three times as long.
    return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=delta)


def squared(error: Tensor) -> Tensor:
    """error**2 / 2, whose gradient is `error` itself. error [...] -> [...]."""
    return 0.5 * error * error


def _td_error(q: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    expect_shape(q.shape[:-1], action=action, reward=reward, discount=discount)
    # Not addcmul, which saves 1 us: it rounds once or twice depending on the CPU, and others' targets round twice.
    target = (reward + discount * next_value).detach()
    return target - _pick(q, action)


def _pick(q: Tensor, action: Tensor) -> Tensor:
    return q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
