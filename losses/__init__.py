"""Pure functions of tensors: per-element losses, errors and returns.

None knows a network, a batch, a discount factor or a `done` flag: the caller passes `discount`, 0 after termination,
and reduces the result with `masked_mean`.
"""

from .distributional import categorical_projection, midpoints, quantile_huber
from .distributional import cross_entropy as categorical_cross_entropy
from .masking import masked_mean, masked_sum
from .munchausen import entropy_bonus, log_policy, munchausen_bonus, soft_value
from .policy import entropy, policy_gradient
from .rescaling import signed_hyperbolic, signed_parabolic
from .returns import discounted_return, gae, lambda_return, n_step_return, n_step_sums, reward_to_go
from .supervised import binary_cross_entropy, cross_entropy, kl_sparsity, multiclass_hinge, uncertainty_weighted
from .value import double_q_learning, huber, q_learning, squared

__all__ = [
    "binary_cross_entropy",
    "categorical_cross_entropy",
    "categorical_projection",
    "cross_entropy",
    "discounted_return",
    "double_q_learning",
    "entropy",
    "entropy_bonus",
    "gae",
    "huber",
    "kl_sparsity",
    "lambda_return",
    "log_policy",
    "masked_mean",
    "masked_sum",
    "midpoints",
    "multiclass_hinge",
    "munchausen_bonus",
    "n_step_return",
    "n_step_sums",
    "policy_gradient",
    "q_learning",
    "quantile_huber",
    "reward_to_go",
    "signed_hyperbolic",
    "signed_parabolic",
    "soft_value",
    "squared",
    "uncertainty_weighted",
]
