"""A function of a network, without autograd and modules once its operations are known."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain, repeat
from operator import is_
from types import BuiltinFunctionType
from typing import Any, Generic, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn

from . import accelerate
from .accelerate import Function
from .traced import traced

NetworkT = TypeVar("NetworkT", bound=nn.Module)
OutputT = TypeVar("OutputT")
Outputs: TypeAlias = tuple[Tensor, ...] | list[Tensor]

_EAGER_FIRST = 100  # calls of a form before it is recorded, which takes as long as some hundred of them
_MOST_FORMS = 8  # that are recorded, the first to come often
_KNOWN = ("torch.nn.", __name__.partition(".")[0] + ".")  # packages whose modules repeat what they did


class NotRecorded(TypeError):
    """The function comes to what cannot be repeated."""


class Recorded(Generic[NetworkT, OutputT]):
    """`function(network, *inputs)`, of and to trees: tensors, and tuples, dicts and dataclasses of trees or None.

    For a small network on a CPU, as much time goes into autograd's graph and the Python of modules as into arithmetic.
    Once inputs of one form have come often, the operations that torch ran for them are recorded, rid of what does
    nothing, and from then on simply run again: to the same bits, which is checked where the recording is made, in the
    outputs, in the buffers (norm statistics) and in what is drawn from torch's stream (dropout).

    So the function must depend on network and inputs alone, and its operations on their form alone. Recorded is only
    what can be repeated blindly: inputs on the CPU, and networks of torch's modules and ours, without hooks. All else
    stays eager. Another module, parameter or buffer in the network begins anew; another number in a module (a dropout's
    share) is not noticed.
    """

    def __init__(self, function: Callable[..., OutputT], network: NetworkT) -> None:
        self._function, self._network = function, network
        self._begin()

    def __call__(self, *inputs: Any) -> OutputT:
        if self._is_changed():
            self._begin()
        tensors: list[Tensor] = []
        of_inputs = _form(inputs, tensors) if self._is_known and not any(self._hooks) else None
        if of_inputs is None:
            return self._function(self._network, *inputs)
        form = (of_inputs, *[module.training for module in self._modules])
        recording = self._recordings.get(form)
        if recording is not None:
            with torch.no_grad():
                found: Any = recording(*self._state, *tensors)
            tree = self._trees[form]
            output: OutputT = found if tree is None else _like(tree, iter(found))
            return output
        if form not in self._recordings and len(self._recordings) < _MOST_FORMS:
            self._seen[form] += 1
            if self._seen[form] > _EAGER_FIRST:
                self._record(form, inputs, tensors)
        return self._function(self._network, *inputs)

    def _begin(self) -> None:
        """Take stock of the network, and forget what was recorded."""
        modules = list(self._network.modules())
        self._is_known = all(type(module).__module__.startswith(_KNOWN) for module in modules)
        self._modules = modules
        parts = (part for module in modules for part in (module._modules, module._parameters, module._buffers))
        self._parts: list[dict[str, Any]] = [part for part in parts if part]
        self._members = [member for part in self._parts for member in part.values()]
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        self._hooks = [getattr(module, name) for module in modules for name in hooks]
        self._state: list[Tensor] = [*self._network.parameters(), *self._network.buffers()]
        self._seen: Counter[object] = Counter()
        self._recordings: dict[object, Function | None] = {}  # None where there can be none
        self._trees: dict[object, object] = {}  # what a recording's outputs are put into; None for a flat tuple

    def _outputs(self, form: object, network: NetworkT, inputs: tuple[Any, ...]) -> list[Tensor]:
        output: Any = self._function(network, *inputs)
        tensors: list[Tensor] = []
        if _form((output,), tensors) is None:
            raise NotRecorded(f"{type(output).__name__} is no tree of tensors on the CPU")
        is_flat = type(output) in (tuple, list) and len(tensors) == len(output)
        self._trees[form] = None if is_flat else _like(output, repeat(_NOTHING))
        return tensors

    def _is_changed(self) -> bool:
        found = chain.from_iterable(map(dict.values, self._parts))
        return sum(map(len, self._parts)) != len(self._members) or not all(map(is_, found, self._members))

    def _record(self, form: object, inputs: tuple[Any, ...], tensors: list[Tensor]) -> None:
        """Nothing, if it cannot be, or comes to other bits. Draws nothing from torch's stream and changes no buffer."""
        self._recordings[form] = None
        if any(parameter._backward_hooks for parameter in self._network.parameters()):
            return
        accelerator, text = accelerate.current(), None
        parameters, buffers = dict(self._network.named_parameters()), dict(self._network.named_buffers())

        def flat(*everything: Tensor) -> list[Tensor]:
            rest = iter(everything)
            held = {f"network.{name}": next(rest) for name in (*parameters, *buffers)}
            copy = _like(inputs, rest)
            holder = _Holder(self._network, lambda network: self._outputs(form, network, copy))
            outputs: list[Tensor] = torch.func.functional_call(holder, held, ())
            return outputs

        def result(function: Callable[..., Any]) -> tuple[Any, list[Tensor]]:
            """And what it changed: buffers and torch's stream."""
            torch.set_rng_state(random)
            copies = [buffer.clone() for buffer in buffers.values()]
            return function(*parameters.values(), *copies, *tensors), [*copies, torch.get_rng_state()]

        random = torch.get_rng_state()
        try:
            with torch.random.fork_rng(devices=()):
                module, _ = result(traced(flat))
                if any(map(_depends_on_values, module.graph.nodes)):
                    return
                if accelerator is not None:
                    text = accelerator.read(module, [*self._state, *tensors])
                _simplify(module)
                recording: Function = module.forward
                with torch.no_grad():
                    actual, ours = result(recording)
                expected, theirs = result(flat)
        except Exception:  # of whatever kind: the eager way, which comes to the same, has none
            return
        if len(actual) != len(expected) or not all(map(_same, [*actual, *ours], [*expected, *theirs])):
            return
        recordings = self._recordings  # those of now: another network's begin anew
        recordings[form] = recording
        # What changes buffers is compiled no more than what draws: each call would have to give them back.
        is_pure = all(map(torch.equal, ours, buffers.values()))
        if accelerator is not None and text is not None and is_pure:
            accelerator.submit(text, recording, lambda function: recordings.update({form: function}))


