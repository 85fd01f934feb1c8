"""Runs: the one place that knows every part."""

from .config import RunConfig, TaskRunConfig
from .run import evaluate, load, load_encoder, resume, train
from .session import Run
from .verify import Verification, verify

__all__ = [
    "Run",
    "RunConfig",
    "TaskRunConfig",
    "Verification",
    "evaluate",
    "load",
    "load_encoder",
    "resume",
    "train",
    "verify",
]
