"""Gradients of a loss by the parameters of a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .recorded import NetworkT, Outputs, Recorded

Metrics: TypeAlias = dict[str, Tensor]
Batch = TypeVar("Batch")


class Gradients(Generic[NetworkT, Batch]):
    """Of `loss(network, batch) -> (scalar, metrics)`; recorded where it can be, see Recorded."""

    def __init__(
        self,
        loss: Callable[[NetworkT, Batch], tuple[Tensor, Metrics]],
        network: NetworkT,
        names: Iterable[str],
    ) -> None:
        """names: of the network's parameters that gradients are wanted of."""
        self._loss, self._names = loss, tuple(names)
        self._metrics: tuple[str, ...] = ()
        self._flat = Recorded(self._eager, network)

    def __call__(self, batch: Batch) -> tuple[Tensor, Metrics, Outputs]:
        """Loss, metrics and the gradient of each parameter, all detached.

        ValueError names a parameter that the loss does not depend on.
        """
        loss, *others = self._flat(batch)
        count = len(self._metrics)
        return loss, dict(zip(self._metrics, others, strict=False)), others[count:]

    def _eager(self, network: NetworkT, batch: Batch) -> tuple[Tensor, ...]:
        named: Mapping[str, nn.Parameter] = dict(network.named_parameters())
        loss, metrics = self._loss(network, batch)
        self._metrics = tuple(metrics)
        parameters = [named[name] for name in self._names]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            idle = next(name for name, gradient in zip(self._names, gradients, strict=True) if gradient is None)
            raise ValueError(f"{idle} has no part in the loss; freeze it: requires_grad_(False)")
        return (loss.detach(), *metrics.values(), *_own(gradients, parameters))


def _own(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients laid out like their parameters and in memory of their own: a fused optimizer scales them in place.

    autograd gives one tensor for two parameters that are added up, and an expanded scalar for one that is summed.
    """
    owned: list[Tensor] = []
    places: set[int] = set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        is_own = gradient.stride() == parameter.stride() and gradient.data_ptr() not in places
        owned.append(gradient if is_own else torch.empty_like(parameter).copy_(gradient))
        places.add(owned[-1].data_ptr())
    return owned
