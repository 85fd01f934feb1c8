"""Adam without the time that torch's spends around its kernel."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015, algorithm 1); a step goes straight to the kernel.

    The rest of torch's step (hooks, profiling, sorting by device) takes as long as the kernel for layers of 256 units,
    and longer for smaller ones. It is for parameters that all have a gradient, and its hooks are not called.
    """

    def __init__(self, parameters: Iterable[Tensor], epsilon: float = 1e-8) -> None:
        super().__init__(parameters, eps=epsilon, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the `grad` of each tensor, divided by `grad_scale` and skipped where `found_inf` is 1."""
        assert closure is None
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[parameter] or self._begin(parameter) for parameter in parameters]
            steps = [state["step"] for state in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                parameters,
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=grad_scale,
                found_inf=found_inf,
            )
            if found_inf is not None:
                torch._foreach_sub_(steps, [found_inf] * len(steps))

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        self.state[parameter] = {
            "step": parameter.new_zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
        state: dict[str, Tensor] = self.state[parameter]
        return state

    # torch wraps the step of every class that has not got this mark, to profile it and to call hooks.
    step.hooked = True  # type: ignore[attr-defined]
