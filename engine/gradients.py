"""Gradients of a loss by the parameters of a network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from .microbatches import Microbatches
from .recorded import NetworkT, Outputs, Recorded, record

Metrics: TypeAlias = dict[str, Tensor]
Batch = TypeVar("Batch")
Loss: TypeAlias = Callable[Concatenate[NetworkT, Batch, ...], tuple[Tensor, Metrics]]  # after these, of other networks
More: TypeAlias = Callable[[Tensor, Metrics, Outputs], Outputs]  # of what a loss came to: itself, metrics, gradients


class Found(NamedTuple):
    """Of one batch, all detached."""

    loss: Tensor  # []
    metrics: Metrics
    gradients: Outputs  # of each parameter
    more: Outputs


class Gradients(Generic[NetworkT, Batch]):
    """Of `loss(network, batch, *others) -> (scalar, metrics)`; recorded where it can be, see Recorded."""

    def __init__(
        self,
        loss: Loss[NetworkT, Batch],
        network: NetworkT,
        names: Iterable[str],
        more: More | None = None,
        others: Iterable[nn.Module] = (),
    ) -> None:
        """names: of the network's parameters that gradients are wanted of; more: what else is, recorded with them."""
        self._loss, self._names, self._more = loss, tuple(names), more
        self._metrics: tuple[str, ...] = ()
        self._network = network
        self._flat = Recorded(self._eager, nn.ModuleList([network, *others]))
        self._more_of_sums = None if more is None else record(more)

    def __call__(self, batch: Batch | Microbatches[Batch]) -> Found:
        """ValueError names a parameter that the loss does not depend on."""
        loss, *others = self._sums(batch) if isinstance(batch, Microbatches) else self._flat(batch)
        first = len(self._metrics)
        end = first + len(self._names)
        return Found(loss, dict(zip(self._metrics, others, strict=False)), others[first:end], others[end:])

    def _sums(self, batch: Microbatches[Batch]) -> Outputs:
        named = dict(self._network.named_parameters())
        parameters = [named[name] for name in self._names]
        total = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
        entries = []
        for part in batch:
            *entry, total = self._flat(part, total)
            entries.append(entry)
        loss, *others = (torch.stack(each).sum(0) for each in zip(*entries, strict=True))
        pieces = torch.split(total, [parameter.numel() for parameter in parameters])
        pairs = zip(pieces, parameters, strict=True)
        gradients = tuple(_own([piece.view_as(parameter) for piece, parameter in pairs], parameters))
        metrics = dict(zip(self._metrics, others, strict=True))
        more = () if self._more_of_sums is None else self._more_of_sums(loss, metrics, gradients)
        return (loss, *others, *gradients, *more)

    def _eager(self, networks: Iterable[Any], batch: Batch, total: Tensor | None = None) -> tuple[Tensor, ...]:
        """total: gradients of the parts before this one, end to end; they come back with its own in them, no `more`."""
        network, *others = networks
        named: Mapping[str, nn.Parameter] = dict(network.named_parameters())
        loss, metrics = self._loss(network, batch, *others)
        self._metrics = tuple(metrics)
        parameters = [named[name] for name in self._names]
        gradients: Outputs = torch.autograd.grad(loss, parameters, allow_unused=True)
        if any(gradient is None for gradient in gradients):
            idle = next(name for name, gradient in zip(self._names, gradients, strict=True) if gradient is None)
            raise ValueError(f"{idle} has no part in the loss; freeze it: requires_grad_(False)")
        loss = loss.detach()
        if total is not None:
            return (loss, *metrics.values(), total + torch.cat([gradient.reshape(-1) for gradient in gradients]))
        gradients = _own(gradients, parameters)
        more = () if self._more is None else self._more(loss, metrics, gradients)
        return (loss, *metrics.values(), *gradients, *more)


def _own(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradients laid out like their parameters and in memory of their own: a fused optimizer scales them in place.

    autograd gives one tensor for two parameters that are added up, and an expanded scalar for one that is summed.
    """
    owned: list[Tensor] = []
    places: set[int] = set()
    for gradient, parameter in zip(gradients, parameters, strict=True):
        is_own = gradient.stride() == parameter.stride() and gradient.data_ptr() not in places
        owned.append(gradient if is_own else _copy(gradient, parameter))
        places.add(owned[-1].data_ptr())
    return owned


def _copy(gradient: Tensor, parameter: Tensor) -> Tensor:
    if parameter.is_contiguous():
        return gradient.clone(memory_format=torch.contiguous_format)  # writes to nothing, so it can be compiled
    return torch.empty_like(parameter).copy_(gradient)
