"""Adam without the time that torch's spends around its kernel."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class Adam(torch.optim.Adam):
    """torch's fused Adam (Kingma & Ba 2015, algorithm 1) or AdamW; a step goes straight to the kernel.

    The rest of torch's step (hooks, profiling, sorting by device) takes as long as the kernel for layers of 256 units,
    and longer for smaller ones. Its hooks are not called. As in torch's, a parameter without a gradient stays as it is,
    and its time stands still.
    """

    def __init__(
        self,
        parameters: ParamsT,
        epsilon: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        """weight_decay: decoupled from the gradient (AdamW, Loshchilov & Hutter 2019, algorithm 2)."""
        decoupled = weight_decay > 0
        super().__init__(
            parameters,
            betas=betas,
            eps=epsilon,
            weight_decay=weight_decay,
            fused=True,
            decoupled_weight_decay=decoupled,
        )
        self._moments: dict[int, _Moments] = {}  # by group

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # torch's own, out of the wrapper that tells torch.compile to skip it, and imports it first: that takes longer
        # than torch itself, and 90 MB.
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._moments = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the `grad` of each tensor, divided by `grad_scale` and skipped where `found_inf` is 1."""
        assert closure is None
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for index, group in enumerate(self.param_groups):
            gradients = [parameter.grad for parameter in group["params"]]
            has_gradient = [gradient is not None for gradient in gradients]
            moments = self._moments.get(index)
            if moments is None or moments.has_gradient != has_gradient or not self._holds(moments):
                moments = self._moments[index] = self._gather(group["params"], has_gradient)
            if not moments.parameters:
                continue
            for step in moments.clocks:
                step += 1
            kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
            kernel(
                moments.parameters,
                [gradient for gradient in gradients if gradient is not None],
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
                for step in moments.clocks:
                    step -= found_inf

    def _holds(self, moments: "_Moments") -> bool:
        """`state` is the one that they were taken from; a state that was loaded is another."""
        return not moments.parameters or self.state.get(moments.parameters[0]) is moments.of_first

    def _gather(self, parameters: list[Tensor], has_gradient: list[bool]) -> "_Moments":
        learnt = [parameter for parameter, has in zip(parameters, has_gradient, strict=True) if has]
        states = [self.state.get(parameter) or _begin(parameter) for parameter in learnt]
        # Parameters as old as each other share one clock, a copy: those that have no gradient now must not go with it.
        clocks: dict[float, Tensor] = {}
        for parameter, state in zip(learnt, states, strict=True):
            age = state["step"].item()
            if age not in clocks:
                clocks[age] = state["step"].clone()
            self.state[parameter] = {**state, "step": clocks[age]}
        states = [self.state[parameter] for parameter in learnt]
        lists = ([state[key] for state in states] for key in ("step", "exp_avg", "exp_avg_sq"))
        return _Moments(learnt, has_gradient, states[0] if states else {}, list(clocks.values()), *lists)

    # torch wraps the step of every class that has not got this mark, to profile it and to call hooks.
    step.hooked = True  # type: ignore[attr-defined]


class _Moments(NamedTuple):
    """What a group's parameters that have a gradient have in `state`, as the kernel takes it."""

    parameters: list[Tensor]
    has_gradient: list[bool]  # for each of the group's
    of_first: dict[str, Tensor]  # the first parameter's entry, by whose identity a new state is known
    clocks: list[Tensor]  # updates so far, one for all who had as many: as a rule there is but one
    steps: list[Tensor]  # each parameter's clock
    means: list[Tensor]  # of gradients
    squares: list[Tensor]  # means of their squares


def _begin(parameter: Tensor) -> dict[str, Tensor]:
    return {
        "step": parameter.new_zeros((), dtype=torch.float32),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
