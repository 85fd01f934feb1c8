"""What a model takes and what its heads tell, kept with a run so that it loads without data."""

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Self

import numpy as np
import torch
from gymnasium import spaces
from pydantic import Field, model_validator

from ..configs.config import Config
from ..spaces import leaves
from .dataset import Dataset

Positive = Annotated[int, Field(gt=0)]

_MOST_ENTRIES = 2**31  # of a row that could be in memory: a schema that was altered must not make arrays beyond it


class InputSchema(Config):
    """One row of input: as a Box of `shape`, or where `sizes` are given numbers of as many choices."""

    shape: tuple[Positive, ...]
    dtype: Annotated[str, Field(pattern=r"^(uint8|int64|float32)$")]
    sizes: tuple[Positive, ...] = ()  # of the choices, flattened; none for quantities
    characters: str = ""  # of a text
    is_sequence: bool = False  # a sample is a sequence of such rows

    @model_validator(mode="after")
    def _is_of_a_space(self) -> Self:
        entries = prod(self.shape)
        if entries > _MOST_ENTRIES or len(self.sizes) not in (0, entries) or (self.dtype == "int64" and not self.sizes):
            raise ValueError(f"shape={self.shape}, dtype={self.dtype}, sizes={self.sizes[:9]}: no inputs are like that")
        if self.characters and (len(self.shape) != 1 or self.dtype != "int64"):
            raise ValueError(f"characters={self.characters!r}: a text is a row of numbers of characters")
        return self

    def space(self) -> spaces.Space[Any]:
        if self.characters:
            return spaces.Text(self.shape[0], charset=self.characters)
        if self.sizes and self.dtype == "uint8":
            return spaces.MultiBinary(self.shape)
        if self.sizes and not self.shape:
            return spaces.Discrete(self.sizes[0])
        if self.sizes:
            return spaces.MultiDiscrete(np.array(self.sizes).reshape(self.shape))
        if self.dtype == "uint8":
            return spaces.Box(0, 255, self.shape, np.uint8)
        return spaces.Box(-np.inf, np.inf, self.shape, np.float32)

    def __str__(self) -> str:
        choices = f" of {', '.join(map(str, sorted(set(self.sizes))))} choices" if self.sizes else ""
        return f"{'sequences of ' if self.is_sequence else ''}{list(self.shape)} {self.dtype}{choices}"


class HeadSchema(Config):
    """What one head tells."""

    target: str
    classes: tuple[str, ...] = ()  # names; none for a regression
    shape: tuple[Positive, ...] = ()  # of a regression's numbers
    per_row: bool = False  # of each row of a sequence, not of the whole
    given: str | None = None  # the target by whose class the head's predictions are told apart
    choices: Annotated[int, Field(ge=0)] = 0  # classes of that

    @model_validator(mode="after")
    def _is_given_all_or_nothing(self) -> Self:
        if (self.given is None) != (self.choices == 0):
            raise ValueError(f"given={self.given}, choices={self.choices}: one needs the other")
        return self

    @property
    def is_regression(self) -> bool:
        return not self.classes


class Schema(Config):
    inputs: InputSchema
    heads: Annotated[dict[str, HeadSchema], Field(min_length=1)]

    @property
    def observation_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.inputs.dtype)
        return dtype


def schema_of(datasets: Mapping[str, Dataset], targets: Mapping[str, str], given: Mapping[str, str | None]) -> Schema:
    """The schema of heads on data, each by the head's name.

    ValueError if inputs differ, or a target cannot be `given`.
    """
    heads, forms = {}, {}
    for name, dataset in datasets.items():
        forms[name] = _inputs(dataset)
        target = dataset.target(targets[name])
        shape = tuple(target.values.shape[1:]) if target.num_classes is None else ()
        condition, choices = given[name], 0
        if condition is not None:
            of = dataset.target(condition)
            if of.num_classes is None or of.values.ndim > 1:
                raise ValueError(f"task.heads.{name}.given={condition}: must be a target that is one class a sample")
            if target.num_classes is not None:
                raise ValueError(
                    f"task.heads.{name}.given={condition}: only predictions of numbers are told apart by it"
                )
            choices = of.num_classes
        heads[name] = HeadSchema(
            target=targets[name],
            classes=target.names,
            shape=shape,
            per_row=target.num_classes is not None and target.values.ndim > 1,
            given=condition,
            choices=choices,
        )
    first = next(iter(forms))
    for name, form in forms.items():
        if form != forms[first]:
            raise ValueError(
                f"task.heads.{name}.data: inputs are {form}, but those of {first} are {forms[first]}; "
                "one trunk takes one form"
            )
    return Schema(inputs=forms[first], heads=heads)


def _inputs(dataset: Dataset) -> InputSchema:
    leaf = leaves(dataset.space)[""]
    space, characters = leaf.space, ""
    sizes: tuple[int, ...] = ()
    if isinstance(space, spaces.Discrete):
        sizes = (int(space.n),)
    elif isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(size) for size in space.nvec.flatten())
    elif isinstance(space, spaces.MultiBinary):
        sizes = (2,) * prod(leaf.shape)
    elif isinstance(space, spaces.Text):
        characters = space.characters
        sizes = (len(characters) + 1,) * space.max_length
    return InputSchema(
        shape=leaf.shape,
        dtype=str(dataset.inputs.dtype).removeprefix("torch."),
        sizes=sizes,
        characters=characters,
        is_sequence=dataset.lengths is not None,
    )
