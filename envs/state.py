"""What states are made of, here and in every layer above."""

from collections.abc import Mapping
from typing import Any, TypeAlias

# A nested tree of tensors, lists and plain JSON values. `Any` as in torch's own state_dict: a reader knows the type of
# each entry of its own state, `expect_keys` checks that the entries are there, and training/checkpoint.py refuses other
# leaves.
StateDict: TypeAlias = dict[str, Any]


def expect_keys(owner: str, state: Mapping[str, object], keys: set[str]) -> None:
    """Raise ValueError that names the keys of `state` that `owner` misses or does not know."""
    missing, unexpected = sorted(keys - state.keys()), sorted(state.keys() - keys)
    if missing or unexpected:
        raise ValueError(f"state of {owner}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}")
