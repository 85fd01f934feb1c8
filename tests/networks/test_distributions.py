from collections.abc import Callable
from math import log, pi

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Independent, Normal, TanhTransform, TransformedDistribution

from graftwork.losses import entropy
from graftwork.networks.distributions import Bernoulli, Categorical, Gaussian, MultiCategorical, SquashedGaussian

T, B, A, K = 3, 5, 7, 4
SIZES = (2, 5, 3, 6)  # of K choices
LEADING = [(), (B,), (T, B), (2, T, B)]


def logits(*leading: int) -> torch.Tensor:
    return 3 * torch.randn(*leading, A, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("leading", LEADING)
def test_agrees_with_torch(leading):
    ours, theirs = Categorical.from_logits(logits(*leading)), torch.distributions.Categorical(logits=logits(*leading))
    action = torch.randint(A, leading, generator=torch.Generator().manual_seed(1))
    assert ours.log_prob(action).shape == leading
    torch.testing.assert_close(ours.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
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


def test_categorical_draws_what_torchs_multinomial_does():
    policy = Categorical((logits(T, B) * 3).log_softmax(-1).masked_fill(torch.arange(A) == 2, -torch.inf))
    ours, theirs = (torch.Generator().manual_seed(6) for _ in range(2))
    for _ in range(50):
        expected = torch.multinomial(policy.log_probs.exp().view(-1, A), 1, generator=theirs).view(T, B)
        assert torch.equal(policy.sample(ours), expected)
    assert torch.equal(ours.get_state(), theirs.get_state())


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


def test_an_impossible_action_adds_nothing_to_the_entropy():
    x = torch.tensor([[1.0, 1.0, -torch.inf], [0.0, -torch.inf, -torch.inf]], requires_grad=True)
    total = Categorical.from_logits(x).entropy()
    torch.testing.assert_close(total.detach(), torch.tensor([log(2), 0.0]))
    assert torch.autograd.grad(total.sum(), x)[0].isfinite().all()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bounds() -> tuple[Tensor, Tensor]:
    return torch.tensor([-1.0, 0.0, -3.0, 10.0]).double(), torch.tensor([1.0, 0.5, -1.0, 20.0]).double()


def multi_categorical(*leading: int) -> MultiCategorical:
    return MultiCategorical.from_logits(normal(*leading, sum(SIZES)), SIZES)


def bernoulli(*leading: int) -> Bernoulli:
    return Bernoulli(3 * normal(*leading, K))


def gaussian(*leading: int) -> Gaussian:
    return Gaussian(normal(*leading, K), 0.5 * normal(*leading, K, seed=1))


def squashed(*leading: int) -> SquashedGaussian:
    return SquashedGaussian(normal(*leading, K), 0.5 * normal(*leading, K, seed=1), *bounds())


SEVERAL = [multi_categorical, bernoulli, gaussian, squashed]
Several = MultiCategorical | Bernoulli | Gaussian | SquashedGaussian


@pytest.mark.parametrize("build", SEVERAL)
@pytest.mark.parametrize("leading", LEADING)
def test_an_action_has_k_parts_and_one_log_prob(build: Callable[..., Several], leading: tuple[int, ...]):
    policy = build(*leading)
    action = policy.sample(torch.Generator())
    assert action.shape == policy.mode().shape == (*leading, K)
    assert policy.log_prob(action).shape == leading
    assert action.dtype == policy.mode().dtype
    assert action.dtype == (torch.int64 if build in (multi_categorical, bernoulli) else torch.float64)
    if not isinstance(policy, SquashedGaussian):
        assert policy.entropy().shape == leading


@pytest.mark.parametrize("build", SEVERAL)
def test_all_draw_from_the_generator_alone(build: Callable[..., Several]):
    policy, before = build(T, B), torch.get_rng_state()
    first = policy.sample(torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(policy.sample(torch.Generator().manual_seed(3)), first)
    assert not torch.equal(policy.sample(torch.Generator().manual_seed(4)), first)


@pytest.mark.parametrize("build", SEVERAL)
def test_all_draw_for_each_row_and_part_by_itself(build: Callable[..., Several]):
    policy = build(1)
    if isinstance(policy, MultiCategorical):
        many: Several = MultiCategorical(tuple(Categorical(f.log_probs.expand(2000, -1)) for f in policy.factors))
    elif isinstance(policy, Bernoulli):
        many = Bernoulli(torch.zeros(2000, K))
    elif isinstance(policy, Gaussian):
        many = Gaussian(policy.mean.expand(2000, -1), policy.log_std.expand(2000, -1))
    else:
        many = SquashedGaussian(policy.mean.expand(2000, -1), policy.log_std.expand(2000, -1), *bounds())
    action = many.sample(torch.Generator().manual_seed(3)).double()
    correlation = torch.corrcoef(action.t()) - torch.eye(K)
    assert (action.std(0) > 0).all()
    assert correlation.abs().max() < 5 / 2000**0.5  # five standard deviations


@pytest.mark.parametrize("leading", LEADING)
def test_factors_of_different_sizes_agree_with_torch(leading):
    logits = 3 * normal(*leading, sum(SIZES))
    policy = MultiCategorical.from_logits(logits, SIZES)
    theirs = [torch.distributions.Categorical(logits=part) for part in logits.split(SIZES, -1)]
    action = policy.sample(torch.Generator().manual_seed(1))
    expected = sum(factor.log_prob(action[..., k]) for k, factor in enumerate(theirs))
    torch.testing.assert_close(policy.log_prob(action), expected)
    torch.testing.assert_close(policy.entropy(), sum(factor.entropy() for factor in theirs))
    assert torch.equal(policy.mode(), torch.stack([factor.mode for factor in theirs], -1))


def test_each_factor_stays_within_its_own_size():
    policy = MultiCategorical.from_logits(torch.zeros(2000, sum(SIZES)), SIZES)
    action = policy.sample(torch.Generator())
    assert [action[:, k].unique().tolist() for k in range(K)] == [list(range(size)) for size in SIZES]


def test_an_action_of_too_few_parts_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        multi_categorical(B).log_prob(torch.zeros(B, K - 1, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize("leading", LEADING)
def test_bits_agree_with_torch_whatever_their_type(leading, dtype):
    policy = bernoulli(*leading)
    theirs = Independent(torch.distributions.Bernoulli(logits=policy.logits), 1)
    action = policy.sample(torch.Generator().manual_seed(1))
    torch.testing.assert_close(policy.log_prob(action.to(dtype)), theirs.log_prob(action.double()))
    torch.testing.assert_close(policy.entropy(), theirs.entropy())
    assert torch.equal(policy.mode(), (policy.logits.sigmoid() > 0.5).long())


def test_bits_are_set_as_often_as_their_probability_says():
    policy = Bernoulli(torch.tensor([-torch.inf, -2.0, 0.0, 1.0, torch.inf]).expand(20_000, 5))
    frequency = policy.sample(torch.Generator().manual_seed(2)).double().mean(0)
    # 1 / (1 + e^2) = 0.1192 and 1 / (1 + e^-1) = 0.7311; five standard deviations of p = 1/2 are 0.018.
    torch.testing.assert_close(frequency, torch.tensor([0.0, 0.1192, 0.5, 0.7311, 1.0]).double(), rtol=0, atol=0.018)
    assert (frequency[[0, 4]] == torch.tensor([0.0, 1.0])).all()


def test_sure_bits_have_exact_and_finite_numbers():
    x = torch.tensor([[1e4, -1e4]], requires_grad=True)
    policy = Bernoulli(x)
    both = torch.cat([policy.log_prob(torch.tensor([[1, 0]])), policy.log_prob(torch.tensor([[0, 0]]))])
    torch.testing.assert_close(both.detach(), torch.tensor([0.0, -1e4]))
    torch.testing.assert_close(policy.entropy().detach(), torch.zeros(1))
    (gradient,) = torch.autograd.grad(both.sum() + policy.entropy().sum(), x)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.0]]))


@pytest.mark.parametrize("leading", LEADING)
def test_a_gaussian_agrees_with_torch(leading):
    policy = gaussian(*leading)
    theirs = Independent(Normal(policy.mean, policy.log_std.exp()), 1)
    action = normal(*leading, K, seed=2)
    torch.testing.assert_close(policy.log_prob(action), theirs.log_prob(action))
    torch.testing.assert_close(policy.entropy(), theirs.entropy())
    assert torch.equal(policy.mode(), policy.mean)


def test_gaussian_log_density_by_hand():
    policy = Gaussian(torch.tensor([1.0, -1.0]), torch.tensor([0.0, log(2.0)]))
    # The second part is 4 / 2 = 2 deviations off: -2**2 / 2.
    expected = -0.5 * log(2 * pi) - 0.5 * log(2 * pi) - log(2) - 2
    torch.testing.assert_close(policy.log_prob(torch.tensor([1.0, 3.0])), torch.tensor(expected))


def test_gaussian_samples_have_its_mean_and_deviation():
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    action = Gaussian(mean.expand(20_000, 2), std.log().expand(20_000, 2)).sample(torch.Generator().manual_seed(2))
    # Five standard errors, std / sqrt(20000) and std / sqrt(40000).
    assert ((action.mean(0) - mean).abs() < 5 * std / 20_000**0.5).all()
    assert ((action.std(0) - std).abs() < 5 * std / 40_000**0.5).all()


@pytest.mark.parametrize("build", [gaussian, squashed])
def test_samples_have_no_gradient_for_a_policy_gradient_to_cancel(build):
    policy = build(B)
    policy.mean.requires_grad_()
    action = policy.sample(torch.Generator())
    assert not action.requires_grad
    (gradient,) = torch.autograd.grad(policy.log_prob(action).sum(), policy.mean)
    assert (gradient != 0).all()


def test_rsample_is_the_sample_with_a_gradient():
    policy = gaussian(T, B)
    policy.mean.requires_grad_()
    policy.log_std.requires_grad_()
    action = policy.rsample(torch.Generator().manual_seed(5))
    assert torch.equal(action, policy.sample(torch.Generator().manual_seed(5)))
    of_mean, of_log_std = torch.autograd.grad(action.sum(), (policy.mean, policy.log_std))
    torch.testing.assert_close(of_mean, torch.ones_like(of_mean))
    torch.testing.assert_close(of_log_std, (action - policy.mean).detach())  # std * noise


def torchs_squashed(policy: SquashedGaussian) -> TransformedDistribution:
    centre, half = (policy.low + policy.high) / 2, (policy.high - policy.low) / 2
    transforms = [TanhTransform(cache_size=1), AffineTransform(centre, half, cache_size=1)]
    base = TransformedDistribution(Normal(policy.mean, policy.log_std.exp()), transforms)
    return Independent(base, 1)


@pytest.mark.parametrize("leading", LEADING)
def test_a_squashed_gaussian_agrees_with_torch(leading):
    policy = squashed(*leading)
    action, log_prob = policy.sample_with_log_prob(torch.Generator().manual_seed(1))
    expected = torchs_squashed(policy).log_prob(action)
    torch.testing.assert_close(policy.log_prob(action), expected)
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(policy.sample(torch.Generator().manual_seed(1)), action, rtol=0, atol=0)
    low, high = bounds()
    torch.testing.assert_close(policy.mode(), low + (high - low) * (policy.mean.tanh() + 1) / 2)


def test_squashed_density_integrates_to_one():
    points = 200_001
    low, high = torch.tensor([2.0]).double(), torch.tensor([5.0]).double()
    mean, log_std = (torch.full((points, 1), x).double() for x in (0.3, -0.5))
    policy = SquashedGaussian(mean, log_std, low, high)
    action = torch.linspace(2, 5, points, dtype=torch.float64)
    area = torch.trapezoid(policy.log_prob(action[:, None]).exp(), action)
    assert area.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_on_the_bounds_and_far_out_is_finite(dtype):
    low, high = (bound.to(dtype) for bound in bounds())
    mean = torch.full((2, K), 30.0, dtype=dtype).requires_grad_()
    policy = SquashedGaussian(mean, torch.zeros(2, K, dtype=dtype), low, high)
    action, log_prob = policy.sample_with_log_prob(torch.Generator())
    assert torch.equal(action, high.expand(2, K))  # tanh(30) is 1 in floats
    for result in (policy.log_prob(torch.stack([low, high])), log_prob):
        (gradient,) = torch.autograd.grad(result.sum(), mean)
        assert result.isfinite().all()
        assert gradient.isfinite().all()
    # log(1 - tanh(x)**2) tends to 2 log 2 - 2x: no floor, however far out.
    raw = Gaussian(mean, policy.log_std).sample(torch.Generator())
    slope = 2 * log(2) - 2 * raw + ((high - low) / 2).log()
    expected = Gaussian(mean, policy.log_std).log_prob(raw) - slope.sum(-1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=0)


def test_a_sample_never_rounds_out_of_bounds():
    low, high = torch.tensor([0.1, -0.3, 1e-3]), torch.tensor([0.3, 0.7, 0.7])
    mean = torch.linspace(-12, 12, 3001).unsqueeze(-1).expand(3001, 3)
    action = SquashedGaussian(mean, torch.zeros_like(mean), low, high).sample(torch.Generator().manual_seed(1))
    assert (action >= low).all()
    assert (action <= high).all()


def test_a_tiny_deviation_keeps_the_log_prob_of_its_sample():
    mean = torch.ones(2000, 1)
    policy = SquashedGaussian(mean, torch.full_like(mean, -20.0), -torch.ones(1), torch.ones(1))
    log_prob = policy.sample_with_log_prob(torch.Generator().manual_seed(1))[1]
    # Mean: -1/2 - log(2 pi)/2 + 20 - log(1 - tanh(1)**2); of noise**2 / 2 the deviation is 1 / sqrt 2.
    expected = 20 - 0.5 - 0.5 * log(2 * pi) - log(1 - torch.ones(1).double().tanh().item() ** 2)
    assert log_prob.mean().item() == pytest.approx(expected, abs=5 * 0.5**0.5 / 2000**0.5)


def test_squashed_samples_carry_the_gradient_of_mean_and_deviation():
    mean, log_std = normal(B, K).requires_grad_(), normal(B, K, seed=1).requires_grad_()

    def sample(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        return SquashedGaussian(mean, log_std, *bounds()).sample_with_log_prob(torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(sample, (mean, log_std))
