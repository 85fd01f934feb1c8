"""What pydantic finds wrong with a configuration, as one line that a person can act on."""

import re
from collections.abc import Iterator, Sequence
from typing import TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .config import Config
from .suggest import nearest, suggest
from .yaml_text import ConfigError, Tree, Value, one_line

ConfigType = TypeVar("ConfigType", bound=Config)
FieldPath = tuple[str | int, ...]


def validate(model: type[ConfigType], tree: Tree, source: str = "") -> ConfigType:
    """The tree as a `model`; `source` is the file or preset that an error names, if any.

    Raises ConfigError for the first problem: the dotted field, the value, what is allowed, and the name meant if one is
    close. A ValueError from a model's own validator is passed on as it is, after the field it belongs to.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        problems = _problems(model, tree, error)
    notes = [f"in {source}"] if source else []
    notes += [f"and {len(problems) - 1} more"] if len(problems) > 1 else []
    raise ConfigError(problems[0] + (f" ({', '.join(notes)})" if notes else ""))


_RULES = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of fields",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be an integer",
    "int_parsing": "must be an integer",
    "int_type": "must be an integer",
    "list_type": "must be a list",
    "missing": "required, but missing",
    "model_attributes_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


def _problems(model: type[Config], tree: Tree, error: ValidationError) -> list[str]:
    found: dict[FieldPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        found.setdefault(_path(tree, details), []).append(details)
    # A union reports each member that it tried; a problem inside one of them says more than "must be a number".
    told = [path for path in found if not any(len(other) > len(path) and other[: len(path)] == path for other in found)]
    # A misspelt name comes before the field that it leaves missing.
    told.sort(key=lambda path: found[path][0]["type"] != "extra_forbidden")
    return [_explain(model, tree, path, found[path]) for path in told]


def _path(tree: Tree, details: ErrorDetails) -> FieldPath:
    """Where in the tree the problem is: pydantic's location without the names of the union members on the way."""
    value: Value = tree
    path: FieldPath = ()
    location = details["loc"]
    for depth, key in enumerate(location):
        if isinstance(value, dict) and key in value:
            value = value[str(key)]
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        elif not (details["type"] == "missing" and depth == len(location) - 1):
            continue
        path += (key,)
    return (*path, "kind") if details["type"].startswith("union_tag") else path


def _explain(model: type[Config], tree: Tree, path: FieldPath, alternatives: Sequence[ErrorDetails]) -> str:
    details = alternatives[0]
    name = _dotted(path)
    value = _at(tree, path)
    raised = details.get("ctx", {}).get("error")
    if raised is not None:
        return f"{name}: {raised}" if name and not str(raised).startswith(f"{name}.") else str(raised)
    match details["type"]:
        case "extra_forbidden":
            rule = f"unknown field{_meant_field(model, tree, path)}"
        case "union_tag_invalid" | "union_tag_not_found":
            kinds = _kinds(_classes(model, tree, path[:-1]))
            rule = f"must be one of {', '.join(map(repr, kinds))}"
            if details["type"] == "union_tag_not_found":
                return f"{name}: {_RULES['missing']}; {rule}"
            rule += suggest(str(value), kinds)
        case "missing":
            return f"{name}: {_RULES['missing']}"
        case "model_attributes_type" if value in (kinds := _kinds(_classes(model, tree, path))):
            rule = f"{_RULES['model_attributes_type']}; did you mean {name}.kind={value}?"
        case "model_type" if any(type(None) in get_args(each) for each in _annotations(model, tree, path)):
            rule = f"{_RULES['model_type']}, {{}} for its defaults or null for none"
        case _:
            rules = dict.fromkeys(map(_rule, alternatives))
            rule = " or ".join([next(iter(rules)), *(rule.removeprefix("must be ") for rule in [*rules][1:])])
            expected = [word for each in alternatives for word in _words(each)]
            rule += suggest(str(value), expected)
    return f"{name}={one_line(value)}: {rule}" if name else rule


