"""Models of other libraries, read and written: so far of Stable-Baselines3."""

from .sb3_export import to_sb3
from .sb3_import import from_sb3

__all__ = ["from_sb3", "to_sb3"]
