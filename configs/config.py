"""The base of every configuration object."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """An immutable, fully typed configuration: unknown fields are errors, numbers are never silently converted to text.

    Nor is true or false to a number; an integer may be written as a float that is one, such as 1e6. Fields of a part of
    several kinds that are given without a kind change what its default is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bool_is_no_number(cls, tree: Any) -> Any:
        # pydantic takes true for 1. A validator of each field would do, but a discriminator (`kind`) may not have one.
        if not isinstance(tree, dict):
            return tree
        numeric = (name for name, field in cls.model_fields.items() if name in tree and _is_number(field.annotation))
        return {**tree, **{name: _without_bool(tree[name]) for name in numeric}}

    @model_validator(mode="before")
    @classmethod
    def _no_kind_is_the_default_s(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        parts = {name: cls.model_fields[name].default for name in cls.model_fields.keys() & tree.keys()}
        changed = (
            (name, default)
            for name, default in parts.items()
            if isinstance(tree[name], dict) and "kind" not in tree[name]
            if isinstance(default, Config) and "kind" in type(default).model_fields
        )
        return {**tree, **{name: {**default.model_dump(), **tree[name]} for name, default in changed}}


def _is_number(annotation: object) -> bool:
    types = set(_leaves(annotation))
    return bool(types & {int, float}) and not types & {bool, str}


def _leaves(annotation: object) -> Iterator[object]:
    """The types that an annotation is put together from."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _leaves(argument)


def _without_bool(value: Any) -> Any:
    """The value with text, which is no number, in place of true and false."""
    if isinstance(value, list | tuple):
        return [_without_bool(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else value
