"""Adam without the time that torch's spends around its kernel."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015, algorithm 1); a step goes straight to the kernel.

    The rest of torch's step (hooks, profiling, sorting by device) takes as long as the kernel for layers of 256 units,
    and longer for smaller ones. It is for parameters that all have a gradient, and its hooks are not called.
    """

    def __init__(self, parameters: Iterable[Tensor], epsilon: float = 1e-8) -> None:
        super().__init__(parameters, eps=epsilon, fused=True)
        self._moments: dict[int, _Moments] = {}  # by group

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._moments = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the `grad` of each tensor, divided by `grad_scale` and skipped where `found_inf` is 1."""
        assert closure is None
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for index, group in enumerate(self.param_groups):
            parameters = group["params"]
            moments = self._moments.get(index)
            if moments is None or moments.of_first is not self.state.get(parameters[0]):  # not any more
                moments = self._moments[index] = self._gather(parameters)
            step = moments.steps[0]
            step += 1
            torch._fused_adam_(
                parameters,
                [parameter.grad for parameter in parameters],
                moments.means,
                moments.squares,
                [],
                moments.steps,
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
                step -= found_inf

    def _gather(self, parameters: list[Tensor]) -> "_Moments":
        states = [self.state.get(parameter) or _begin(parameter) for parameter in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            self.state[parameter] = {**state, "step": states[0]["step"]}
        states = [self.state[parameter] for parameter in parameters]
        lists = ([state[key] for state in states] for key in ("step", "exp_avg", "exp_avg_sq"))
        return _Moments(states[0], *lists)

    # torch wraps the step of every class that has not got this mark, to profile it and to call hooks.
    step.hooked = True  # type: ignore[attr-defined]


class _Moments(NamedTuple):
    """What a group's parameters have in `state`, as the kernel takes it."""

    of_first: dict[str, Tensor]  # the first parameter's entry, by whose identity a new state is known
    steps: list[Tensor]  # one tensor, again and again
    means: list[Tensor]  # of gradients
    squares: list[Tensor]  # means of their squares


def _begin(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": parameter.new_zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
