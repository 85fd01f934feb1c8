import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.losses import discounted_return, gae, lambda_return, n_step_return, n_step_sums, reward_to_go

T, B, K = 3, 5, 2


class History(NamedTuple):
    reward: Tensor
    discount: Tensor
    cut: Tensor
    value: Tensor
    next_value: Tensor


def column(*values: float) -> Tensor:
    """One environment's history: [T] as the [T, 1] that a batch of one is."""
    return torch.tensor(values).unsqueeze(1)


# Two rows, then the truncation of the episode (row 2), a filler (row 3), and a new episode that terminates (row 5).
REWARD = column(1.0, 2.0, 3.0, 0.0, 4.0, 5.0)
DISCOUNT = column(0.5, 0.5, 0.5, 0.5, 0.5, 0.0)
CUT = column(0, 0, 1, 1, 0, 1).bool()
VALUE = column(10.0, 20.0, 30.0, 80.0, 50.0, 60.0)
NEXT_VALUE = column(20.0, 30.0, 80.0, 50.0, 60.0, 70.0)


def random_history(seed: int, time: int, batch_size: int, *rest: int) -> History:
    """Terminations and truncations anywhere, several a column, and each at times in the last row."""
    generator = torch.Generator().manual_seed(seed)
    shape = (time, batch_size, *rest)

    def uniform() -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    terminated, truncated = uniform() < 0.2, uniform() < 0.2
    discount = uniform().masked_fill(terminated, 0.0)
    reward, value, next_value = (4 * uniform() - 2 for _ in range(3))
    return History(reward, discount, terminated | truncated, value, next_value)


def histories() -> st.SearchStrategy[History]:
    return st.builds(random_history, st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 4))


def naive_n_step(history: History, n: float, *, bootstrap: bool = True) -> Tensor:
    """The definition, term by term: no recursion, so that the recursions have something to be checked against."""
    result = torch.empty_like(history.reward)
    for start in range(history.reward.shape[0]):
        for b in range(history.reward.shape[1]):
            total, weight, t = 0.0, 1.0, start
            while True:
                total += weight * history.reward[t, b].item()
                weight *= history.discount[t, b].item()
                if history.cut[t, b] or t + 1 == history.reward.shape[0] or t + 1 - start == n:
                    break
                t += 1
            result[start, b] = total + (weight * history.next_value[t, b].item() if bootstrap else 0.0)
    return result


def naive_gae(history: History, lambda_: float) -> Tensor:
    result = torch.empty_like(history.reward)
    for start in range(history.reward.shape[0]):
        for b in range(history.reward.shape[1]):
            total, weight = 0.0, 1.0
            for t in range(start, history.reward.shape[0]):
                reward, discount, cut, value, next_value = (x[t, b].item() for x in history)
                total += weight * (reward + discount * next_value - value)
                weight *= discount * lambda_
                if cut:
                    break
            result[start, b] = total
    return result


def naive_lambda_return(history: History, lambda_: float) -> Tensor:
    """Every n-step return with its share, the longest with all that is left."""
    time = history.reward.shape[0]
    shares = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, time)] + [lambda_ ** (time - 1)]
    return sum(share * naive_n_step(history, n) for n, share in enumerate(shares, start=1))


def test_discounted_return_of_row_0_ends_at_the_first_termination():
    reward = torch.tensor([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]])
    discount = torch.tensor([[0.5, 0.5], [0.5, 0.0], [0.5, 0.5], [0.5, 0.5]])
    # 1 + 2 / 2 + 4 / 4 + 8 / 8 = 4;  1 + 2 / 2 = 2
    torch.testing.assert_close(discounted_return(reward, discount), torch.tensor([4.0, 2.0]))


def test_discounted_return_of_one_row_is_its_reward():
    reward = torch.arange(5.0).unsqueeze(0)
    torch.testing.assert_close(discounted_return(reward, torch.full((1, 5), 0.9)), reward[0])


def test_reward_to_go_without_values_stops_at_every_cut():
    # 3;  2 + 3 / 2 = 3.5;  1 + 3.5 / 2 = 2.75;  filler 0;  5;  4 + 5 / 2 = 6.5
    expected = column(2.75, 3.5, 3.0, 0.0, 6.5, 5.0)
    torch.testing.assert_close(reward_to_go(REWARD, DISCOUNT, CUT), expected)


def test_reward_to_go_bootstraps_from_a_truncated_rows_own_successor():
    # row 2: 3 + 80 / 2 = 43;  2 + 43 / 2 = 23.5;  1 + 23.5 / 2 = 12.75;  filler: 50 / 2 = 25;  row 5 terminates: 5
    expected = column(12.75, 23.5, 43.0, 25.0, 6.5, 5.0)
    torch.testing.assert_close(reward_to_go(REWARD, DISCOUNT, CUT, NEXT_VALUE), expected)