def record(function: Callable[..., OutputT]) -> Callable[..., OutputT]:
    """A function of tensors alone, as Recorded takes them."""
    return Recorded(lambda _, *inputs: function(*inputs), nn.Module())


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


def _depends_on_values(node: Any) -> bool:
    """The node's shape depends on numbers, which a recording would take for given."""
    if not isinstance(node.target, torch._ops.OpOverload) or torch.Tag.dynamic_output_shape not in node.target.tags:
        return False
    if node.target is not _ATEN.index.Tensor:
        return True
    indices = [index for index in node.args[1] if index is not None]
    return any(index.meta["tensor_meta"].dtype in (torch.bool, torch.uint8) for index in indices)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def _form(inputs: Sequence[Any], tensors: list[Tensor]) -> tuple[object, ...] | None:
    """What a recording takes for given, the tensors added to `tensors`; None if it is not all of trees on the CPU."""
    form: list[object] = []
    for part in inputs:
        if isinstance(part, Tensor):
            if not part.is_cpu:
                return None
            tensors.append(part)
            form += (part.shape, part.dtype, part.stride())
        elif part is None:
            form.append(None)
        elif isinstance(part, tuple | list):
            inner = _form(part, tensors)
            if inner is None:
                return None
            form.append(inner)
        elif isinstance(part, dict):
            inner = _form(tuple(part.values()), tensors)
            if inner is None:
                return None
            form.append((dict, *part, inner))
        elif is_dataclass(part):
            inner = _form(tuple(getattr(part, name) for name in part.__dataclass_fields__), tensors)
            if inner is None:
                return None
            form.append((type(part), inner))
        else:
            return None
    return tuple(form)


def _like(tree: Any, tensors: Iterator[Tensor]) -> Any:
    """A tree like this one, of these tensors."""
    if isinstance(tree, Tensor):
        return next(tensors)
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {key: _like(part, tensors) for key, part in tree.items()}
    kind: Callable[..., Any] = type(tree)
    if is_dataclass(tree):
        return kind(*[_like(getattr(tree, field.name), tensors) for field in fields(tree)])
    parts = [_like(part, tensors) for part in tree]
    return kind(*parts) if hasattr(tree, "_fields") else kind(parts)


_NOTHING = torch.empty(0)
