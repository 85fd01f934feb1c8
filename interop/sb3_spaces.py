"""Gymnasium's spaces, from the text that Stable-Baselines3 puts beside their pickles."""

import re
from collections.abc import Mapping
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from .archive import shown

VectorSpace: TypeAlias = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
Attributes: TypeAlias = Mapping[str, Any]
"""Of a space, by name: numbers and lists, and the rest as `str` has it. A file's, so anything at all."""

_MOST_ENTRIES = 1 << 24  # of an observation
_FLOATS = ("float16", "float32", "float64")
_WHOLE = ("bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)))


def action_space(space: Attributes) -> spaces.Discrete:
    """The choices, counted from 0; ValueError, in one line, for any other space."""
    kind = _kind(space)
    if kind != "Discrete":
        raise ValueError(f"its action space is of kind {shown(kind)}; only Discrete actions can be imported")
    # Whatever the space's start: SB3 pays no heed to it, and gives environments numbers from 0.
    return spaces.Discrete(size("action_space.n", space.get("n")))


def observation_space(space: Attributes) -> VectorSpace:
    """The space, bounds as far as the text tells them; ValueError, in one line, for what is no vector of numbers."""
    kind = _kind(space)
    if kind == "Box":
        return _box(space)
    if kind in ("Discrete", "MultiDiscrete") and set(_words(space.get("start", 0))) - {"0"}:
        raise ValueError(f"observation_space.start={shown(space['start'])}: SB3's networks count from 0")
    if kind == "Discrete":
        return spaces.Discrete(size("observation_space.n", space.get("n")))
    if kind == "MultiDiscrete":
        sizes = [size("observation_space.nvec", number) for number in _words(space.get("nvec"))]
        if _shape(space) == (len(sizes),):
            return spaces.MultiDiscrete(sizes)
    if kind == "MultiBinary":
        shape = _shape(space)
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    known = "Box, Discrete, MultiBinary and flat MultiDiscrete spaces can be imported"
    raise ValueError(f"its observation space is of kind {shown(kind)}; {known}")


def is_image_of_bytes(space: spaces.Space[Any]) -> bool:
    """What SB3 divides by 255, whatever network sees it, and turns around where the channels come last."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return not space.low.any() and bool((space.high == 255).all())


def size(field: str, value: object, least: int = 1) -> int:
    """A whole number, perhaps written as text; ValueError, which names the field, for anything else."""
    number = int(str(value)) if re.fullmatch(r"\d{1,15}", str(value)) else -1
    if number < least:
        raise ValueError(f"{field}={shown(value)}: must be a whole number, at least {least}")
    return number


def class_name(text: object) -> str:
    """The class that a text such as "<class 'a.B'>" names; any other text as it is."""
    found = re.fullmatch(r"<class '([\w.]+)'>", str(text))
    return found[1] if found else str(text)


def _kind(space: Attributes) -> str:
    module, _, kind = class_name(space.get(":type:")).rpartition(".")
    return kind if module.startswith("gymnasium.spaces.") else f"{module}.{kind}"


def _box(space: Attributes) -> spaces.Box:
    shape, kind = _shape(space), space.get("dtype")
    if kind not in (*_FLOATS, *_WHOLE):
        raise ValueError(f"observation_space.dtype={shown(kind)}: must be a type of numbers")
    low, high = _bounds(space.get("low"), shape, kind, 0), _bounds(space.get("high"), shape, kind, 1)
    if (low > high).any():
        raise ValueError("observation_space: its low bounds are above its high ones")
    return spaces.Box(low, high, shape, low.dtype.type)


def _shape(space: Attributes) -> tuple[int, ...]:
    shape = space.get("_shape")
    if not isinstance(shape, list) or len(shape) > 8:
        raise ValueError(f"observation_space._shape={shown(shape)}: must be a list of sizes")
    sizes = tuple(size("observation_space._shape", length) for length in shape)
    if prod(sizes) > _MOST_ENTRIES:
        raise ValueError(f"observation_space._shape={shown(shape)}: has more than {_MOST_ENTRIES:,} entries")
    return sizes


def _bounds(text: object, shape: tuple[int, ...], kind: str, side: int) -> npt.NDArray[Any]:
    """An array as NumPy prints it; the type's own limit, low (side 0) or high (1), where it cannot be told.

    Of more than 1,000 numbers only the first and last along each axis are printed. Where these are one number, all are.
    """
    limits = _limits(kind)
    words = _words(text)
    try:
        numbers = [float(word) if kind in _FLOATS else int(word) for word in words if word != "..."]
    except ValueError:
        numbers = []
    inside = all(limits[0] <= number <= limits[1] for number in numbers)
    with np.errstate(over="ignore"):  # what is too large for a float becomes infinite
        if inside and len(numbers) == len(words) == prod(shape):
            return np.array(numbers, kind).reshape(shape)
        is_one_number = inside and "..." in words and len(set(numbers)) == 1
        return np.full(shape, numbers[0] if is_one_number else limits[side], kind)


def _limits(kind: str) -> tuple[float, float]:
    if kind in _FLOATS:
        return -np.inf, np.inf
    return (0, 1) if kind == "bool" else (int(np.iinfo(kind).min), int(np.iinfo(kind).max))


def _words(text: object) -> list[str]:
    """Numbers of an array, as NumPy prints it."""
    return re.sub(r"[\[\],]", " ", str(text)).split()
