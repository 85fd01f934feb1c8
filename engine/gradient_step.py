"""How a loss becomes an update: the one place that calls backward and an optimizer."""

from collections.abc import Callable, Iterable
from typing import Generic

import torch
from torch import Tensor

from .gradients import Batch, Gradients, Metrics
from .recorded import NetworkT, Outputs
from .stateful import StateDict, expect_keys


class NonFiniteError(ValueError):
    """A loss or a gradient is NaN or infinite; the update that brought it up has changed nothing."""


class GradientStep(Generic[NetworkT, Batch]):
    """Updates `network` by gradients of `loss(network, batch) -> (scalar, metrics)`, clipped to a global norm.

    An agent gives its loss here and calls neither backward nor an optimizer, so that how an update is run (eager, or
    recorded: see Recorded) needs no change to any agent. What a loss needs of other networks (a target network's
    values) is computed before, for all batches at once, and comes with the batch.
    """

    def __init__(
        self,
        loss: Callable[[NetworkT, Batch], tuple[Tensor, Metrics]],
        network: NetworkT,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None = None,
    ) -> None:
        """optimizer: one of torch's with fused=True; max_norm: of the gradient over all its parameters, or no clip."""
        if not optimizer.defaults.get("fused"):
            raise ValueError(f"GradientStep needs a fused optimizer, got {type(optimizer).__name__} without fused=True")
        self._optimizer, self._max_norm = optimizer, max_norm
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._parameters = {name: p for name, p in network.named_parameters() if id(p) in owned}
        self._gradients = Gradients(loss, network, self._parameters)

    def __call__(self, batches: Iterable[Batch], learning_rate: float | None = None) -> Metrics:
        """One update a batch, in order; means of the metrics' entries. learning_rate: None leaves it as it is.

        A metric is a tensor of any shape, the same for each batch.

        A batch whose loss or gradient is not finite changes nothing; NonFiniteError, after the last batch, names the
        first such tensor.
        """
        if learning_rate is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
        history: list[Metrics] = []
        norms: list[Tensor] = []  # of each parameter's gradient
        for batch in batches:
            loss, metrics, gradients = self._gradients(batch)
            norms.append(torch.stack(torch._foreach_norm(gradients)))
            norm = torch.linalg.vector_norm(norms[-1])
            self._apply(gradients, norm, loss + norm)
            history.append({"loss": loss, **metrics, "gradient_norm": norm})
        for parameter in self._parameters.values():
            parameter.grad = None
        means = {name: torch.stack([metrics[name] for metrics in history]).mean() for name in history[0]}
        if not (means["loss"] + means["gradient_norm"]).isfinite():  # the one synchronisation of a call
            raise NonFiniteError(self._culprit(history, norms))
        return means

    def state_dict(self) -> StateDict:
        """The optimizer's state by parameter name; the network is its owner's to save."""
        state = self._optimizer.state
        return {name: dict(state[p]) for name, p in self._parameters.items() if p in state}

    def load_state_dict(self, state: StateDict) -> None:
        if state:
            expect_keys("optimizer", state, set(self._parameters))
        self._optimizer.state.clear()
        for name, entries in state.items():
            parameter = self._parameters[name]
            # Copies: the optimizer updates its state in place.
            self._optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in entries.items()
            }

    def _apply(self, gradients: Outputs, norm: Tensor, total: Tensor) -> None:
        """One optimizer step, unless `total` is not finite."""
        # A fused optimizer divides by grad_scale and skips the step where found_inf is 1, both float32, without a
        # synchronisation; torch's own gradient scaler sets the same two attributes.
        scale = None if self._max_norm is None else (norm / self._max_norm).clamp(min=1.0).float()
        setattr(self._optimizer, "grad_scale", scale)  # noqa: B010 (a type checker knows neither)
        # x - x is NaN where x is not finite; isfinite would take five kernels.
        setattr(self._optimizer, "found_inf", (total - total).isnan().float())  # noqa: B010
        for parameter, gradient in zip(self._parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def _culprit(self, history: list[Metrics], norms: list[Tensor]) -> str:
        update = next(i for i, m in enumerate(history) if not (m["loss"] + m["gradient_norm"]).isfinite())
        for name, value in history[update].items():
            if name != "gradient_norm" and not value.mean().isfinite():
                return f"{name} is {value.mean().item()}; the last finite weights are kept"
        parameter = int(norms[update].isfinite().logical_not().int().argmax())
        return f"gradient of {list(self._parameters)[parameter]} is not finite; the last finite weights are kept"