def test_the_last_row_is_cut_whatever_cut_says():
    reward, discount, cut, next_value = (x[:2] for x in (REWARD, DISCOUNT, CUT, NEXT_VALUE))
    # 2 + 30 / 2 = 17;  1 + 17 / 2 = 9.5.  Without values: 2;  1 + 2 / 2 = 2
    expected = column(9.5, 17.0)
    torch.testing.assert_close(reward_to_go(reward, discount, cut, next_value), expected)
    torch.testing.assert_close(reward_to_go(reward, discount, cut), column(2.0, 2.0))
    torch.testing.assert_close(n_step_return(reward, discount, cut, next_value, n=9), expected)


def test_n_step_return_sums_n_rewards_and_stops_at_cuts():
    # n = 2, row 0: 1 + 2 / 2 + 30 / 4 = 9.5;  row 1 reaches the truncation: 2 + 3 / 2 + 80 / 4 = 23.5;  row 2: 43
    expected = column(9.5, 23.5, 43.0, 25.0, 6.5, 5.0)
    torch.testing.assert_close(n_step_return(REWARD, DISCOUNT, CUT, NEXT_VALUE, n=2), expected)


def test_one_step_return_is_the_td_target():
    # 1 + 20 / 2, 2 + 30 / 2, 3 + 80 / 2, 0 + 50 / 2, 4 + 60 / 2, 5 + 0
    expected = column(11.0, 17.0, 43.0, 25.0, 34.0, 5.0)
    torch.testing.assert_close(n_step_return(REWARD, DISCOUNT, CUT, NEXT_VALUE, n=1), expected)


@pytest.mark.parametrize("n", [0, -1])
def test_n_below_one_is_refused(n: int):
    with pytest.raises(ValueError, match=f"^n must be at least 1, got {n}$"):
        n_step_return(REWARD, DISCOUNT, CUT, NEXT_VALUE, n)


def test_gae_sums_decayed_td_errors_up_to_the_cut():
    # TD errors 11 - 10 = 1, 17 - 20 = -3, 43 - 30 = 13, 25 - 80 = -55, 34 - 50 = -16, 5 - 60 = -55; decay 0.5 * 0.8
    # 13;  -3 + 0.4 * 13 = 2.2;  1 + 0.4 * 2.2 = 1.88;  -55;  -55;  -16 - 0.4 * 55 = -38
    expected = column(1.88, 2.2, 13.0, -55.0, -38.0, -55.0)
    torch.testing.assert_close(gae(REWARD, DISCOUNT, VALUE, NEXT_VALUE, CUT, 0.8), expected)


def test_lambda_return_mixes_bootstrap_and_next_return_up_to_the_cut():
    # lambda 0.8. Row 2: 3 + 80 / 2 = 43;  row 1: 2 + (0.2 * 30 + 0.8 * 43) / 2 = 22.2
    # row 0: 1 + (0.2 * 20 + 0.8 * 22.2) / 2 = 11.88;  filler: 25;  row 5: 5;  row 4: 4 + (0.2 * 60 + 0.8 * 5) / 2 = 12
    expected = column(11.88, 22.2, 43.0, 25.0, 12.0, 5.0)
    torch.testing.assert_close(lambda_return(REWARD, DISCOUNT, NEXT_VALUE, CUT, 0.8), expected)


def test_lambda_return_is_the_mean_of_n_step_returns_by_their_shares():
    reward, discount, next_value = column(1.0, 2.0, 3.0), column(0.5, 0.5, 0.5), column(20.0, 30.0, 40.0)
    # From row 0, in 1, 2 and 3 steps: 1 + 20 / 2 = 11;  1 + 2 / 2 + 30 / 4 = 9.5;  1 + 2 / 2 + 3 / 4 + 40 / 8 = 7.75
    # 0.2 * 11 + 0.16 * 9.5 + 0.64 * 7.75 = 8.68.  Row 1: 0.2 * (2 + 15) + 0.8 * (2 + 1.5 + 10) = 14.2.  Row 2: 23
    result = lambda_return(reward, discount, next_value, torch.zeros(3, 1, dtype=torch.bool), 0.8)
    torch.testing.assert_close(result, column(8.68, 14.2, 23.0))


def test_lambda_0_is_one_step_and_lambda_1_the_whole_return_with_its_bootstrap():
    one_step = n_step_return(REWARD, DISCOUNT, CUT, NEXT_VALUE, n=1)
    monte_carlo = reward_to_go(REWARD, DISCOUNT, CUT, NEXT_VALUE)
    assert torch.equal(lambda_return(REWARD, DISCOUNT, NEXT_VALUE, CUT, 0.0), one_step)
    assert torch.equal(lambda_return(REWARD, DISCOUNT, NEXT_VALUE, CUT, 1.0), monte_carlo)


