"""Configuration: the base that every config derives from, presets, YAML files and overrides."""

from .check import validate
from .config import Config
from .loader import Preset, dump, load, override, presets
from .suggest import nearest, suggest
from .yaml_text import ConfigError, Tree, Value

__all__ = [
    "Config",
    "ConfigError",
    "Preset",
    "Tree",
    "Value",
    "dump",
    "load",
    "nearest",
    "override",
    "presets",
    "suggest",
    "validate",
]
