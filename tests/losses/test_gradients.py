"""What holds of the whole package: true gradients, eager and functional, and no import but torch."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from graftwork import losses

T, B, A = 3, 5, 7


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ACTION = torch.arange(T * B).reshape(T, B) % A
CUT = torch.arange(T * B).reshape(T, B) % 4 == 0
DISCOUNT = (normal(9, T, B).sigmoid()).masked_fill(CUT & (ACTION > 3), 0.0)
# Clear of -0.8 and 0.8, where Huber's second derivative jumps, by more than the step of the finite differences.
ERROR = torch.linspace(-2.0, 2.05, T * B, dtype=torch.float64).reshape(T, B)

# For each public function: a call in terms of its differentiable arguments, and those.
CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "q_learning": (
        lambda q: losses.q_learning(q, ACTION, normal(0, T, B), DISCOUNT, normal(1, T, B, A)),
        (normal(2, T, B, A),),
    ),
    "double_q_learning": (
        lambda q: losses.double_q_learning(
            q, ACTION, normal(0, T, B), DISCOUNT, normal(1, T, B, A), normal(3, T, B, A)
        ),
        (normal(2, T, B, A),),
    ),
    "categorical_projection": (
        lambda probability: losses.categorical_projection(normal(0, T, B, A), probability, ERROR[:, 0]),
        (normal(1, T, B, A),),
    ),
    "categorical_cross_entropy": (
        lambda logits: losses.categorical_cross_entropy(logits, normal(0, T, B, A).softmax(-1)),
        (normal(1, T, B, A),),
    ),
    "quantile_huber": (
        lambda quantiles: losses.quantile_huber(quantiles, losses.midpoints(A).double(), normal(0, T, B, 4)),
        (normal(1, T, B, A),),
    ),
    "log_policy": (lambda q: losses.log_policy(q, 0.5), (normal(0, T, B, A),)),
    "munchausen_bonus": (lambda log_prob: losses.munchausen_bonus(log_prob, 0.5), (-normal(5, T, B).abs(),)),
    "entropy_bonus": (lambda log_policy: losses.entropy_bonus(log_policy, 0.5), (normal(1, T, B, A),)),
    "soft_value": (
        lambda next_q, log_policy: losses.soft_value(next_q, log_policy, 0.5),
        (normal(0, T, B, A), normal(1, T, B, A).log_softmax(-1)),
    ),
    "signed_hyperbolic": (losses.signed_hyperbolic, (ERROR,)),
    "signed_parabolic": (losses.signed_parabolic, (ERROR,)),
    "huber": (lambda error: losses.huber(error, 0.8), (ERROR,)),
    "squared": (losses.squared, (ERROR,)),
    "policy_gradient": (lambda log_prob: losses.policy_gradient(log_prob, normal(4, T, B)), (normal(5, T, B),)),
    "entropy": (lambda logits: losses.entropy(logits.log_softmax(-1)), (normal(6, T, B, A),)),
    "cross_entropy": (lambda logits: losses.cross_entropy(logits, ACTION, 0.1), (normal(0, T, B, A),)),
    "binary_cross_entropy": (lambda logit: losses.binary_cross_entropy(logit, CUT), (normal(0, T, B),)),
    "multiclass_hinge": (lambda logits: losses.multiclass_hinge(logits, ACTION), (normal(0, T, B, A),)),
    "kl_sparsity": (lambda x: losses.kl_sparsity(x.sigmoid(), 0.05), (normal(0, T, B, A),)),
    "uncertainty_weighted": (
        lambda loss, log_variance: losses.uncertainty_weighted(loss, log_variance, is_regression=True),
        (normal(0, A), normal(1, A)),
    ),
    "masked_mean": (lambda x: losses.masked_mean(x, CUT), (normal(7, T, B),)),
    "masked_sum": (lambda x: losses.masked_sum(x, CUT), (normal(7, T, B),)),
    "discounted_return": (losses.discounted_return, (normal(0, T, B), DISCOUNT)),
    "reward_to_go": (
        lambda reward, discount, next_value: losses.reward_to_go(reward, discount, CUT, next_value),
        (normal(0, T, B), DISCOUNT, normal(1, T, B)),
    ),
    "n_step_return": (
        lambda reward, discount, next_value: losses.n_step_return(reward, discount, CUT, next_value, 2),
        (normal(0, T, B), DISCOUNT, normal(1, T, B)),
    ),
    "n_step_sums": (
        lambda reward: losses.n_step_sums(reward, CUT & (ACTION > 3), CUT, 2, 0.9)[0],
        (normal(0, T, B),),
    ),
    "lambda_return": (
        lambda reward, discount, next_value: losses.lambda_return(reward, discount, next_value, CUT, 0.7),
        (normal(0, T, B), DISCOUNT, normal(1, T, B)),
    ),
    "gae": (
        lambda reward, discount, value, next_value: losses.gae(reward, discount, value, next_value, CUT, 0.9),
        (normal(0, T, B), DISCOUNT, normal(1, T, B), normal(2, T, B)),
    ),
}


def test_every_public_function_is_checked_here():
    assert CASES.keys() == set(losses.__all__) - {"midpoints"}  # of which nothing goes in


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_differences(name: str):
    function, inputs = CASES[name]
    assert torch.autograd.gradcheck(function, tuple(x.clone().requires_grad_() for x in inputs))


@pytest.mark.parametrize("name", CASES)
def test_functional_gradient_equals_autograd(name: str):
    function, inputs = CASES[name]
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(function(*leaves).sum(), leaves)
    argnums = tuple(range(len(inputs)))
    actual = torch.func.grad(lambda *args: function(*args).sum(), argnums)(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("path", sorted(Path(losses.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_losses_import_torch_the_standard_library_and_each_other_only(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"line {node.lineno} imports from a package above"
            imported = [] if node.level else [node.module]
        else:
            continue
        roots = {name.split(".")[0] for name in imported}
        assert roots <= {"torch", *sys.stdlib_module_names}, f"line {node.lineno}"