def _rule(details: ErrorDetails) -> str:
    said = details["msg"].replace(" after validation", "")
    return _RULES.get(details["type"]) or re.sub(r"^\w+ should ", "must ", said)


def _words(details: ErrorDetails) -> list[str]:
    return re.findall(r"'([^']*)'", details.get("ctx", {}).get("expected", "")) if "ctx" in details else []


def _meant_field(model: type[Config], tree: Tree, path: FieldPath) -> str:
    name, owner = str(path[-1]), path[:-1]
    elsewhere = {dotted for dotted in _fields([model], tree, "", 3) if dotted.endswith(f".{name}") or dotted == name}
    if len(elsewhere := elsewhere - {_dotted(path)}) == 1:
        return f"; did you mean {elsewhere.pop()}?"
    members = [found for each in _annotations(model, tree, owner) for found in _models(each)]
    if kinds := _kinds([member for member in members if name in member.model_fields]):
        return f"; {_dotted((*owner, 'kind'))}={' or '.join(kinds)} has it"
    here = sorted({field for found in _classes(model, tree, owner) for field in found.model_fields})
    near = nearest(name, here)
    return f"; did you mean {_dotted((*owner, near))}?" if near else f"; allowed: {', '.join(here)}"


def _fields(classes: Sequence[type[BaseModel]], value: Value, prefix: str, depth: int) -> Iterator[str]:
    """Dotted names of every field down to `depth`: a model may contain itself."""
    for owner in _narrowed(classes, value):
        for name, field in owner.model_fields.items():
            yield prefix + name
            if depth > 1:
                inner = value.get(name) if isinstance(value, dict) else None
                parts = {name: inner}
                if _is_mapping(field.annotation):
                    parts = {f"{name}.{key}": part for key, part in inner.items()} if isinstance(inner, dict) else {}
                for key, part in parts.items():
                    yield from _fields(_models(field.annotation), part, f"{prefix}{key}.", depth - 1)


def _classes(model: type[Config], tree: Tree, path: FieldPath) -> list[type[BaseModel]]:
    """The models that the value at `path` may be, by its annotation and its kind."""
    classes: list[type[BaseModel]] = [model]
    in_mapping = False  # the next key is an entry's, of any name
    for depth, key in enumerate(path):
        if in_mapping or isinstance(key, int):
            in_mapping = False
        else:
            annotations = [owner.model_fields[key].annotation for owner in classes if key in owner.model_fields]
            classes = [found for annotation in annotations for found in _models(annotation)]
            in_mapping = any(map(_is_mapping, annotations))
        classes = _narrowed(classes, _at(tree, path[: depth + 1]))
    return classes


def _annotations(model: type[Config], tree: Tree, path: FieldPath) -> list[object]:
    """Of the field at `path`, in each of the models that may own it; none of an entry in a mapping."""
    *above, name = path or ("",)
    return [
        owner.model_fields[name].annotation
        for owner in _classes(model, tree, tuple(above))
        if name in owner.model_fields
    ]


def _is_mapping(annotation: object) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(each) for each in get_args(annotation))


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in get_args(annotation) for found in _models(argument)]


def _narrowed(classes: Sequence[type[BaseModel]], value: Value) -> list[type[BaseModel]]:
    kind = value.get("kind") if isinstance(value, dict) else None
    return [owner for owner in classes if kind in _kinds([owner])] or list(classes)


def _kinds(classes: Sequence[type[BaseModel]]) -> list[str]:
    owners = [owner for owner in classes if "kind" in owner.model_fields]
    return [kind for owner in owners for kind in get_args(owner.model_fields["kind"].annotation)]


def _at(tree: Tree, path: FieldPath) -> Value:
    value: Value = tree
    for key in path:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
    return value


def _dotted(path: FieldPath) -> str:
    return ".".join(map(str, path))
