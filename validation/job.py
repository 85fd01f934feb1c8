"""One training run of one side of a comparison: what a process of its own is asked, and what it answers."""

import json
import os
import resource
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

import torch

from ..configs import Tree, validate
from ..configs.config import Config
from ..runs import RunConfig
from ..runs.machine import machine_of, processor
from .arguments import Arguments
from .record import Hardware, SideName
from .settings import Settings

JOB, RESULT, LOG = "job.json", "result.json", "log.txt"


class Job(Config):
    side: SideName
    seed: int
    config: RunConfig  # with the seed
    arguments: Arguments | None  # of SB3's model; None: ours
    settings: Settings  # of the side
    episodes: int  # at the end


class Trained(Config):
    """What either side's training came to."""

    steps: int
    curve: tuple[tuple[int, float], ...]  # step and mean return of each evaluation along the way
    final: float  # mean return of fresh episodes
    seconds: float  # of training, evaluations left out
    steps_per_second: float
    peak_megabytes: float


class Result(Config):
    job: Job
    trained: Trained
    versions: dict[str, str]
    machine: Hardware


Kind = TypeVar("Kind", Job, Result)


def read_job(directory: Path) -> Job:
    return _read(directory / JOB, Job)


def read_result(directory: Path) -> Result:
    return _read(directory / RESULT, Result)


def versions(config: RunConfig) -> dict[str, str]:
    """Of Python and what a result of either side depends on."""
    own = machine_of(config, torch.device("cpu"), 1).versions
    return {**own, "stable-baselines3": version("stable-baselines3")}


def hardware() -> Hardware:
    return Hardware(processor=processor(), cores=cores(), threads=1)


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_megabytes() -> float:
    """The most memory that this process has had at once."""
    status = Path("/proc/self/status")
    if status.is_file():  # rusage would count what the parent had before it became this process
        kilobytes = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        if kilobytes:
            return int(kilobytes[0]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1024**2


def _read(path: Path, kind: type[Kind]) -> Kind:
    try:
        tree: Tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON; delete it, and that seed is run again") from error
    return validate(kind, tree, str(path))
