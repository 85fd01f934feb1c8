import pytest
import torch

from graftwork.losses import entropy
from graftwork.networks import Categorical

T, B, A = 3, 5, 7
LEADING = [(), (B,), (T, B), (2, T, B)]


def logits(*leading: int) -> torch.Tensor:
    return 3 * torch.randn(*leading, A, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("leading", LEADING)
def test_agrees_with_torch(leading):
    ours, theirs = Categorical.from_logits(logits(*leading)), torch.distributions.Categorical(logits=logits(*leading))
    action = torch.randint(A, leading, generator=torch.Generator().manual_seed(1))
    assert ours.log_prob(action).shape == leading
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(entropy(ours.log_probs), theirs.entropy())
    assert torch.equal(ours.mode(), theirs.mode)


@pytest.mark.parametrize("leading", LEADING)
def test_samples_one_action_for_each(leading):
    action = Categorical.from_logits(logits(*leading)).sample(torch.Generator())
    assert action.shape == leading
    assert action.dtype == torch.int64


def test_samples_as_often_as_the_probabilities_say():
    draws = 20_000
    policy = Categorical.from_logits(logits(B).float())
    many = Categorical(policy.log_probs.expand(draws, B, A))
    action = many.sample(torch.Generator().manual_seed(2))
    frequency = torch.nn.functional.one_hot(action, A).float().mean(0)
    # Five standard deviations of the likeliest case, p = 1/2: 5 * 0.5 / sqrt(20000) = 0.018.
    torch.testing.assert_close(frequency, policy.log_probs.exp(), rtol=0, atol=0.018)


def test_an_impossible_action_is_never_drawn():
    policy = Categorical.from_logits(logits(1000).masked_fill(torch.arange(A) % 2 == 1, -torch.inf))
    action = policy.sample(torch.Generator())
    assert (action % 2 == 0).all()
    assert policy.log_prob(action).isfinite().all()


def test_extreme_logits_stay_normalised():
    policy = Categorical.from_logits(torch.tensor([[1e4, 0.0, -1e4], [-1e4, -1e4, -1e4]]))
    torch.testing.assert_close(policy.log_probs.exp().sum(-1), torch.ones(2))
    assert policy.sample(torch.Generator())[0] == 0


def test_draws_from_the_generator_alone():
    policy, before = Categorical.from_logits(logits(T, B)), torch.get_rng_state()
    first = policy.sample(torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(policy.sample(torch.Generator().manual_seed(3)), first)
    generator = torch.Generator().manual_seed(3)
    assert not all(torch.equal(policy.sample(generator), first) for _ in range(5))


def test_each_of_a_batch_draws_for_itself():
    policy = Categorical.from_logits(torch.zeros(1000, A))
    assert policy.sample(torch.Generator()).unique().tolist() == list(range(A))


def test_mode_is_the_first_of_equals():
    assert Categorical.from_logits(torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]])).mode().tolist() == [1, 0]


def test_gradient_of_log_prob_is_one_hot_minus_probabilities():
    x = logits(B).requires_grad_()
    policy, action = Categorical.from_logits(x), torch.arange(B)
    (gradient,) = torch.autograd.grad(policy.log_prob(action).sum(), x)
    expected = torch.nn.functional.one_hot(action, A) - x.detach().softmax(-1)
    torch.testing.assert_close(gradient, expected)


def test_strided_probabilities_are_sampled_rightly():
    policy = Categorical(logits(T, B).log_softmax(-1).transpose(0, 1))
    contiguous = Categorical(policy.log_probs.contiguous())
    assert torch.equal(
        policy.sample(torch.Generator().manual_seed(4)), contiguous.sample(torch.Generator().manual_seed(4))
    )
