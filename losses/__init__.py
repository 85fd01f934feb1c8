"""Pure functions of tensors: per-element losses, errors and returns.

None knows a network, a batch, a discount factor or a `done` flag: the caller passes `discount`, 0 after termination,
and reduces the result with `masked_mean`.
"""

from .masking import masked_mean
from .policy import entropy, policy_gradient
from .returns import discounted_return, gae, n_step_return, reward_to_go
from .supervised import binary_cross_entropy, cross_entropy, kl_sparsity, multiclass_hinge, uncertainty_weighted
from .value import double_q_learning, huber, q_learning, squared

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "discounted_return",
    "double_q_learning",
    "entropy",
    "gae",
    "huber",
    "kl_sparsity",
    "masked_mean",
    "multiclass_hinge",
    "n_step_return",
    "policy_gradient",
    "q_learning",
    "reward_to_go",
    "squared",
    "uncertainty_weighted",
]
