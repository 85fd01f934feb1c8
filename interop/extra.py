"""What other libraries' files need of other libraries, imported when it is asked for."""

import importlib
from types import ModuleType


def stable_baselines3() -> ModuleType:
    """The library, imported on the first call; ValueError that says how to install it where it is not."""
    try:
        return importlib.import_module("stable_baselines3")
    except ModuleNotFoundError as error:
        if error.name != "stable_baselines3":  # it is there, and lacks something itself
            raise
        raise ValueError("stable-baselines3 is not installed: pip install 'graftwork[sb3]'") from error
