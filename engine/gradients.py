"""Gradients of a loss, without autograd once its operations are known."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ..networks.blocks import has_hooks

Metrics: TypeAlias = dict[str, Tensor]
Result: TypeAlias = tuple[Tensor, Metrics, list[Tensor]]
Batch = TypeVar("Batch")
NetworkT = TypeVar("NetworkT", bound=nn.Module)

_EAGER_FIRST = 100  # batches of a shape before it is recorded, which takes as long as some hundred of them
_MOST_SHAPES = 4  # that are recorded; a loss that meets more meets none of them often
_KNOWN = ("torch.nn.", __name__.partition(".")[0] + ".")  # packages whose modules repeat what they did


class Gradients(Generic[NetworkT, Batch]):
    """`loss(network, batch) -> (scalar, metrics)` and its gradients by the network's parameters.

    On a CPU a third of a small network's update goes into autograd's graph and the Python of modules and loss. Once a
    shape of batch has come often, the operations that torch ran for it, forward and backward, are recorded, rid of what
    does nothing, and from then on simply run again: to the same bits, which is checked on a batch.

    So a loss must depend on network and batch alone. Recorded is only what can be repeated blindly: batches that are
    tuples of tensors on the CPU, and networks of torch's modules and ours, without hooks. All else stays eager.
    """

    def __init__(
        self,
        loss: Callable[[NetworkT, Batch], tuple[Tensor, Metrics]],
        network: NetworkT,
        parameters: Mapping[str, nn.Parameter],
    ) -> None:
        """parameters: by name, those of the network that gradients are wanted of."""
        self._loss, self._network, self._parameters = loss, network, dict(parameters)
        self._modules = list(network.modules())
        self._is_known = all(type(module).__module__.startswith(_KNOWN) for module in self._modules)
        self._seen: Counter[object] = Counter()
        self._recordings: dict[object, _Recording | None] = {}  # None where there can be none

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Result]:
        """Of each batch in turn, when asked for it: loss, metrics and the gradient of each parameter, all detached."""
        may_record = self._is_known and not any(map(has_hooks, self._modules))
        for batch in batches:
            yield (may_record and self._recorded(batch)) or self._eager(
                self._network, batch, list(self._parameters.values())
            )

    def _recorded(self, batch: Batch) -> Result | None:
        """None where there is no recording for batches of this shape, or not yet."""
        tensors = _tensors(batch)
        if tensors is None:
            return None
        shape = (self._network.training, *[tensor.shape for tensor in tensors])
        recording = self._recordings.get(shape)
        if recording is not None:
            return recording(tensors)
        if shape not in self._recordings and len(self._recordings) < _MOST_SHAPES:
            self._seen[shape] += 1
            if self._seen[shape] > _EAGER_FIRST:
                self._recordings[shape] = self._record(batch, tensors)
        return None

    def _eager(self, network: NetworkT, batch: Batch, parameters: list[Tensor] | list[nn.Parameter]) -> Result:
        loss, metrics = self._loss(network, batch)
        return loss.detach(), metrics, list(torch.autograd.grad(loss, parameters))

    def _record(self, batch: Batch, tensors: list[Tensor]) -> "_Recording | None":
        """None if it cannot be, or comes to other bits. Draws nothing from torch's stream and changes no buffer."""
        parameters, buffers = dict(self._network.named_parameters()), dict(self._network.named_buffers())
        metrics: list[str] = []

        def flat(*inputs: Tensor) -> list[Tensor]:
            rest = iter(inputs)
            state = {name: next(rest) for name in (*parameters, *buffers)}
            copy = _like(batch, rest)

            def run(network: NetworkT) -> list[Tensor]:
                loss, named, gradients = self._eager(network, copy, [state[name] for name in self._parameters])
                metrics[:] = named
                return [loss, *named.values(), *gradients]

            held = {f"network.{name}": tensor for name, tensor in state.items()}
            outputs: list[Tensor] = torch.func.functional_call(_Holder(self._network, run), held, ())
            return outputs

        def result(function: Callable[..., Any]) -> Any:
            torch.set_rng_state(random)
            return function(*parameters.values(), *(buffer.clone() for buffer in buffers.values()), *tensors)

        random = torch.get_rng_state()
        try:
            with torch.random.fork_rng(devices=()):
                module = result(make_fx(flat))
                _simplify(module)
                recording = _Recording(module, [*parameters.values(), *buffers.values()], metrics)
                with torch.no_grad():
                    actual = result(module.forward)
                expected = result(flat)
        except Exception:  # of whatever kind: the eager way, which is the same, has none
            return None
        return recording if all(map(torch.equal, actual, expected)) else None


