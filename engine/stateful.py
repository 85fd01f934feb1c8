"""The one contract behind every checkpoint: explicit state out, the same state in."""

from typing import Protocol

from torch import nn

from ..envs.state import StateDict, expect_keys

__all__ = ["StateDict", "Stateful", "expect_keys", "load_weights"]


class Stateful(Protocol):
    """Whatever a checkpoint holds: after `load_state_dict(state_dict())` an object behaves bit for bit as before."""

    def state_dict(self) -> StateDict: ...

    def load_state_dict(self, state: StateDict) -> None:
        """Raise ValueError that names the first missing or unexpected key; nothing is reseeded."""


def load_weights(owner: str, module: nn.Module, state: StateDict) -> None:
    """Copy parameters and buffers into `module`; ValueError names any that is missing, unknown or of another shape."""
    current = module.state_dict()
    expect_keys(owner, state, set(current))
    for name, tensor in current.items():
        if state[name].shape != tensor.shape:
            raise ValueError(f"state of {owner}: {name} is {list(state[name].shape)}, this one {list(tensor.shape)}")
    module.load_state_dict(state)
