"""The operations that torch runs for a function of tensors, as a graph."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

MOST_OPERATIONS = 5_000  # of a graph: with more, as of an LSTM over 500 rows, to make one takes longer than it saves


class Form(NamedTuple):
    """Of the tensor that a node gives; its `meta["tensor_meta"]`, as torch's own passes call it."""

    shape: torch.Size
    dtype: torch.dtype


def traced(function: Callable[..., Sequence[Tensor]]) -> Callable[..., fx.GraphModule]:
    """A call of it runs `function` of the tensors given, and returns a module that does the same operations again.

    They are those below autograd: of the forward pass, and of a backward pass that the function asks for. Tensors that
    are neither given nor made on the way become constants. RuntimeError if one is read as a number, as by `item`, or
    if there are more than MOST_OPERATIONS.

    torch's make_fx comes to the same graph in ten times the time, and imports torch.compile, which takes longer than
    torch itself to import, and 90 MB.
    """

    def trace(*tensors: Tensor) -> fx.GraphModule:
        operations = _Operations(tensors)
        with operations:
            outputs = function(*tensors)
        return operations.module(outputs)

    return trace


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Those that run while it is entered."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._root = fx.Graph(), nn.Module()
        self._nodes: dict[int, tuple[fx.Node, Tensor]] = {}  # by id, which comes again once the tensor is gone
        self._num_constants = 0
        for index, tensor in enumerate(tensors):
            self._note(self._graph.placeholder(f"tensor_{index}"), tensor)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise RuntimeError(f"{func} reads a number, on which the next operations may depend")
        if len(self._graph.nodes) > MOST_OPERATIONS:
            raise RuntimeError(f"there are more than {MOST_OPERATIONS:,} operations")
        if func is torch.ops.aten.lift_fresh.default:
            # torch.tensor(...): what is made of it, perhaps in place, is of a fresh copy each time.
            func = torch.ops.aten.lift_fresh_copy.default
        named = dict(kwargs or {})
        node = self._graph.call_function(func, self._argument(args), self._argument(named))
        result = func(*args, **named)
        self._note(node, result)
        return result

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's switch. Where it is on, as it is unless a class says so, torch.compile is imported to be told to skip
        # our method.
        return False

    def module(self, outputs: Sequence[Tensor]) -> fx.GraphModule:
        """Of all that ran."""
        self._graph.output(self._argument(list(outputs)))
        return fx.GraphModule(self._root, self._graph)

    def _note(self, node: fx.Node, result: Any) -> None:
        if isinstance(result, Tensor):
            node.meta["tensor_meta"] = Form(result.shape, result.dtype)
            self._nodes[id(result)] = node, result
        elif isinstance(result, tuple | list):
            for index, part in enumerate(result):
                self._note(self._graph.call_function(getitem, (node, index)), part)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._nodes[id(value)][0] if id(value) in self._nodes else self._constant(value)
        if isinstance(value, tuple | list):
            return type(value)(map(self._argument, value))
        if isinstance(value, dict):
            return {name: self._argument(part) for name, part in value.items()}
        return value

    def _constant(self, tensor: Tensor) -> fx.Node:
        name = f"constant_{self._num_constants}"
        self._num_constants += 1
        self._root.register_buffer(name, tensor)
        node = self._graph.get_attr(name)
        self._note(node, tensor)
        return node