@settings(max_examples=60, deadline=None)
@given(history=histories(), n=st.integers(1, 14), lambda_=st.floats(0.0, 1.0))
def test_recursions_equal_the_definitions_summed_term_by_term(history: History, n: int, lambda_: float):
    reward, discount, cut, value, next_value = history
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(
        reward_to_go(reward, discount, cut, next_value), naive_n_step(history, math.inf), **close
    )
    torch.testing.assert_close(
        reward_to_go(reward, discount, cut), naive_n_step(history, math.inf, bootstrap=False), **close
    )
    torch.testing.assert_close(n_step_return(reward, discount, cut, next_value, n), naive_n_step(history, n), **close)
    torch.testing.assert_close(
        gae(reward, discount, value, next_value, cut, lambda_), naive_gae(history, lambda_), **close
    )
    torch.testing.assert_close(
        lambda_return(reward, discount, next_value, cut, lambda_), naive_lambda_return(history, lambda_), **close
    )
    uncut = history._replace(cut=torch.zeros_like(cut))
    torch.testing.assert_close(
        discounted_return(reward, discount), naive_n_step(uncut, math.inf, bootstrap=False)[0], **close
    )


@settings(max_examples=40, deadline=None)
@given(history=histories())
def test_gae_is_td_error_at_lambda_0_and_return_less_value_at_lambda_1(history: History):
    reward, discount, cut, value, next_value = history
    # Values that agree where one row continues the other, as those of one network do.
    next_value = torch.cat((torch.where(cut[:-1], next_value[:-1], value[1:]), next_value[-1:]))
    td_error = n_step_return(reward, discount, cut, next_value, n=1) - value
    torch.testing.assert_close(gae(reward, discount, value, next_value, cut, 0.0), td_error)
    monte_carlo = reward_to_go(reward, discount, cut, next_value) - value
    torch.testing.assert_close(gae(reward, discount, value, next_value, cut, 1.0), monte_carlo)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 100])
def test_rows_after_a_cut_change_not_one_bit_of_the_rows_before(length: int):
    history = History(*(x.float() if x.is_floating_point() else x for x in random_history(0, length, B)))
    history.cut[-1] = True
    padding = History(*(x.float() if x.is_floating_point() else x for x in random_history(1, 37, B)))
    longer = History(*(torch.cat(pair) for pair in zip(history, padding, strict=True)))
    for short, long in (
        (reward_to_go(*history[:3]), reward_to_go(*longer[:3])),
        (reward_to_go(*history[:3], history.next_value), reward_to_go(*longer[:3], longer.next_value)),
        (n_step_return(*history[:3], history.next_value, 5), n_step_return(*longer[:3], longer.next_value, 5)),
        (
            gae(history.reward, history.discount, history.value, history.next_value, history.cut, 0.9),
            gae(longer.reward, longer.discount, longer.value, longer.next_value, longer.cut, 0.9),
        ),
        (
            lambda_return(history.reward, history.discount, history.next_value, history.cut, 0.9),
            lambda_return(longer.reward, longer.discount, longer.next_value, longer.cut, 0.9),
        ),
    ):
        assert torch.equal(short, long[:length])


def test_values_are_read_only_at_cuts_by_reward_to_go():
    unread = NEXT_VALUE.masked_fill(~CUT, torch.nan)
    torch.testing.assert_close(
        reward_to_go(REWARD, DISCOUNT, CUT, unread), reward_to_go(REWARD, DISCOUNT, CUT, NEXT_VALUE)
    )


def test_trailing_dimensions_are_independent_columns():
    history = random_history(3, T, B, K)
    reward, discount, cut, value, next_value = history
    results = (
        discounted_return(reward, discount).unsqueeze(0),
        reward_to_go(reward, discount, cut, next_value),
        n_step_return(reward, discount, cut, next_value, 2),
        gae(reward, discount, value, next_value, cut, 0.7),
        lambda_return(reward, discount, next_value, cut, 0.7),
    )
    assert [x.shape for x in results] == [(1, B, K), (T, B, K), (T, B, K), (T, B, K), (T, B, K)]
    for k in range(K):
        reward, discount, cut, value, next_value = (x[..., k] for x in history)
        torch.testing.assert_close(results[0][0, ..., k], discounted_return(reward, discount))
        torch.testing.assert_close(results[1][..., k], reward_to_go(reward, discount, cut, next_value))
        torch.testing.assert_close(results[2][..., k], n_step_return(reward, discount, cut, next_value, 2))
        torch.testing.assert_close(results[3][..., k], gae(reward, discount, value, next_value, cut, 0.7))
        torch.testing.assert_close(results[4][..., k], lambda_return(reward, discount, next_value, cut, 0.7))


