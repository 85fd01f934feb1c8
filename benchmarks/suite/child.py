"""One run of one side in a process of its own; prints its metrics as the last line. Started by `processes.py`."""

import argparse
import importlib
from collections.abc import Callable

from .clock import Clock, Enough, Metrics
from .compiled import fill, longer
from .settings import Settings
from .workloads import Scale, workload


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload")
    parser.add_argument("side")
    parser.add_argument("--scale", choices=[scale.value for scale in Scale], required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--only-start", action="store_true", help="ends with the first environment step")
    parser.add_argument("--fill", type=float, help="train for longer, up to so many seconds, until all is compiled")
    parser.add_argument("--started", type=float, required=True)
    arguments = parser.parse_args()
    found = workload(arguments.workload, Scale(arguments.scale), arguments.device)
    side = found.sides[arguments.side]
    settings: Settings = side.settings
    clock = Clock(arguments.started, "start" if arguments.only_start else found.goal, settings.skip)
    module, _, name = side.run.partition(":")
    if arguments.fill is not None:
        settings = longer(settings)
        fill(arguments.fill)
    try:
        run: Callable[..., Metrics] = getattr(importlib.import_module(module, __package__), name)
        metrics = run(settings, clock, arguments.seed)
    except Enough:
        metrics = clock.report(None)
    clock.print_and_exit(metrics)


if __name__ == "__main__":
    main()
