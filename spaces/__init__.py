"""What the observations of a gymnasium space look like as tensors; environments, networks and data sets agree on it."""

from .leaves import Leaf, leaves, one_line, to_arrays, to_tensors, zeros
from .tree import Observation, columns_of, first_leaf, map_leaves, observation_of, rows_of, stack, tensors_of

__all__ = [
    "Leaf",
    "Observation",
    "columns_of",
    "first_leaf",
    "leaves",
    "map_leaves",
    "observation_of",
    "one_line",
    "rows_of",
    "stack",
    "tensors_of",
    "to_arrays",
    "to_tensors",
    "zeros",
]
