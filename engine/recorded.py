"""A function of a network, without autograd and modules once its operations are known."""

from collections import Counter
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ..networks.blocks import has_hooks

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Outputs: TypeAlias = tuple[Tensor, ...] | list[Tensor]

_EAGER_FIRST = 100  # calls of a shape before it is recorded, which takes as long as some hundred of them
_MOST_SHAPES = 4  # that are recorded; what meets more meets none of them often
_KNOWN = ("torch.nn.", __name__.partition(".")[0] + ".")  # packages whose modules repeat what they did


class Recorded(Generic[NetworkT]):
    """`function(network, *inputs)`, whose inputs are tensors and tuples of them, and whose output is a flat tuple.

    For a small network on a CPU, as much time goes into autograd's graph and the Python of modules as into arithmetic.
    Once a shape of inputs has come often, the operations that torch ran for it are recorded, rid of what does nothing,
    and from then on simply run again: to the same bits, which is checked where the recording is made.

    So the function must depend on network and inputs alone. Recorded is only what can be repeated blindly: inputs on
    the CPU, and networks of torch's modules and ours, without hooks. All else stays eager.
    """

    def __init__(self, function: Callable[..., Outputs], network: NetworkT) -> None:
        self._function, self._network = function, network
        self._modules = list(network.modules())
        self._is_known = all(type(module).__module__.startswith(_KNOWN) for module in self._modules)
        self._seen: Counter[object] = Counter()
        self._recordings: dict[object, Callable[..., list[Tensor]] | None] = {}  # None where there can be none

    def __call__(self, *inputs: Any) -> Outputs:
        tensors = _tensors(inputs) if self._is_known else None
        if tensors is None or any(map(has_hooks, self._modules)):
            return self._function(self._network, *inputs)
        shape = (self._network.training, *[tensor.shape for tensor in tensors])
        recording = self._recordings.get(shape)
        if recording is not None:
            with torch.no_grad():
                return recording(*self._state, *tensors)
        if shape not in self._recordings and len(self._recordings) < _MOST_SHAPES:
            self._seen[shape] += 1
            if self._seen[shape] > _EAGER_FIRST:
                self._recordings[shape] = self._record(inputs, tensors)
        return self._function(self._network, *inputs)

    def _record(self, inputs: tuple[Any, ...], tensors: list[Tensor]) -> Callable[..., list[Tensor]] | None:
        """None if it cannot be, or comes to other bits. Draws nothing from torch's stream and changes no buffer.

        The recording is a function of parameters, buffers and tensors.
        """
        parameters, buffers = dict(self._network.named_parameters()), dict(self._network.named_buffers())
        self._state = [*parameters.values(), *buffers.values()]

        def flat(*everything: Tensor) -> list[Tensor]:
            rest = iter(everything)
            held = {f"network.{name}": next(rest) for name in (*parameters, *buffers)}
            copy = _like(inputs, rest)
            holder = _Holder(self._network, lambda network: list(self._function(network, *copy)))
            outputs: list[Tensor] = torch.func.functional_call(holder, held, ())
            return outputs

        def result(function: Callable[..., Any]) -> Any:
            torch.set_rng_state(random)
            return function(*parameters.values(), *(buffer.clone() for buffer in buffers.values()), *tensors)

        random = torch.get_rng_state()
        try:
            with torch.random.fork_rng(devices=()):
                module = result(make_fx(flat))
                _simplify(module)
                recording: Callable[..., list[Tensor]] = module.forward
                with torch.no_grad():
                    actual = result(recording)
                expected = result(flat)
        except Exception:  # of whatever kind: the eager way, which comes to the same, has none
            return None
        is_same = len(actual) == len(expected) and all(map(torch.equal, actual, expected))
        return recording if is_same else None


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
        shape = _shape(node)
        if target is _ATEN.detach.default:
            replace(node, source)
        elif target is made_by is _ATEN.t.default:
            replace(node, source.args[0])
        elif target is _ATEN.mul.Tensor and _is_one(source) and shape == _shape(node.args[1]):
            replace(node, node.args[1])
        elif target in _SAME:
            if target is made_by is _ATEN.view.default:
                source = source.args[0]
                node.update_arg(0, source)
            if target is _ATEN.view.default and shape == _shape(source):
                replace(node, source)
                continue
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


def _shape(node: Any) -> torch.Size | None:
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return None if meta is None else meta.shape


def _is_one(node: Any) -> bool:
    """1, in as many places as may be."""
    while isinstance(node, fx.Node) and node.target is _ATEN.expand.default:
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target is _ATEN.ones_like.default


def _may_write(user: fx.Node) -> bool:
    """Whether a node may change its argument, hand it on under another name, or give it away."""
    schema = getattr(user.target, "_schema", None)
    return schema is None or any(argument.alias_info is not None for argument in schema.arguments)


def _tensors(inputs: tuple[Any, ...]) -> list[Tensor] | None:
    """The tensors of a tuple that may hold tuples; None if there are none, or anything else, or not on the CPU."""
    found: list[Tensor] = []
    for part in inputs:
        if isinstance(part, Tensor):
            if not part.is_cpu:
                return None
            found.append(part)
        elif not isinstance(part, tuple):
            return None
        elif part:
            inner = _tensors(part)
            if inner is None:
                return None
            found += inner
    return found or None


def _like(inputs: Any, tensors: Iterator[Tensor]) -> Any:
    """A tuple like `inputs` of the tensors."""
    if isinstance(inputs, Tensor):
        return next(tensors)
    parts = [_like(part, tensors) for part in inputs]
    return type(inputs)(*parts) if hasattr(inputs, "_fields") else tuple(parts)
