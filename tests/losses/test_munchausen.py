from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.losses import log_policy, munchausen_bonus, soft_value

T, B, A = 3, 5, 7


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def legal(seed: int, *shape: int) -> Tensor:
    """Some actions, the last one always."""
    mask = normal(seed, *shape) > 0
    mask[..., -1] = True
    return mask


def target(
    q: list[float], next_q: list[float], action: int, reward: float, discount: float, temperature: float
) -> float:
    """Vieillard et al. 2020, eq. 1, with sums over the legal actions, those whose value is not -inf."""

    def log_pi(values: list[float]) -> dict[int, float]:
        own = {a: x for a, x in enumerate(values) if x > -torch.inf}
        most = max(own.values())
        total = log(sum(exp((x - most) / temperature) for x in own.values()))
        return {a: (x - most) / temperature - total for a, x in own.items()}

    bonus = min(max(temperature * log_pi(q)[action], -1.0), 0.0)
    future = sum(exp(p) * (next_q[a] - temperature * p) for a, p in log_pi(next_q).items())
    return reward + 0.9 * bonus + discount * future


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([0.003, 0.03, 1.0, 10.0]),
    scale=st.sampled_from([1.0, 100.0]),
    masked=st.booleans(),
)
def test_the_target_equals_a_python_loop(seed: int, temperature: float, scale: float, masked: bool):
    q, next_q = scale * normal(seed, B, A), scale * normal(seed + 1, B, A)
    if masked:
        q, next_q = (x.masked_fill(~legal(seed + 2 + i, B, A), -torch.inf) for i, x in enumerate((q, next_q)))
    action = q.isfinite().double().multinomial(1, generator=torch.Generator().manual_seed(seed)).squeeze(-1)
    reward, discount = normal(seed + 4, B), normal(seed + 5, B).sigmoid()
    taken = log_policy(q, temperature).gather(-1, action.unsqueeze(-1)).squeeze(-1)
    future = soft_value(next_q, log_policy(next_q, temperature), temperature)
    actual = reward + munchausen_bonus(taken, temperature) + discount * future
    for b in range(B):
        given_ = (action[b].item(), reward[b].item(), discount[b].item(), temperature)
        expected = target(q[b].tolist(), next_q[b].tolist(), *given_)
        assert actual[b].item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_target_by_hand():
    # At temperature 2, q = (0, 2 log 3) has the policy (1/4, 3/4).
    q = torch.tensor([[0.0, 2 * log(3)]])
    policy = log_policy(q, 2.0)
    torch.testing.assert_close(policy, torch.tensor([[log(0.25), log(0.75)]]))
    # 0.9 * 2 log(3/4) = -0.518; 2 log(1/4) = -2.77 is below the floor of -1.
    torch.testing.assert_close(munchausen_bonus(policy[:, 1], 2.0), torch.tensor([1.8 * log(0.75)]))
    torch.testing.assert_close(munchausen_bonus(policy[:, 0], 2.0), torch.tensor([-0.9]))
    torch.testing.assert_close(munchausen_bonus(policy[:, 0], 2.0, 0.5, -3.0), torch.tensor([log(0.25)]))
    # 1/4 (0 - 2 log 1/4) + 3/4 (2 log 3 - 2 log 3/4) = 2 log 4
    torch.testing.assert_close(soft_value(q, policy, 2.0), torch.tensor([2 * log(4)]))


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_the_soft_value_of_its_own_policy_is_the_smooth_maximum(temperature):
    q = normal(0, T, B, A)
    expected = temperature * (q / temperature).logsumexp(-1)
    torch.testing.assert_close(soft_value(q, log_policy(q, temperature), temperature), expected)


def test_the_value_under_anothers_policy_weighs_by_that():
    next_q, policy = torch.tensor([[1.0, 5.0]]), torch.tensor([[0.25, 0.75]]).log()
    entropy = -(0.25 * log(0.25) + 0.75 * log(0.75))
    torch.testing.assert_close(soft_value(next_q, policy, 0.1), torch.tensor([4.0 + 0.1 * entropy]))


def test_small_temperatures_keep_the_digits_that_tell_actions_apart():
    # In float32 1000.03 / 0.03 is exact to 0.002 only.
    q = torch.tensor([1000.0, 1000.03125])
    gap = 0.03125 / 0.03
    expected = torch.tensor([-gap - log(1 + exp(-gap)), -log(1 + exp(-gap))])
    torch.testing.assert_close(log_policy(q, 0.03), expected, rtol=1e-6, atol=1e-6)
    far = torch.tensor([[1e30, -1e30], [0.0, 1e4]])
    policy = log_policy(far, 1e-3)
    assert not policy.isnan().any()
    torch.testing.assert_close(soft_value(far, policy, 1e-3), torch.tensor([1e30, 1e4]))


def test_forbidden_actions_count_nothing_and_make_no_nan():
    q = torch.tensor([[1.0, -torch.inf, 2.0], [-torch.inf, -torch.inf, 3.0]])
    policy = log_policy(q, 0.5)
    assert policy.isneginf().tolist() == q.isneginf().tolist()
    torch.testing.assert_close(policy[1, 2], torch.tensor(0.0))
    value = soft_value(q, policy, 0.5)
    torch.testing.assert_close(value[0], soft_value(q[0, [0, 2]], log_policy(q[0, [0, 2]], 0.5), 0.5))
    assert value[1] == 3.0
    # Whatever number stands there.
    for anything in (0.0, 1e30, torch.inf, torch.nan):
        assert torch.equal(soft_value(q.masked_fill(q.isneginf(), anything), policy, 0.5), value)
    assert munchausen_bonus(policy[0, 1], 0.5) == torch.tensor(-0.9)


@pytest.mark.parametrize("temperature", [1e-3, 0.03, 1.0])
def test_gradients_are_finite_with_forbidden_actions(temperature):
    q = (100 * normal(0, T, B, A)).masked_fill(~legal(1, T, B, A), -torch.inf).requires_grad_()
    policy = log_policy(q, temperature)
    loss = soft_value(q, policy, temperature).sum() + munchausen_bonus(policy[..., -1], temperature).sum()
    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.isfinite().all()
    assert gradient[q.isneginf()].eq(0).all()


def test_the_bonus_lies_between_its_floor_and_zero():
    bonus = munchausen_bonus(-torch.logspace(-5, 5, 50), 0.03, 0.8, -2.0)
    assert bonus.min() == pytest.approx(-1.6)
    assert bonus.max() <= 0


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match=r"^temperature must be above 0, got "):
        log_policy(normal(0, B, A), temperature)


def test_a_policy_that_would_broadcast_is_refused():
    with pytest.raises(ValueError, match=r"^log_policy must have shape \[5, 7\], got \[7\]$"):
        soft_value(normal(0, B, A), normal(1, A), 0.03)
