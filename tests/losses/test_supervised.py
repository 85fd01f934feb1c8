from math import exp, log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.losses import (
    binary_cross_entropy,
    cross_entropy,
    kl_sparsity,
    multiclass_hinge,
    squared,
    uncertainty_weighted,
)

T, B, C, UNITS = 3, 5, 7, 4
SHAPES = [(), (B,), (T, B), (2, T, B)]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int) -> Tensor:
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(1))


def test_cross_entropy_is_the_surprise_at_the_target():
    # Odds of 1 : 2 : 5, so the probabilities are 1/8, 2/8 and 5/8.
    logits = torch.tensor([[1.0, 2.0, 5.0]] * 3).log()
    expected = torch.tensor([log(8), log(4), log(8 / 5)])
    torch.testing.assert_close(cross_entropy(logits, torch.arange(3)), expected)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution():
    logits = torch.tensor([[1.0, 3.0]]).log()
    # e = 0.2 over 2 classes: the target has 0.9, the other 0.1, of probabilities 3/4 and 1/4.
    expected = torch.tensor([0.9 * log(4 / 3) + 0.1 * log(4)])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([1]), label_smoothing=0.2), expected)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_agrees_with_torch(shape, label_smoothing):
    logits, target = 3 * normal(*shape, C), labels(*shape)
    expected = F.cross_entropy(
        logits.view(-1, C), target.view(-1), reduction="none", label_smoothing=label_smoothing
    ).view(shape)
    torch.testing.assert_close(cross_entropy(logits, target, label_smoothing), expected)


def test_cross_entropy_of_extreme_logits_is_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([2]), 0.1)
    # -log p is 0, 1e4 and 2e4; the target has 0.9 + 0.1 / 3, the others 0.1 / 3 each.
    torch.testing.assert_close(loss.detach(), torch.tensor([(0.9 + 0.1 / 3) * 2e4 + 0.1 / 3 * 1e4]))
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()


def test_a_ruled_out_class_changes_nothing_without_label_smoothing():
    logits = torch.tensor([[1.0, -torch.inf, 3.0]])
    torch.testing.assert_close(
        cross_entropy(logits, torch.tensor([2])), cross_entropy(logits[:, [0, 2]], torch.tensor([1]))
    )


@pytest.mark.parametrize("label", [-1, -100, C])
@pytest.mark.parametrize("loss", [cross_entropy, multiclass_hinge])
def test_a_label_out_of_range_is_no_silent_zero(loss, label):
    with pytest.raises(RuntimeError, match="out of bounds"):
        loss(normal(B, C), torch.full((B,), label))


def test_binary_cross_entropy_is_the_surprise_at_the_target():
    logit = torch.tensor([log(3.0)] * 3)  # of probability 3/4
    expected = torch.tensor([log(4 / 3), log(4), 0.5 * log(4 / 3) + 0.5 * log(4)])
    torch.testing.assert_close(binary_cross_entropy(logit, torch.tensor([1.0, 0.0, 0.5])), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_binary_cross_entropy_agrees_with_torch_for_targets_of_any_type(shape, dtype):
    logit, target = 3 * normal(*shape), labels(*shape) % 2
    loss = binary_cross_entropy(logit, target.to(dtype))
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logit, target.double(), reduction="none"))


def test_binary_cross_entropy_of_extreme_logits_is_the_logit():
    logit = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = binary_cross_entropy(logit, torch.tensor([True, False, False, True]))
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 0.0, 1e4, 1e4]))
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logit)[0], torch.tensor([0.0, 0.0, 1.0, -1.0]))


def test_hinge_is_zero_once_the_target_leads_all_others_by_the_margin():
    logits = torch.tensor([[3.0, 1.0, 2.0], [2.5, 1.0, 2.0], [1.0, 4.0, 2.0], [4.0, 0.0, 0.0]])
    target = torch.zeros(4, dtype=torch.int64)
    # 1 + 2 - 3 = 0;  1 + 2 - 2.5 = 0.5;  1 + 4 - 1 = 4;  1 + 0 - 4 < 0
    torch.testing.assert_close(multiclass_hinge(logits, target), torch.tensor([0.0, 0.5, 4.0, 0.0]))
    # 2 + 2 - 3 = 1;  2 + 2 - 2.5 = 1.5;  2 + 4 - 1 = 5;  2 + 0 - 4 < 0
    torch.testing.assert_close(multiclass_hinge(logits, target, margin=2.0), torch.tensor([1.0, 1.5, 5.0, 0.0]))


@pytest.mark.parametrize("shape", SHAPES)
def test_hinge_equals_a_python_loop(shape):
    logits, target = normal(*shape, C), labels(*shape)
    expected = [
        max(0.0, 0.7 + max(row[:label] + row[label + 1 :]) - row[label])
        for row, label in zip(logits.view(-1, C).tolist(), target.view(-1).tolist(), strict=True)
    ]
    loss = multiclass_hinge(logits, target, 0.7)
    torch.testing.assert_close(loss, torch.tensor(expected, dtype=torch.float64).view(shape), rtol=0, atol=0)


