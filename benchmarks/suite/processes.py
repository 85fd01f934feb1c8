"""Runs a workload: every side in turn, each run in a process of its own.

This process imports nothing heavy: on Linux a child's peak memory is never less than what its parent had.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .clock import Metrics
from .compiled import CACHE
from .settings import Device
from .workloads import Scale, Side, Workload

Say = Callable[[str], None]

WARM_UP_SEED = 1_000


@dataclass
class Outcome:
    """Of a workload."""

    runs: dict[str, list[Metrics]] = field(default_factory=dict)  # by side, those that count
    warm_ups: dict[str, Metrics] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # sides, and why


class Failed(Exception):
    """A run did not end well; says so in one line."""


def run(
    name: str, workload: Workload, scale: Scale, device: Device, repeats: int, say: Say, *, fill: float = 0.0
) -> Outcome:
    """A side that cannot be run, or fails, is one line and left out; the others go on.

    fill: seconds that each side of ours may take before to have everything compiled; 0 leaves it to the measured runs.
    """
    outcome = Outcome(left_out=dict(workload.absent))
    sides = dict(workload.sides)
    for side, why in outcome.left_out.items():
        say(f"{name}: {side} is left out: {why}")

    def leave_out(side: str, why: str) -> None:
        del sides[side]
        outcome.runs.pop(side, None)
        outcome.left_out[side] = why
        say(f"{name}: {side} is left out: {why}")

    for side, what in workload.sides.items():
        lacking = missing(what)
        if lacking:
            leave_out(side, f"{lacking} is not installed")
    with caches() as environment:
        for side, what in list(sides.items()) if fill else []:
            if what.is_ours:
                try:
                    child([name, side, "--fill", str(fill)], scale, device, WARM_UP_SEED, environment, fill + 60.0)
                except Failed as failure:
                    leave_out(side, str(failure))
        for number in range(-1 if workload.warms_up else 0, repeats):
            for side, what in list(sides.items()):
                seed = WARM_UP_SEED if number < 0 else number
                # What others keep from one process to the next is read, not compiled: their first step is enough.
                options = ["--only-start"] if number < 0 and scale is not Scale.FULL and not what.is_ours else []
                try:
                    found = child([name, side, *options], scale, device, seed, environment, workload.timeout)
                except Failed as failure:
                    leave_out(side, str(failure))
                    continue
                if number < 0:
                    outcome.warm_ups[side] = found
                else:
                    outcome.runs.setdefault(side, []).append(found)
                say(f"{name}: {side}, {'warm-up' if number < 0 else f'run {number + 1} of {repeats}'}: {_short(found)}")
    return outcome


def missing(side: Side) -> str:
    """The first module that the side needs and that is not there; empty if none."""
    return next((name for name in side.needs if importlib.util.find_spec(name) is None), "")


@contextmanager
def caches() -> Iterator[dict[str, str]]:
    """An environment for children, of one thread, whose compiled artefacts are new with this workload."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    here = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield {
            **os.environ,
            **threads,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(here), os.environ.get("PYTHONPATH")))),
            CACHE: f"{folder}/graftwork",
            "XDG_CACHE_HOME": f"{folder}/cache",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
            "TRITON_CACHE_DIR": f"{folder}/triton",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }


def child(
    side: list[str], scale: Scale, device: Device, seed: int, environment: dict[str, str], timeout: float
) -> Metrics:
    """One run, in an empty folder; Failed in one line. side: a workload, a side and options, as child.py takes them."""
    options = ["--scale", scale.value, "--device", device, "--seed", str(seed), "--started", repr(time.time())]
    command = [sys.executable, "-P", "-m", "suite.child", *side, *options]
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"no end after {timeout:.0f} seconds") from error
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise Failed(f"exit status {done.returncode}: {reason(done.stderr)}")
    found: Metrics = json.loads(lines[-1])
    return found


def failed(outcome: Outcome, workload: Workload) -> bool:
    """Ours is among what could not be run, though it is there to be."""
    return any(what.is_ours and side in outcome.left_out for side, what in workload.sides.items())


def reason(errors: str) -> str:
    """The line of a traceback that says what went wrong."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|NotFound|Failure)\b", line)]
    return ([*lines, *named] or ["no word why"])[-1][:300]


def _short(found: Metrics) -> str:
    names = ("steps_per_second", "first_step_seconds", "solved_seconds", "peak_megabytes")
    shown = [f"{found[name]:,.1f} {name}" for name in names if found.get(name) is not None]
    return ", ".join(shown) or ", ".join(f"{value:.3g} {name}" for name, value in found.items() if value is not None)
