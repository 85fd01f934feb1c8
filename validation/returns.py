"""Runs both sides of a comparison, each seed in a process of its own, and says what they come to."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..interop.extra import stable_baselines3
from ..training.durable import make_directory, write_text
from ..training.lock import RunLock
from . import summary
from .baseline import check_spaces
from .comparison import FINAL_EPISODES, Comparison, Side
from .job import JOB, LOG, RESULT, Job, Result, cores, read_job, read_result
from .record import ComparisonRecord, SideName, read, write
from .settings import Settings, first_difference
from .statistics import check_seeds

Key: TypeAlias = tuple[SideName, int]
"""Of one training run: its side and its seed."""

COMMAND = (sys.executable, "-m", f"{__package__}.child")
"""Of the process of one run, given its directory and the number of this process."""

_POLL = 0.1  # seconds
_PATIENCE = 30.0  # seconds that a run of ours has to save itself


def run(
    comparison: Comparison,
    num_seeds: int,
    *,
    jobs: int | None = None,
    runs: Path,
    out: Path,
    command: str,
    say: Callable[[str], None],
) -> ComparisonRecord:
    """The comparison over its first num_seeds seeds; what has been done, in `runs` or in `out`, is not done again.

    jobs: processes at a time, a core each; None: all cores. command: that is recorded, but for the number of seeds;
    say: is told of each run's end. One call at a time has runs/NAME.
    The files in `out` are written whenever all sides have one more seed, so what an interrupted call leaves is a
    comparison of fewer seeds. Ours is resumed where it stopped, SB3's begins again. Raises ValueError, before anything
    is run, for what cannot be compared; ChildProcessError, in one line, for a run that failed.
    """
    check_seeds(num_seeds)
    jobs = cores() if jobs is None else jobs
    if not 1 <= jobs <= cores():
        raise ValueError(f"--jobs {jobs}: must be from 1 to {cores()}, the cores here, or they slow each other down")
    stable_baselines3()
    sides, first = comparison.sides(), comparison.first_seed
    sb3 = sides["sb3"]
    assert sb3.arguments is not None
    check_spaces(sb3.config, sb3.arguments)
    folder = runs / comparison.name
    _make_writable(out, "--out")
    _make_writable(folder, "--runs")
    with RunLock(folder):  # or two calls would train the same seeds, over each other's files
        earlier = _earlier(comparison, sides, out)
        wanted: list[Key] = [(name, seed) for seed in range(first, first + num_seeds) for name in sides]
        results = {key: result for key in wanted if (result := _finished(folder, key, sides[key[0]])) is not None}
        known = {(row.side, row.seed) for row in earlier.rows} if earlier is not None else set()
        todo = [key for key in wanted if key not in results and key not in known]

        def save() -> ComparisonRecord:
            record = summary.record(comparison, sides, results, earlier, command, num_seeds)
            if record.rows:
                write(out, record)
            return record

        say(f"{comparison.name}: {len(wanted) - len(todo)} of {len(wanted)} runs are done, {jobs} at a time")
        record = save()
        progress = _Progress(len(todo), jobs)
        with _Children(folder, sides) as children:
            waiting = iter(todo)
            for name, seed in _completed(children, waiting, jobs):
                results[name, seed] = read_result(children.directory((name, seed)))
                say(progress.line(name, seed, results[name, seed]))
                if all((side, seed) in results or (side, seed) in known for side in sides):
                    record = save()
        return record


def _completed(children: "_Children", waiting: Iterator[Key], jobs: int) -> Iterator[Key]:
    """Runs as they end, `jobs` of them at a time."""
    while True:
        while len(children.running) < jobs and (key := next(waiting, None)) is not None:
            children.start(key)
        if not children.running:
            return
        ended = children.ended()
        yield from ended
        if not ended:
            time.sleep(_POLL)


@dataclass
class _Children:
    """The processes under way; leaving ends them, ours saved."""

    folder: Path
    sides: dict[SideName, Side]
    running: dict[Key, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    logged: dict[Key, int] = field(default_factory=dict)  # bytes that earlier processes wrote into its log

    def __enter__(self) -> "_Children":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running.values():
            process.terminate()
        deadline = time.monotonic() + _PATIENCE
        for process in self.running.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.0))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def directory(self, key: Key) -> Path:
        return _directory(self.folder, key)

    def start(self, key: Key) -> None:
        name, seed = key
        directory, side = self.directory(key), self.sides[name]
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / JOB, _job(side, name, seed).model_dump_json(indent=1) + "\n")
        threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
        with open(directory / LOG, "ab") as log:  # one that was orphaned may still be writing there
            self.logged[key] = log.tell()
            self.running[key] = subprocess.Popen(
                [*COMMAND, str(directory), str(os.getpid())],
                env={**os.environ, **threads},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C comes to us alone
            )

    def ended(self) -> list[Key]:
        """Those that have, and are no longer running; ChildProcessError for one that failed."""
        found = [key for key, process in self.running.items() if process.poll() is not None]
        for key in found:
            status = self.running.pop(key).returncode
            if status != 0:
                raise ChildProcessError(self._why(key, status))
        return found

    def _why(self, key: Key, status: int) -> str:
        log = self.directory(key) / LOG
        lines = log.read_bytes()[self.logged[key] :].decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no word of it")
        ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        return f"{key[0]}, seed {key[1]}, failed: {last} ({ended}; all of it in {log})"


class _Progress:
    """What is left, and for how long."""

    def __init__(self, runs: int, jobs: int) -> None:
        self._left, self._jobs = runs, jobs
        self._begun, self._done = time.monotonic(), 0

    def line(self, side: SideName, seed: int, result: Result) -> str:
        self._done, self._left = self._done + 1, self._left - 1
        seconds = (time.monotonic() - self._begun) / self._done * self._left
        trained = result.trained
        text = f"{side:6} seed {seed}: return {trained.final:.1f}, trained in {trained.seconds:.0f} s"
        left = f"{self._left} left, about {max(round(seconds / 60), 1)} min" if self._left else "none left"
        return f"{text}; {left}"


def _directory(folder: Path, key: Key) -> Path:
    return folder / f"{key[0]}-{key[1]}"


def _job(side: Side, name: SideName, seed: int) -> Job:
    config = side.config.model_copy(update={"seed": seed})
    return Job(
        side=name,
        seed=seed,
        config=config,
        arguments=side.arguments,
        settings=side.settings,
        episodes=FINAL_EPISODES,
    )


def _make_writable(directory: Path, option: str) -> None:
    """It is there; ValueError if it cannot be, or no file in it."""
    try:
        make_directory(directory)
    except OSError as error:
        raise ValueError(f"{option}: {directory}: {error.strerror or error}") from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ValueError(f"{option}: {directory}: cannot be written to")


def _finished(folder: Path, key: Key, side: Side) -> Result | None:
    """What the run came to, if it is complete; ValueError if it is another's, or was begun with other settings."""
    directory = _directory(folder, key)
    if not (directory / JOB).is_file():
        return None
    result = read_result(directory) if (directory / RESULT).is_file() else None
    for job in (read_job(directory), *([] if result is None else [result.job])):
        if (job.side, job.seed) != key:
            raise ValueError(f"{directory}: is of {job.side}, seed {job.seed}; delete it, and that seed is run again")
        if (changed := first_difference(job.settings, side.settings)) is not None:
            raise ValueError(f"{directory} was run with {changed}: delete it, or give another --runs")
    return result


def _earlier(comparison: Comparison, sides: dict[SideName, Side], out: Path) -> ComparisonRecord | None:
    """The comparison as it has been written before; ValueError if it was another."""
    path = out / f"{comparison.name}.json"
    if not path.is_file():
        return None
    record = read(out, comparison.name)
    for name, side in sides.items():
        then = record.sides[name].settings if name in record.sides else {}
        if (changed := first_difference(then, side.settings)) is not None:
            raise ValueError(f"{path}: side {name} was run with {changed}: delete it, or give another --out")
    before: Settings = {"range": [*record.range], "margin": record.margin, "seeds": record.declared_seeds}
    bounds = comparison.range
    now: Settings = {"range": [bounds.random, bounds.best], "margin": comparison.margin, "seeds": comparison.seeds}
    if (changed := first_difference(before, now)) is not None:
        raise ValueError(f"{path}: was declared with {changed}: delete it, or give another --out")
    return record
