"""graftwork: reinforcement-learning agents for PyTorch and Gymnasium.

In short:

    import graftwork as gw
    run = gw.train("dqn/cartpole", seed=0)
    action = run.agent.predict(observation)
    agent = gw.load("runs/dqn-cartpole-0")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine import gradient_check
    from .interop import from_sb3, to_sb3
    from .networks import Encoder, encoder_for, freeze
    from .runs import Run, RunConfig, TaskRunConfig, evaluate, load, load_encoder, resume, train, verify
    from .tasks import Dataset, Model, from_arrays

_HOMES = {
    "engine": ("gradient_check",),
    "interop": ("from_sb3", "to_sb3"),
    "networks": ("Encoder", "encoder_for", "freeze"),
    "runs": ("Run", "RunConfig", "TaskRunConfig", "evaluate", "load", "load_encoder", "resume", "train", "verify"),
    "tasks": ("Dataset", "Model", "from_arrays"),
}

__all__ = [
    "Dataset",
    "Encoder",
    "Model",
    "Run",
    "RunConfig",
    "TaskRunConfig",
    "encoder_for",
    "evaluate",
    "freeze",
    "from_arrays",
    "from_sb3",
    "gradient_check",
    "load",
    "load_encoder",
    "resume",
    "to_sb3",
    "train",
    "verify",
]

if not TYPE_CHECKING:  # a type checker would take a module with __getattr__ to have every name

    def __getattr__(name: str) -> object:
        """A public name, imported on its first use: torch takes seconds, and `graftwork --help` does without."""
        from importlib import import_module

        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f".{home}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
