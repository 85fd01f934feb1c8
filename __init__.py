"""graftwork: reinforcement-learning agents for PyTorch and Gymnasium.

In short:

    import graftwork as gw
    run = gw.train("dqn/cartpole", seed=0)
    action = run.agent.predict(observation)
    agent = gw.load("runs/dqn-cartpole-0")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .networks import Encoder
    from .runs import Run, RunConfig, evaluate, load, load_encoder, resume, train

__all__ = ["Encoder", "Run", "RunConfig", "evaluate", "load", "load_encoder", "resume", "train"]

if not TYPE_CHECKING:  # a type checker would take a module with __getattr__ to have every name

    def __getattr__(name: str) -> object:
        """A public name, imported on its first use: torch takes seconds, and `graftwork --help` does without."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import networks, runs

        return getattr(networks if name == "Encoder" else runs, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
