"""A recorded graph of torch's operations as text, and back: what another process compiles, and what it is known by."""

import json
import operator
from typing import Any

import torch
from torch import Tensor, fx

MOST_CONSTANTS = 4096  # numbers of a constant that is written out


class NotText(ValueError):
    """The graph has something that cannot be written down."""


def to_text(module: fx.GraphModule, inputs: list[Tensor]) -> str:
    """The same text for the same operations on inputs of the same form; NotText if they are not a pure function."""
    nodes: list[Any] = []
    names: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        if node.op == "output":
            entry: Any = ["output", _plain(node.args[0], names)]
        elif node.op == "placeholder":
            entry = ["input"]
        elif node.op == "get_attr":
            entry = ["constant", _constant(getattr(module, str(node.target)))]
        elif isinstance(node.target, torch._ops.OpOverload):
            if node.target._schema.is_mutable or torch.Tag.nondeterministic_seeded in node.target.tags:
                raise NotText(f"{node.target} changes what it is given, or draws random numbers")
            if node.kwargs.get("alpha", 1) != 1 and node.meta["tensor_meta"].dtype.is_floating_point:
                raise NotText("a sum with a factor (alpha), which torch rounds in ways that depend on the place")
            kwargs = {name: _plain(value, names) for name, value in node.kwargs.items()}
            entry = ["call", str(node.target), [_plain(value, names) for value in node.args], kwargs]
        elif node.target is operator.getitem:
            entry = ["entry", *(_plain(value, names) for value in node.args)]
        else:
            raise NotText(f"{node.target} is no operation of torch")
        names[node] = len(nodes)
        nodes.append(entry)
    return json.dumps({"inputs": [_form(each) for each in inputs], "nodes": nodes})


def from_text(text: str) -> tuple[fx.GraphModule, list[Tensor]]:
    """The graph, and inputs of its form, whose numbers are nobody's: a replay's rows would not be there twice."""
    content = json.loads(text)
    graph, root = fx.Graph(), torch.nn.Module()
    nodes: list[fx.Node] = []
    for kind, *rest in content["nodes"]:
        if kind == "output":
            node = graph.output(_real(rest[0], nodes))
        elif kind == "input":
            node = graph.placeholder(f"input_{len(nodes)}")
        elif kind == "constant":
            name = f"constant_{len(nodes)}"
            root.register_buffer(name, torch.tensor(rest[0]["numbers"], dtype=_dtype(rest[0]["dtype"])))
            node = graph.get_attr(name)
        elif kind == "entry":
            node = graph.call_function(operator.getitem, tuple(_real(rest, nodes)))
        else:
            target, args, kwargs = rest
            real = {name: _real(value, nodes) for name, value in kwargs.items()}
            node = graph.call_function(_operation(target), tuple(_real(args, nodes)), real)
        nodes.append(node)
    module = fx.GraphModule(root, graph)
    return module, [_empty(*form) for form in content["inputs"]]


def _plain(value: Any, names: dict[fx.Node, int]) -> Any:
    if isinstance(value, fx.Node):
        return {"node": names[value]}
    if isinstance(value, list | tuple):
        return [_plain(each, names) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for kind in _KINDS:
        if isinstance(value, kind):
            return {kind.__name__: str(value).removeprefix("torch.")}
    raise NotText(f"an argument of {type(value).__name__}")


def _real(value: Any, nodes: list[fx.Node]) -> Any:
    if isinstance(value, list):
        return [_real(each, nodes) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, told),) = value.items()
    if kind == "node":
        return nodes[told]
    return torch.device(told) if kind == "device" else getattr(torch, told)


def _constant(value: Any) -> dict[str, Any]:
    if not isinstance(value, Tensor) or value.numel() > MOST_CONSTANTS:
        raise NotText("a large constant")
    return {"dtype": _name(value.dtype), "numbers": value.tolist()}


def _form(value: Tensor) -> list[Any]:
    return [list(value.shape), list(value.stride()), _name(value.dtype)]


def _empty(shape: list[int], stride: list[int], dtype: str) -> Tensor:
    return torch.empty_strided(shape, stride, dtype=_dtype(dtype))


def _operation(name: str) -> torch._ops.OpOverload:
    namespace, packet, overload = name.split(".")
    operation = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    assert isinstance(operation, torch._ops.OpOverload)
    return operation


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


_KINDS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
