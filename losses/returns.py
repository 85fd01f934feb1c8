"""Returns and advantages of time-major histories.

All tensors of a call have one shape [T, B, ...], T >= 1. Another raises ValueError: broadcasting would hide a mistake.
    discount     multiplies the value of row t's successor: 0 after termination
    next_value   the value of that successor; at a truncation, of the true final observation
    cut (bool)   True where row t + 1 does not continue row t: the end of an episode of either kind, or a filler row
The last row is cut whatever `cut` says: what follows is not there.

Nothing is detached here, and gradients flow through every argument: call these on detached tensors or under no_grad.
A NaN reaches the earlier rows of its column, even across a cut (0 * NaN is NaN).
"""

import torch
from torch import Tensor

from .masking import expect_shape


def discounted_return(reward: Tensor, discount: Tensor) -> Tensor:
    """Return from row 0: sum_t (prod_{k<t} discount_k) reward_t (Sutton & Barto 2018, eq. 3.8).

    reward, discount [T, B, ...] -> [B, ...]. Ends where `discount` is 0, and knows no other cut.
    """
    expect_shape(reward.shape, discount=discount)
    return reward[0] + (discount[:-1].cumprod(0) * reward[1:]).sum(0)


def reward_to_go(reward: Tensor, discount: Tensor, cut: Tensor, next_value: Tensor | None = None) -> Tensor:
    """Return from each row: G_t = r_t + discount_t G_{t+1} (Sutton & Barto 2018, eq. 3.9).

    all [T, B, ...] -> [T, B, ...]. At a cut G_t = r_t + discount_t next_value_t, where None stands for 0; next_value is
    read nowhere else.
    """
    expect_shape(reward.shape, discount=discount, cut=cut)
    decay = discount.masked_fill(cut, 0.0)
    if next_value is None:
        return _accumulate(reward, decay)
    expect_shape(reward.shape, next_value=next_value)
    ends = torch.cat((cut[:-1], torch.ones_like(cut[-1:])))
    return _accumulate(torch.where(ends, reward + discount * next_value, reward), decay)


def n_step_return(reward: Tensor, discount: Tensor, cut: Tensor, next_value: Tensor, n: int) -> Tensor:
    """Up to n rewards, then the value of the last one's successor (Sutton & Barto 2018, eq. 7.1).

    all [T, B, ...] -> [T, B, ...]. The sum ends early at a cut, and bootstraps from that row's `next_value`.
    Raises ValueError if n < 1.
    """
    expect_shape(reward.shape, discount=discount, cut=cut, next_value=next_value)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    one_step = reward + discount * next_value
    result = one_step
    for _ in range(min(n, reward.shape[0]) - 1):
        longer = reward[:-1] + discount[:-1] * result[1:]
        result = torch.cat((torch.where(cut[:-1], one_step[:-1], longer), one_step[-1:]))
    return result


def n_step_sums(
    reward: Tensor, terminated: Tensor, ends: Tensor, n: int, discount: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of up to n discounted rewards from each row, discount of its successor, and how many rows on that is.

    all [T, B, ...], T >= n -> each [T - n + 1, B, ...]: the rows from which on n are there. A sum takes in m rewards,
    up to the first row that is terminated or `ends` (bool: the next row is none of this episode's transitions); then
    come discount**m, 0 if the last of them terminated, and m (int64). What stands in rows that a sum does not reach
    changes nothing, not even NaN.
    Raises ValueError if n < 1 or n > T. Source: Sutton & Barto 2018, eq. 7.1.
    """
    expect_shape(reward.shape, terminated=terminated, ends=ends)
    if not 1 <= n <= reward.shape[0]:
        raise ValueError(f"n must be in [1, {reward.shape[0]}], the number of rows, got {n}")
    length = reward.shape[0] - n + 1
    ends = ends | terminated
    total, count = reward[:length], torch.ones_like(ends[:length], dtype=torch.int64)
    is_over = ends[:length]  # row k is not of the sum: one of the rows before it was the last
    for k in range(1, n):
        total = total + discount**k * reward[k : k + length].masked_fill(is_over, 0.0)
        count = count + is_over.logical_not()
        if k + 1 < n:
            is_over = is_over | ends[k : k + length]
    row = torch.arange(-1, length - 1, device=count.device).view(-1, *[1] * (count.ndim - 1))
    has_terminated = terminated.gather(0, row + count)
    return total, (discount ** count.to(reward.dtype)).masked_fill(has_terminated, 0.0), count


def gae(reward: Tensor, discount: Tensor, value: Tensor, next_value: Tensor, cut: Tensor, lambda_: float) -> Tensor:
    """Generalised advantage estimate: A_t = delta_t + discount_t lambda A_{t+1} (Schulman et al. 2016, eq. 16).

    all [T, B, ...] -> [T, B, ...]. delta_t = r_t + discount_t next_value_t - value_t (eq. 10); at a cut A_t = delta_t.
    lambda_ = 0 is the TD error; 1 is the reward-to-go less `value`.
    """
    expect_shape(reward.shape, discount=discount, value=value, next_value=next_value, cut=cut)
    delta = reward + discount * next_value - value
    return _accumulate(delta, (discount * lambda_).masked_fill(cut, 0.0))


def lambda_return(reward: Tensor, discount: Tensor, next_value: Tensor, cut: Tensor, lambda_: float) -> Tensor:
    """Mean of all n-step returns: G_t = r_t + discount_t ((1 - lambda) next_value_t + lambda G_{t+1}).

    all [T, B, ...] -> [T, B, ...]. At a cut G_t = r_t + discount_t next_value_t. lambda_ = 0 is the one-step target;
    1 is the reward-to-go. With the greatest action value for next_value this is Peng's Q(lambda) (Peng & Williams
    1996), which does not ask whether the actions taken were greedy: the target of PQN (Gallici et al. 2024).
    Source: Sutton & Barto 2018, eq. 12.18.
    """
    expect_shape(reward.shape, discount=discount, next_value=next_value, cut=cut)
    ends = torch.cat((cut[:-1], torch.ones_like(cut[-1:])))
    bootstrap = torch.where(ends, next_value, (1.0 - lambda_) * next_value)
    return _accumulate(reward + discount * bootstrap, (discount * lambda_).masked_fill(cut, 0.0))


def _accumulate(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = x_t + decay_t y_{t+1}, with y_T = 0."""
    # Doubling (Hillis & Steele 1986): a pass turns sums over `span` rows into sums over 2 * span, so whole tensors move
    # log2(T) times, not single rows T times: at T = 500, B = 8 in 0.11 ms, not 1.0. Plain mul and add, for addcmul
    # rounds once or twice depending on the CPU. y_t takes in only rows from t on: padding after a cut changes no bit.
    span = 1
    product = decay[:-1]  # of the `span` decays from row t on, where row t + span exists
    while span < x.shape[0]:
        x = torch.cat((x[:-span] + product * x[span:], x[-span:]))
        product = product[:-span] * product[span:]
        span *= 2
    return x