def test_hinge_of_two_classes_is_torchs_times_two():
    logits, target = normal(B, 2), labels(B) % 2
    torch.testing.assert_close(
        multiclass_hinge(logits, target), 2 * F.multi_margin_loss(logits, target, reduction="none")
    )


def test_hinge_pulls_the_target_up_and_the_best_other_down():
    logits = torch.tensor([[1.0, 4.0, 2.0], [4.0, 0.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(multiclass_hinge(logits, torch.tensor([0, 0])).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_sparsity_is_zero_where_every_unit_is_active_as_often_as_wanted():
    # Means of 1/4 in both units, by different ways.
    activation = torch.tensor([[1.0, 0.25], [0.0, 0.25], [0.0, 0.25], [0.0, 0.25]])
    torch.testing.assert_close(kl_sparsity(activation, 0.25), torch.tensor(0.0))


def test_sparsity_sums_the_divergence_of_each_unit():
    activation = torch.tensor([[0.2, 0.9], [0.8, 0.9], [0.5, 0.9]])  # means 0.5 and 0.9
    expected = 0.1 * log(0.1 / 0.5) + 0.9 * log(0.9 / 0.5) + 0.1 * log(0.1 / 0.9) + 0.9 * log(0.9 / 0.1)
    torch.testing.assert_close(kl_sparsity(activation, 0.1), torch.tensor(expected))


def test_sparsity_agrees_with_torch():
    activation = normal(T, B, UNITS).sigmoid()
    mean, wanted = (torch.distributions.Bernoulli(p) for p in (activation.mean((0, 1)), torch.tensor(0.05).double()))
    expected = torch.distributions.kl_divergence(wanted, mean).sum()
    torch.testing.assert_close(kl_sparsity(activation, 0.05), expected)
    torch.testing.assert_close(kl_sparsity(activation.flatten(0, 1), 0.05), expected)
    assert kl_sparsity(activation[0, 0], 0.05).shape == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_always_off_or_on_have_a_finite_loss_that_leads_away_from_there(dtype):
    activation = torch.tensor([[0.0, 1.0]], dtype=dtype).expand(B, 2).clone().requires_grad_()
    loss = kl_sparsity(activation, 0.05)
    (gradient,) = torch.autograd.grad(loss, activation)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[:, 0] < 0).all()
    assert (gradient[:, 1] > 0).all()


@pytest.mark.parametrize("target", [0.0, 1.0, -0.1, float("nan")])
def test_a_sparsity_target_that_is_no_rate_is_refused(target):
    with pytest.raises(ValueError, match=rf"^target must lie between 0 and 1, both excluded, got {target}; "):
        kl_sparsity(torch.rand(B, UNITS), target)


def test_uncertainty_weighs_a_loss_by_the_precision_and_pays_for_the_variance():
    loss, log_variance = torch.tensor([6.0, 6.0, 0.5]), torch.tensor([0.0, log(3.0), log(0.25)])
    # 6 / 1 + 0;  6 / 3 + log(3) / 2;  0.5 * 4 + log(1/4) / 2
    expected = torch.tensor([6.0, 2 + log(3) / 2, 2 - log(4) / 2])
    torch.testing.assert_close(uncertainty_weighted(loss, log_variance, is_regression=False), expected)
    # half of the first terms
    expected = torch.tensor([3.0, 1 + log(3) / 2, 1 - log(4) / 2])
    torch.testing.assert_close(uncertainty_weighted(loss, log_variance, is_regression=True), expected)
    one = uncertainty_weighted(loss[1], log_variance[1], is_regression=True)
    torch.testing.assert_close(one, expected[1])


def test_the_best_variance_of_a_regression_is_its_mean_squared_error():
    error = normal(B)
    log_variance = (error**2).mean().log().requires_grad_()
    for loss, is_regression in ((error**2, True), (squared(error), False)):
        total = uncertainty_weighted(loss.mean(), log_variance, is_regression=is_regression)
        (gradient,) = torch.autograd.grad(total, log_variance)
        assert abs(gradient.item()) < 1e-15


def test_a_regressions_weighted_loss_is_the_gaussians_log_likelihood():
    error, log_variance = normal(B), torch.tensor(0.6, dtype=torch.float64)
    weighted = uncertainty_weighted((error**2).mean(), log_variance, is_regression=True)
    likelihood = F.gaussian_nll_loss(error, torch.zeros_like(error), torch.full_like(error, exp(0.6)))
    torch.testing.assert_close(weighted, likelihood)


@pytest.mark.parametrize(
    ("function", "prediction"),
    [(cross_entropy, (B, C)), (multiclass_hinge, (B, C)), (binary_cross_entropy, (B,))],
)
@pytest.mark.parametrize("shape", [(B, 1), (1,), (T, B)])
def test_targets_that_would_broadcast_are_refused_by_name(function, prediction, shape):
    with pytest.raises(ValueError, match=r"^target must have shape \[5\], got \["):
        function(torch.zeros(prediction), torch.zeros(shape, dtype=torch.int64))


def test_variances_that_would_broadcast_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^log_variance must have shape \[5\], got \[\]$"):
        uncertainty_weighted(torch.zeros(B), torch.zeros(()), is_regression=True)
