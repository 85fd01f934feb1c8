"""Munchausen reinforcement learning: the log-probability of the own action as a part of the reward.

The policy is softmax(q / temperature). With next_q of the target network, an agent's target is
    reward + munchausen_bonus + discount * soft_value            (Vieillard, Pietquin & Geist 2020, eq. 1)
"""

from torch import Tensor

from .masking import expect_shape


def log_policy(q: Tensor, temperature: float) -> Tensor:
    """log softmax(q / temperature), for a temperature however small.

    q [..., A] -> [..., A]. A forbidden action has q = -inf, and -inf it gets; one must be left.
    Raises ValueError unless temperature > 0.
    Source: Vieillard, Pietquin & Geist 2020, appendix B.1.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    # The maximum goes first: q / 0.03 would round away what tells good actions apart.
    return ((q - q.detach().amax(-1, keepdim=True)) / temperature).log_softmax(-1)


def munchausen_bonus(
    log_policy_of_taken: Tensor, temperature: float, scale: float = 0.9, floor: float = -1.0
) -> Tensor:
    """What is added to the reward: scale * clip(temperature * log_policy_of_taken, floor, 0), never positive.

    log_policy_of_taken [...] -> [...].
    Source: Vieillard, Pietquin & Geist 2020, eq. 1; clipped, with this floor and scale, as in their experiments.
    """
    return scale * (temperature * log_policy_of_taken).clamp(floor, 0.0)


def entropy_bonus(log_policy: Tensor, temperature: float) -> Tensor:
    """What an action's surprise adds to its value, -temperature * log_policy; 0 for a forbidden one.

    log_policy [..., A] -> [..., A].
    Source: Vieillard, Pietquin & Geist 2020, eq. 1.
    """
    return -temperature * log_policy.masked_fill(log_policy.isneginf(), 0.0)


def soft_value(next_q: Tensor, log_policy: Tensor, temperature: float) -> Tensor:
    """sum_a pi(a) (next_q(a) - temperature * log pi(a)): the value of the policy, its entropy included.

    next_q, log_policy [..., A] -> [...]. With `log_policy` of next_q itself it is temperature * log sum_a
    exp(next_q(a) / temperature). An action whose log_policy is -inf counts nothing, whatever its next_q.
    Raises ValueError where the shapes differ.
    Source: Vieillard, Pietquin & Geist 2020, eq. 1.
    """
    expect_shape(next_q.shape, log_policy=log_policy)
    # Both are replaced before the product: 0 * inf would be NaN, in its gradient too.
    value = next_q.masked_fill(log_policy.isneginf(), 0.0) + entropy_bonus(log_policy, temperature)
    return (log_policy.exp() * value).sum(-1)