@pytest.mark.parametrize("name", ["discount", "cut", "value", "next_value"])
def test_a_shape_that_would_broadcast_is_refused_by_name(name: str):
    history = random_history(4, T, B)
    reward, discount, cut, value, next_value = history._replace(**{name: getattr(history, name)[:, :1]})
    message = rf"^{name} must have shape \[3, 5\], got \[3, 1\]$"
    with pytest.raises(ValueError, match=message):
        gae(reward, discount, value, next_value, cut, 0.9)
    if name != "value":
        with pytest.raises(ValueError, match=message):
            reward_to_go(reward, discount, cut, next_value)
        with pytest.raises(ValueError, match=message):
            n_step_return(reward, discount, cut, next_value, 2)
        with pytest.raises(ValueError, match=message):
            lambda_return(reward, discount, next_value, cut, 0.9)
    if name == "discount":
        with pytest.raises(ValueError, match=message):
            discounted_return(reward, discount)


def test_arguments_are_left_as_they_were():
    history = random_history(5, 9, B)
    copies = [x.clone() for x in history]
    reward, discount, cut, value, next_value = history
    discounted_return(reward, discount)
    reward_to_go(reward, discount, cut, next_value)
    n_step_return(reward, discount, cut, next_value, 3)
    gae(reward, discount, value, next_value, cut, 0.9)
    lambda_return(reward, discount, next_value, cut, 0.9)
    assert all(torch.equal(x, copy) for x, copy in zip(history, copies, strict=True))


def test_n_step_sums_stop_at_a_termination_and_at_other_ends():
    # Rows 0 to 5; row 2 is truncated, row 3 is a filler (99 must not be seen before it), row 5 terminates.
    reward = column(1.0, 2.0, 3.0, 99.0, 4.0, 5.0)
    terminated = column(0, 0, 0, 0, 0, 1).bool()
    total, discount, successor = n_step_sums(reward, terminated, CUT, 3, 0.5)
    # row 0: 1 + 2 / 2 + 3 / 4 = 2.75;  row 1: 2 + 3 / 2 = 3.5;  row 2: 3;  row 3: 99 alone
    torch.testing.assert_close(total, column(2.75, 3.5, 3.0, 99.0))
    torch.testing.assert_close(discount, column(0.125, 0.25, 0.5, 0.5))
    assert successor.squeeze(1).tolist() == [3, 2, 1, 1]
    total, discount, successor = n_step_sums(reward[4:], terminated[4:], CUT[4:], 2, 0.5)
    # 4 + 5 / 2 = 6.5, and the second of the two terminates
    assert (total.tolist(), discount.tolist(), successor.tolist()) == ([[6.5]], [[0.0]], [[2]])


def test_n_step_sums_of_one_reward_are_the_rewards():
    terminated = column(0, 0, 0, 0, 0, 1).bool()
    total, discount, successor = n_step_sums(REWARD, terminated, CUT, 1, 0.5)
    assert total.equal(REWARD)
    assert discount.equal(DISCOUNT)
    assert successor.equal(torch.ones_like(CUT, dtype=torch.int64))


def test_n_step_sums_do_not_see_what_stands_behind_their_end():
    reward = torch.tensor([[1.0, 1.0], [torch.nan, 2.0], [torch.nan, torch.inf]])
    ends = torch.tensor([[True, False], [False, True], [False, False]])
    total, _, _ = n_step_sums(reward, torch.zeros_like(ends), ends, 3, 0.5)
    assert total.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("n", [0, 7])
def test_n_step_sums_of_no_or_too_many_rows_are_refused(n: int):
    with pytest.raises(ValueError, match=rf"^n must be in \[1, 6\], the number of rows, got {n}$"):
        n_step_sums(REWARD, CUT, CUT, n, 0.5)


@settings(max_examples=60, deadline=None)
@given(history=histories(), n=st.integers(1, 14))
def test_n_step_sums_and_the_successors_value_are_the_n_step_return(history: History, n: int):
    reward, _, cut, _, next_value = history
    n = min(n, len(reward))
    terminated = history.discount == 0
    total, discount, successor = n_step_sums(reward, terminated, cut, n, 0.9)
    row = torch.arange(len(total)).view(-1, *[1] * (reward.ndim - 1)) + successor - 1
    expected = n_step_return(reward, 0.9 * terminated.logical_not(), cut, next_value, n)[: len(total)]
    torch.testing.assert_close(total + discount * next_value.gather(0, row), expected, rtol=1e-6, atol=1e-6)
