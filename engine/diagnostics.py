"""What a network's layers do on a batch, and whether its gradients are right."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .gradients import Batch, Gradients, Loss, Metrics
from .microbatches import Microbatches
from .recorded import NetworkT


def measure(
    loss: Loss[NetworkT, Batch],
    network: NetworkT,
    names: Iterable[str],
    batch: Batch | Microbatches[Batch],
    others: Iterable[nn.Module] = (),
) -> Metrics:
    """Mean, standard deviation and share of zeros of each layer's output, and the norm of each parameter's gradient.

    As scalars: activation_mean/NAME, activation_std/NAME and activation_zeros/NAME for each module without sub-modules
    or with parameters of its own, as named in `network`, that gives a tensor, or a tuple that begins with one, over all
    that it gave; gradient_norm/NAME for each of the parameters `names`, before any clip. It is done on a copy: neither
    network nor torch's streams change, and the random numbers are those that an update would draw now.
    """
    copy, names, totals = deepcopy(network), list(names), dict[str, _Total]()
    for name, module in copy.named_modules():
        if next(module.children(), None) is None or next(module.parameters(recurse=False), None) is not None:
            totals[name or type(module).__name__] = total = _Total()
            module.register_forward_hook(total)
    with _forked(copy):
        gradients = Gradients(loss, copy, names, others=others)(batch).gradients
    metrics: Metrics = {}
    for name, total in totals.items():
        if total.count:
            metrics |= {f"activation_{what}/{name}": value for what, value in total.metrics().items()}
    norms = (f"gradient_norm/{name}" for name in names)
    return metrics | dict(zip(norms, torch._foreach_norm(gradients), strict=True))


class GradientCheck(NamedTuple):
    """Where autograd and central differences differ most, relative to the larger of the two."""

    max_relative_error: float  # infinite where either is not finite
    parameter: str  # its name
    entry: tuple[int, ...]  # which of it
    by_autograd: float
    by_difference: float
    num_checked: int  # entries compared


def gradient_check(
    loss: Callable[[NetworkT, Batch], Tensor | tuple[Tensor, Metrics]],
    network: NetworkT,
    batch: Batch,
    *,
    epsilon: float = 1e-6,
    samples: int = 20,
    generator: torch.Generator,
) -> GradientCheck:
    """Gradients of `loss(network, batch)` by each trained parameter against central differences, in float64.

    Of each parameter `samples` entries are compared, or all if it has fewer, which `generator` (on the CPU) picks;
    right ones agree to 1e-5 or so. What is smaller than a thousandth of the largest gradient is compared to that, since
    differences know no better. Where the loss has a kink closer than `epsilon` (a ReLU at zero) they know nothing; deep
    convolutional networks have many: take 1e-7.

    It is done on a copy in the network's own mode; every evaluation draws the same random numbers and begins with the
    same buffers. Floating tensors of the batch become float64 wherever tuples, lists, dicts and dataclasses hold them.
    """
    network, batch = deepcopy(network).double(), _double(batch)
    parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    if not parameters:
        raise ValueError("nothing to check: every parameter is frozen (requires_grad=False)")
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    seed = int(torch.randint(2**62, (), generator=generator))

    def value() -> Tensor:
        for buffer, before in buffers:
            buffer.copy_(before)
        torch.manual_seed(seed)  # inside _forked, which puts the caller's stream back
        result = loss(network, batch)
        return result[0] if isinstance(result, tuple) else result

    def value_at(parameter: Tensor, index: tuple[int, ...], entry: float) -> float:
        with torch.no_grad():
            parameter[index] = entry
        return value().item()  # with autograd on: there are modules that do otherwise without

    default = torch.get_default_dtype()
    with _forked(network), _AsDouble():
        torch.set_default_dtype(torch.float64)
        try:
            gradients = torch.autograd.grad(value(), list(parameters.values()), allow_unused=True)
            pairs: list[tuple[str, tuple[int, ...], float, float]] = []
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                for place in torch.randperm(parameter.numel(), generator=generator)[:samples]:
                    index = tuple(int(i) for i in torch.unravel_index(place, parameter.shape))
                    entry = parameter[index].item()
                    high, low = (value_at(parameter, index, entry + shift) for shift in (epsilon, -epsilon))
                    with torch.no_grad():
                        parameter[index] = entry
                    slope = 0.0 if gradient is None else gradient[index].item()
                    pairs.append((name, index, slope, (high - low) / (2 * epsilon)))
        finally:
            torch.set_default_dtype(default)
    largest = max((float(gradient.abs().max()) for gradient in gradients if gradient is not None), default=0.0)
    floor = max(1e-3 * largest, 1e-6)
    errors = [_relative_error(slope, difference, floor) for _, _, slope, difference in pairs]
    worst = max(range(len(pairs)), key=errors.__getitem__)
    return GradientCheck(errors[worst], *pairs[worst], len(pairs))


def _relative_error(one: float, other: float, floor: float) -> float:
    error = abs(one - other) / max(abs(one), abs(other), floor)
    return error if math.isfinite(error) else math.inf


class _Total:
    """A forward hook that adds up what a module gave."""

    def __init__(self) -> None:
        self.count = 0
        self._sums: list[Tensor] = []  # of each call: values, their squares, zeros

    def __call__(self, module: nn.Module, inputs: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.numel():
            values = first.detach().double()
            self.count += values.numel()
            self._sums.append(torch.stack([values.sum(), values.square().sum(), (values == 0).sum()]))

    def metrics(self) -> Metrics:
        mean, square, zeros = (torch.stack(self._sums).sum(0) / self.count).unbind()
        std = (square - mean.square()).clamp(min=0.0).sqrt()
        return {"mean": mean.float(), "std": std.float(), "zeros": zeros.float()}


def _forked(network: nn.Module) -> AbstractContextManager[None]:
    """torch's streams are afterwards as they were before."""
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    return torch.random.fork_rng(devices=[device.index for device in devices])


class _AsDouble(TorchFunctionMode):
    """Has what asks for float32 by name get float64, as encoders do that turn bytes or numbers into floats."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        named = {key: _wide(value) for key, value in (kwargs or {}).items()}
        return func(*map(_wide, args), **named)


def _wide(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def _double(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.double() if tree.is_floating_point() else tree
    if isinstance(tree, dict):
        return {key: _double(part) for key, part in tree.items()}
    if isinstance(tree, tuple | list):
        parts = map(_double, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    if is_dataclass(tree) and not isinstance(tree, type):
        return replace(tree, **{field.name: _double(getattr(tree, field.name)) for field in fields(tree) if field.init})
    return tree
