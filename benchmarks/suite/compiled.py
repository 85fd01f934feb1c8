"""A run that is there to have everything compiled, as an earlier and longer one with the same settings would have."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

from .settings import A2C, DQN, Limits, Preset, Reinforce, Settings

CACHE = "GRAFTWORK_CACHE"  # the variable that says where compiled graphs are kept
_LONGER = 200  # times
_SETTLED = 8.0  # seconds without anything new


def longer(settings: Settings) -> Settings:
    """The same for so many steps that compiling pays."""
    match settings:
        case DQN():
            fraction = settings.epsilon_fraction / _LONGER
            return dataclasses.replace(settings, steps=settings.steps * _LONGER, epsilon_fraction=fraction)
        case Reinforce() | A2C():
            return dataclasses.replace(settings, steps=settings.steps * _LONGER)
        case Preset():
            steps = _LONGER * (settings.steps or 50_000)
            return dataclasses.replace(settings, overrides=(*settings.overrides, f"steps={steps}"))
        case Limits():
            return settings


def fill(seconds: float) -> None:
    """Interrupts this process, as Ctrl-C does, once what it began to compile is there, or after so many seconds."""
    directory = Path(os.environ[CACHE])

    def watch() -> None:
        deadline, settled_at = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < deadline and time.monotonic() - settled_at < _SETTLED:
            if not has_settled(directory):
                settled_at = time.monotonic()
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def has_settled(directory: Path) -> bool:
    """Something has been compiled, and all that was begun."""
    begun = list(directory.rglob("*.json"))
    return bool(begun) and all((source.with_suffix("") / "model.so").exists() for source in begun)
