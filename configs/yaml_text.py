"""YAML as configurations use it: plain values only, and none of YAML 1.1's surprises.

`1e-3` is a number (YAML 1.1 reads text), `no` and `12:30` are text (it reads False and 750), and a repeated key is an
error (it keeps the last one in silence). Scalars follow YAML 1.2's core schema, plus `1_000`.
"""

import re
from typing import TypeAlias

import yaml

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Tree: TypeAlias = dict[str, Value]


class ConfigError(ValueError):
    """A configuration that can't be used; its text is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def parse(text: str, name: str) -> Value:
    """The value that a YAML document holds; `name` is what errors call it.

    Raises ConfigError, with the line, for bad YAML, a repeated key, a key that is not text, or a tag of another type.
    """
    try:
        # BaseLoader builds no objects and resolves nothing: what a node means is decided below.
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        return None if node is None else _value(node)
    except yaml.MarkedYAMLError as error:
        # An override is one line; it needs no number.
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark and "\n" in text else ""
        raise ConfigError(f"{name}{where}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None


def parse_argument(text: str, name: str) -> Value:
    """The value of an override: a YAML flow value (`[0, 2]`, `{kind: mlp}`, `"3"`), or else one scalar, taken whole.

    Taken whole: ` #`, `: ` or a leading `*` start nothing special on a command line.
    """
    text = text.strip()
    return parse(text, name) if text.startswith(("[", "{", '"', "'")) else _scalar(text)


def render(value: Value) -> str:
    """The value as YAML text that `parse` reads back exactly, floats included, and so do YAML 1.1 readers."""
    return _dump(value, flow_style=False)


def one_line(value: Value, limit: int = 60) -> str:
    """The value as an error message shows it: as it would be typed, cut at `limit` characters."""
    text = " ".join(_dump(value, flow_style=True).removesuffix("...\n").split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_SCALARS = {
    "null": re.compile(r"(?:~|null|Null|NULL|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(rf"[-+]?{_DIGITS}\Z"),
    "float": re.compile(
        rf"(?:[-+]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}


def _scalar(text: str) -> bool | int | float | str | None:
    match next((tag for tag, pattern in _SCALARS.items() if pattern.match(text)), "str"):
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "float":
            return float(re.sub(r"\.(?=[ni])", "", text.lower()))
        case _:
            return text


_TAG = "tag:yaml.org,2002:"


def _value(node: yaml.Node) -> Value:
    if not node.tag.startswith(_TAG) or node.tag[len(_TAG) :] not in ("str", "seq", "map"):
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} is not supported", problem_mark=node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node)
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
    try:
        return str(node.value) if quoted else _scalar(node.value)
    except ValueError as error:  # an integer of thousands of digits
        raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from None


def _mapping(node: yaml.MappingNode) -> Tree:
    tree: Tree = {}
    for key_node, value_node in node.value:
        key = _value(key_node)
        if not isinstance(key, str):
            problem = f"the key {one_line(key)} is not text"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        if key in tree:
            raise yaml.MarkedYAMLError(problem=f"the key {key} is there twice", problem_mark=key_node.start_mark)
        tree[key] = _value(value_node)
    return tree


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_sequence_in_line(self, data: list[Value]) -> yaml.SequenceNode:
        node = self.represent_list(data)
        node.flow_style = all(isinstance(item, yaml.ScalarNode) for item in node.value) or None
        return node


for _name, _pattern in _SCALARS.items():
    # On top of YAML 1.1's own: text that either dialect would read as something else is quoted.
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, None)
_Dumper.add_representer(list, _Dumper.represent_sequence_in_line)


def _dump(value: Value, flow_style: bool) -> str:
    width = 1 << 20  # never folded
    return yaml.dump(
        value, Dumper=_Dumper, default_flow_style=flow_style, sort_keys=False, allow_unicode=True, width=width
    )