class _Recording:
    """Operations that make loss, metrics and gradients of parameters, buffers and a batch's tensors."""

    def __init__(self, module: fx.GraphModule, state: list[Tensor], metrics: list[str]) -> None:
        self._run, self._state, self._metrics = module.forward, state, metrics

    def __call__(self, tensors: list[Tensor]) -> Result:
        with torch.no_grad():
            loss, *others = self._run(*self._state, *tensors)
        count = len(self._metrics)
        return loss, dict(zip(self._metrics, others, strict=False)), others[count:]


class _Holder(nn.Module):
    """A network inside a module, so that a function of it can be called with other parameters."""

    def __init__(self, network: nn.Module, function: Callable[..., list[Tensor]]) -> None:
        super().__init__()
        self.network, self._function = network, function

    def forward(self) -> list[Tensor]:
        return self._function(self.network)


_ATEN = torch.ops.aten
_SAME = {_ATEN.t.default, _ATEN.view.default, _ATEN.unsqueeze.default}  # views that are the same for equal arguments
_FILLED = {_ATEN.zeros_like.default: 0.0, _ATEN.new_zeros.default: 0.0, _ATEN.ones_like.default: 1.0}
_IN_PLACE = {_ATEN.relu.default: torch.relu_, _ATEN.tanh.default: torch.tanh_, _ATEN.sigmoid.default: torch.sigmoid_}
_FRESH = {_ATEN.addmm.default, _ATEN.mm.default, _ATEN.add.Tensor}  # what they give is nobody else's


def _simplify(module: fx.GraphModule) -> None:
    """Take out what only autograd needed, and make the rest quicker; the results' bits stay."""
    graph = module.graph
    first: dict[tuple[object, str], fx.Node] = {}  # view of equal arguments

    def replace(node: fx.Node, other: Any) -> None:
        node.replace_all_uses_with(other)
        graph.erase_node(node)

    for node in [node for node in graph.nodes if node.op == "call_function" and node.args]:
        source, target = node.args[0], node.target
        made_by = source.target if isinstance(source, fx.Node) else None
        if target is _ATEN.detach.default:
            replace(node, source)
        elif target is made_by is _ATEN.t.default:
            replace(node, source.args[0])
        elif target in _SAME:
            if target is made_by is _ATEN.view.default:
                node.update_arg(0, source.args[0])
            same = first.setdefault((target, str(node.args)), node)
            if same is not node:
                replace(node, same)
        elif target in _FILLED and not any(_may_write(user) for user in node.users):
            meta = node.meta["tensor_meta"]
            module.register_buffer(f"filled_{node.name}", torch.full(meta.shape, _FILLED[target], dtype=meta.dtype))
            with graph.inserting_before(node):
                replace(node, graph.get_attr(f"filled_{node.name}"))
        elif target in _IN_PLACE and made_by in _FRESH and len(source.users) == 1:
            node.target = _IN_PLACE[target]
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable:
            # torch's own function, which is called in less time than the overload
            function = getattr(torch, node.target.overloadpacket.__name__, None)
            if isinstance(function, BuiltinFunctionType):
                node.target = function
    graph.lint()
    module.recompile()


def _may_write(user: fx.Node) -> bool:
    """Whether a node may change its argument, hand it on under another name, or give it away."""
    schema = getattr(user.target, "_schema", None)
    return schema is None or any(argument.alias_info is not None for argument in schema.arguments)


def _tensors(batch: object) -> list[Tensor] | None:
    """The tensors of a tuple that may hold tuples; None if there is anything else, or not on the CPU."""
    if not isinstance(batch, tuple):
        return None
    found: list[Tensor] = []
    for part in batch:
        if isinstance(part, Tensor):
            if not part.is_cpu:
                return None
            found.append(part)
        elif (inner := _tensors(part)) is not None:
            found += inner
        else:
            return None
    return found


def _like(batch: Any, tensors: Iterator[Tensor]) -> Any:
    """A tuple like `batch` of the tensors."""
    if isinstance(batch, Tensor):
        return next(tensors)
    parts = [_like(part, tensors) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
