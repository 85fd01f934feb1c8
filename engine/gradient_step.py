"""How a loss becomes an update: the one place that calls backward and an optimizer."""

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Generic, NamedTuple

import torch
from torch import Tensor, nn

from .diagnostics import measure
from .gradients import Batch, Gradients, Loss, Metrics
from .microbatches import Microbatches
from .optimizers import begin
from .recorded import NetworkT, Outputs
from .stateful import StateDict, expect_keys
from .stream import Stream, draws

_STREAM = ".stream"  # no parameter is called so: parts of a name are never empty


class NonFiniteError(ValueError):
    """A loss or a gradient is NaN or infinite; the update that brought it up has changed nothing."""

    group: int | None = None  # of parameters, the first in which one is, where there are several


class GradientStep(Generic[NetworkT, Batch]):
    """Updates `network` by gradients of `loss(network, batch, *others) -> (scalar, metrics)`, clipped to a global norm.

    An agent gives its loss here and calls neither backward nor an optimizer, so that how an update is run (eager, or
    recorded: see Recorded) needs no change to any agent. What a loss needs of `others` (a target network's values) it
    asks them itself, or it is computed before, for all batches at once, and comes with the batch.

    Trained are the optimizer's parameters whose requires_grad is set, looked up at each call: what is frozen later
    stands still and keeps its part of the optimizer's state, and what is unfrozen goes on from there, or begins.
    """

    def __init__(
        self,
        loss: Loss[NetworkT, Batch],
        network: NetworkT,
        optimizer: torch.optim.Optimizer,
        max_norm: float | None = None,
        generator: torch.Generator | None = None,
        groups: int = 1,
        others: Sequence[nn.Module] = (),
    ) -> None:
        """max_norm: of the gradient over all trained parameters, None for no clip.

        optimizer: over parameters of `network`. With torch's fused ones an update that is not finite is skipped inside
        their kernel; for others each update reads whether it is, which waits for the device.
        generator: what modules draw from that know torch's global stream only (dropout), on the network's device; its
        state is part of ours. None leaves them to the global stream.
        groups: of parameters, along the first dimension of each, whose gradients are clipped apart; the loss is the sum
        of theirs, and its metric, as that of the norm, their mean.
        others: networks that the loss is given too, of which nothing is learnt.
        """
        self._loss, self._network, self._groups, self._others = loss, network, groups, others
        self._optimizer, self._max_norm = optimizer, max_norm
        self._is_fused = bool(optimizer.defaults.get("fused"))
        assert groups == 1 or self._is_fused
        owned = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self._owned = {name: p for name, p in network.named_parameters() if id(p) in owned}
        if len(self._owned) < len(owned):
            raise ValueError(f"the optimizer has {len(owned) - len(self._owned)} tensors that the network has not")
        self._stream: Stream | None = None
        if generator is not None and draws(network):
            device = next(network.parameters()).device
            if device.type != generator.device.type:
                raise ValueError(f"the generator is on {generator.device}, but the network on {device}")
            self._stream = Stream(generator)
        self._buffers = [module._buffers for module in network.modules() if module._buffers]
        self.num_updates = 0  # since it was built
        self.last: list[Metrics] = []  # metrics of each batch of the last call, as the loss gave them
        self._examines = False
        self._is_trained: list[bool] | None = None  # as of the last call, for each that is owned

    def __call__(self, batches: Iterable[Batch | Microbatches[Batch]], learning_rate: float | None = None) -> Metrics:
        """One update a batch, in order; means of the metrics' entries. learning_rate: None leaves it as it is.

        A metric is a tensor of any shape, the same for each batch. The `rate` of a parameter group is a factor of the
        learning rate.

        A batch whose loss or gradient is not finite changes nothing; NonFiniteError, after the last batch, names the
        first such tensor. Then the buffers, which no kernel guards (norm statistics), are as they were before the call.
        """
        if learning_rate is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate * group.get("rate", 1.0)
        if [parameter.requires_grad for parameter in self._owned.values()] != self._is_trained:
            self._begin()
        buffers = [buffer for part in self._buffers for buffer in part.values() if buffer is not None]
        before = [buffer.clone() for buffer in buffers]
        entries: list[Metrics] = []
        told: list[Told] = []
        measured: Metrics = {}
        with self._stream or nullcontext():
            for batch in batches:
                if self._examines:
                    measured = measure(self._loss, self._network, self._trained, batch, self._others)
                    self._examines = False
                loss, metrics, gradients, more = self._gradients(batch)
                told.append(of := Told.of(more))
                self._apply(gradients, of)
                loss = loss if self._groups == 1 else loss / self._groups
                entries.append({"loss": loss, **metrics, "gradient_norm": of.norm})
        for parameter in self._trained.values():
            parameter.grad = None
        self.last = entries
        self.num_updates += len(entries)
        if _mean([of.skips for of in told]):  # the one synchronisation of a call
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
            raise self._error(entries, [of.norms for of in told])
        rows = ([entry["loss"], *of.means, of.norm] for entry, of in zip(entries, told, strict=True))
        means = map(_mean, zip(*rows, strict=True))
        return {**dict(zip(("loss", *metrics, "gradient_norm"), means, strict=True)), **measured}

    def examine(self, wanted: bool = True) -> None:
        """Whether the next call measures its first batch too, for metrics of that call alone; see diagnostics.measure.

        That takes the time of an eager update, and changes nothing else.
        """
        self._examines = wanted

    def state_dict(self) -> StateDict:
        """The optimizer's state by parameter name, and that of the stream; the network is its owner's to save."""
        state = self._optimizer.state
        entries: StateDict = {name: dict(state[p]) for name, p in self._owned.items() if state.get(p)}
        return entries if self._stream is None else {**entries, _STREAM: self._stream.state_dict()}

    def load_state_dict(self, state: StateDict) -> None:
        """Parameters that the state does not name begin anew; ValueError names those that are not the optimizer's."""
        names = self._owned.keys() & state.keys()
        expect_keys("optimizer", state, names if self._stream is None else names | {_STREAM})
        for name in names if self._is_fused else ():
            _check(name, self._owned[name], state[name])
        if self._stream is not None:
            self._stream.load_state_dict(state[_STREAM])
        self._optimizer.state.clear()
        for name in names:
            parameter = self._owned[name]
            # Copies: the optimizer updates its state in place.
            self._optimizer.state[parameter] = {
                key: value.to(parameter.device, copy=True) for key, value in state[name].items()
            }
        begin(self._optimizer)

    def _begin(self) -> None:
        """Take stock of what is trained."""
        self._trained = {name: parameter for name, parameter in self._owned.items() if parameter.requires_grad}
        if not self._trained:
            raise ValueError("nothing to update: every parameter is frozen (requires_grad=False)")
        self._gradients = Gradients(self._loss, self._network, self._trained, self._tell, self._others)
        self._is_trained = [parameter.requires_grad for parameter in self._owned.values()]
        begin(self._optimizer)

    def _tell(self, loss: Tensor, metrics: Metrics, gradients: Outputs) -> Outputs:
        if self._groups == 1:
            norms = torch.stack(torch._foreach_norm(gradients))
            norm = of_group = torch.linalg.vector_norm(norms)
        else:
            norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
            of_group = torch.linalg.vector_norm(norms, dim=0)
            norm = of_group.mean()
        total = loss + norm
        # x - x is NaN where x is not finite; isfinite would take five kernels.
        skips = (total - total).isnan().float()
        limit = math.inf if self._max_norm is None else self._max_norm
        scale = (of_group / limit).clamp(min=1.0).float()
        return Told(norms, norm, skips, scale, [metric.mean() for metric in metrics.values()]).flat()

    def _apply(self, gradients: Outputs, told: "Told") -> None:
        """One optimizer step, unless loss or gradients are not finite."""
        if self._is_fused:
            clips, is_one = self._max_norm is not None, self._groups == 1
            for gradient in gradients if clips and not is_one else ():
                gradient.div_(told.scale.view(-1, *(1 for _ in gradient.shape[1:])))
            # A fused optimizer divides by grad_scale and skips the step where found_inf is 1, both float32, without a
            # synchronisation; torch's own gradient scaler sets the same two attributes.
            setattr(self._optimizer, "grad_scale", told.scale if clips and is_one else None)  # noqa: B010
            setattr(self._optimizer, "found_inf", told.skips)  # noqa: B010 (a type checker knows neither)
        elif told.skips:
            return
        elif self._max_norm is not None:
            # As torch's clip_grad_norm_ does it, to the last bit: with torch's own optimizers an update is torch's.
            torch._foreach_mul_(gradients, (self._max_norm / (told.norm + 1e-6)).clamp(max=1.0))
        for parameter, gradient in zip(self._trained.values(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()

    def _error(self, history: list[Metrics], norms: list[Tensor]) -> NonFiniteError:
        update = next(i for i, m in enumerate(history) if not (m["loss"] + m["gradient_norm"]).isfinite())
        error = NonFiniteError(self._culprit(history[update], norms[update]))
        if self._groups > 1:
            error.group = int(norms[update].isfinite().all(0).logical_not().int().argmax())
        return error

    def _culprit(self, metrics: Metrics, norms: Tensor) -> str:
        for name, value in metrics.items():
            if name != "gradient_norm" and not value.mean().isfinite():
                return f"{name} is {value.mean().item()}; the last finite weights are kept"
        parameter = int(norms.view(len(norms), -1).isfinite().all(1).logical_not().int().argmax())
        return f"gradient of {list(self._trained)[parameter]} is not finite; the last finite weights are kept"


class Told(NamedTuple):
    """Of an update, recorded with its gradients."""

    norms: Tensor  # [P] of each parameter's gradient; of groups [P, G]
    norm: Tensor  # [] of all; of groups the mean
    skips: Tensor  # [] float32, 1 where the loss or a gradient is not finite
    scale: Tensor  # [] float32, what a gradient is divided by to be clipped; of groups [G]
    means: Outputs  # [] each, of the metrics

    def flat(self) -> Outputs:
        return [*self[:-1], *self.means]

    @classmethod
    def of(cls, flat: Outputs) -> "Told":
        norms, norm, skips, scale, *means = flat
        return cls(norms, norm, skips, scale, means)


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Of scalars."""
    return values[0] if len(values) == 1 else torch.stack([*values]).mean()


def _check(name: str, parameter: Tensor, entries: StateDict) -> None:
    """ValueError for a state of another shape, which a fused kernel would not notice."""
    for key, value in entries.items():
        if value.shape not in (parameter.shape, ()):
            shapes = f"{list(value.shape)}, this one {list(parameter.shape)}"
            raise ValueError(f"state of optimizer: {key} of {name} is {shapes}")
