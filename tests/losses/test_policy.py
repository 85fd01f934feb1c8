import math

import pytest
import torch

from graftwork.losses import entropy, policy_gradient

T, B, A = 3, 5, 7


def test_policy_gradient_loss_is_minus_log_prob_times_advantage():
    log_prob = torch.tensor([-0.5, -2.0, -1.0])
    advantage = torch.tensor([4.0, -3.0, 0.0])
    # 0.5 * 4 = 2;  2 * -3 = -6
    torch.testing.assert_close(policy_gradient(log_prob, advantage), torch.tensor([2.0, -6.0, 0.0]))


def test_policy_gradient_reaches_the_log_prob_and_stops_at_the_advantage():
    log_prob = torch.full((T, B), -1.0, requires_grad=True)
    advantage = torch.arange(float(T * B)).reshape(T, B).requires_grad_()
    loss = policy_gradient(log_prob, advantage)
    gradients = torch.autograd.grad(loss.sum(), (log_prob, advantage), allow_unused=True)
    torch.testing.assert_close(gradients[0], -advantage.detach())
    assert gradients[1] is None


def test_descent_makes_a_better_than_average_action_likelier():
    logits = torch.zeros(A, requires_grad=True)
    loss = policy_gradient(logits.log_softmax(-1)[2], torch.tensor(1.0))
    (gradient,) = torch.autograd.grad(loss, logits)
    # d(-log p_2)/d(logits) = p - one_hot(2), and p = 1/7
    expected = torch.full((A,), 1 / 7)
    expected[2] -= 1.0
    torch.testing.assert_close(gradient, expected)


def test_a_column_of_advantages_is_refused():
    with pytest.raises(ValueError, match=r"^advantage must have shape \[5\], got \[5, 1\]$"):
        policy_gradient(torch.zeros(B), torch.zeros(B, 1))


def test_entropy_of_known_distributions():
    probabilities = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0]])
    # log 4;  0.5 log 2 + 2 * 0.25 log 4 = 1.5 log 2;  0
    expected = torch.tensor([2 * math.log(2), 1.5 * math.log(2), 0.0])
    torch.testing.assert_close(entropy(probabilities.log()), expected)


def test_entropy_equals_that_of_torch_distributions_over_any_leading_dimensions():
    for shape in ((), (B,), (T, B), (2, T, B)):
        logits = torch.randn((*shape, A), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        expected = torch.distributions.Categorical(logits=logits).entropy()
        assert expected.shape == shape
        torch.testing.assert_close(entropy(logits.log_softmax(-1)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_impossible_actions_leave_entropy_and_its_gradient_finite(dtype: torch.dtype):
    logits = torch.zeros(B, A, dtype=dtype)
    logits[:, 3:] = -torch.inf
    logits.requires_grad_()
    log_probs = logits.log_softmax(-1)
    loss = entropy(log_probs)
    torch.testing.assert_close(loss, torch.full((B,), math.log(3), dtype=dtype))
    for wanted in (log_probs, logits):
        (gradient,) = torch.autograd.grad(loss.sum(), wanted, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient[:, 3:] == 0).all()


def test_entropy_ascent_flattens_a_peaked_policy():
    logits = torch.tensor([2.0, 0.0, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(entropy(logits.log_softmax(-1)), logits)
    assert gradient[0] < 0 < gradient[1]
    torch.testing.assert_close(gradient.sum(), torch.tensor(0.0))
