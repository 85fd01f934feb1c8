"""Whatever goes wrong on the way, what can be loaded was saved whole: faults, crashes, kill -9."""

import builtins
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
import torch

from graftwork.engine.history import History
from graftwork.training import durable
from graftwork.training.checkpoint import CheckpointError, digest, load, load_newest, save

FILES = ["MANIFEST", "meta.json", "state.safetensors"]


class Crash(BaseException):
    """The process is gone: nothing after it runs, so no cleaning up either."""


class Disk:
    """Counts the operations that touch the disk, and fails the chosen one; with EIO, every one from there on.

    A crash also halves each file that was not yet fsynced, as a power cut may.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None, fault: BaseException | None = None):
        self.log: list[str] = []
        self.fail_at, self.fault = fail_at, fault
        self.unsynced: set[int] = set()
        for name in ["mkdir", "makedirs", "rename", "replace", "unlink", "rmdir", "listdir", "open", "scandir"]:
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self.wrap("fsync", self.fsync(os.fsync)))
        monkeypatch.setattr(durable, "open", self.open, raising=False)

    def wrap(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def operation(*args: object, **kwargs: object) -> object:
            what = args[0] if name != "fsync" else os.readlink(f"/proc/self/fd/{args[0]}")
            self.step(f"{name} {Path(os.fsdecode(what)).name}" if not isinstance(what, int) else name)
            return real(*args, **kwargs)

        return operation

    def fsync(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            real(descriptor)
            self.unsynced.discard(os.fstat(descriptor).st_ino)

        return fsync

    def step(self, entry: str) -> None:
        self.log.append(entry)
        if self.fault is None or self.fail_at is None:
            return
        operation, lasting = len(self.log) - 1, isinstance(self.fault, OSError) and self.fault.errno == errno.EIO
        if operation == self.fail_at or (lasting and operation > self.fail_at):
            raise self.fault

    def open(self, path: Path, mode: str) -> "File":
        self.step(f"open {path.name}")
        return File(self, builtins.open(path, mode), path.name)

    def cut_power(self, directory: Path) -> None:
        for path in directory.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.unsynced:
                os.truncate(path, path.stat().st_size // 2)


class File:
    def __init__(self, disk: Disk, file, name: str):
        self.disk, self.file, self.name = disk, file, name
        self.fileno, self.readable, self.readinto = file.fileno, file.readable, getattr(file, "readinto", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes | memoryview) -> None:
        self.disk.unsynced.add(os.fstat(self.fileno()).st_ino)
        self.file.write(data[: len(data) // 2])
        self.disk.step(f"write {self.name}")
        self.file.write(data[len(data) // 2 :])

    def flush(self) -> None:
        self.disk.step(f"flush {self.name}")
        self.file.flush()


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """The power cuts here are simulated; real fsyncs would prove nothing."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


BYTES = 4 * 8  # of a segment, of 4 rows


def state_of(step: int, size: int = 35) -> dict[str, object]:
    """Rows [2 * step, 4 * step + 2): each step loses and gains some, and 40 has other ones than 4."""
    generator = torch.Generator().manual_seed(step)
    run, last = (10**6, 4) if step == 40 else (0, step)
    history = History(2 * last, 4 * last + 2, lambda start, stop: {"row": torch.arange(start, stop) + run})
    return {
        "weight": torch.randn(size, generator=generator),
        "flags": torch.tensor([True, False, True]),
        "step": step,
        "history": history,
    }


def checkpoints(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.name.startswith("step_")]


def segments(directory: Path) -> set[str]:
    return {path.name for path in (directory / "segments").iterdir()}


def named(directory: Path) -> set[str]:
    """Segments that the checkpoints name."""
    lines = [line.split() for path in checkpoints(directory) for line in (path / "MANIFEST").read_text().splitlines()]
    return {Path(name).name for _, _, name in lines if name.startswith("../segments/")}


def prepare(directory: Path, situation: str) -> None:
    """What is there before step 4 is saved with keep=2."""
    for step in [1, 2, 3]:
        save(directory, step, state_of(step), 3, {}, segment_bytes=BYTES)
    if situation == "same step, same content":
        save(directory, 4, state_of(4), 4, {}, segment_bytes=BYTES)
    elif situation != "new step":
        path = save(directory, 4, state_of(40), 4, {}, segment_bytes=BYTES)
        if situation == "same, damaged":
            os.truncate(path / "meta.json", 5)


FAULTS = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    Crash(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["full", "failing from then on", "crash"])
@pytest.mark.parametrize(
    "situation", ["new step", "same step, same content", "same step, other content", "same, damaged"]
)
def test_every_operation_may_fail_and_a_whole_checkpoint_is_loaded(tmp_path, situation, fault):
    possible = {digest(state_of(step)): step for step in [3, 4]} | {digest(state_of(40)): 4}
    if situation == "same step, other content":
        possible.pop(digest(state_of(3)))
    template = tmp_path / "template"
    prepare(template, situation)
    operation, finished = 0, False
    while not finished:
        directory = tmp_path / f"{operation}"
        shutil.copytree(template, directory)
        error: BaseException | None = None
        state = state_of(4)
        with pytest.MonkeyPatch.context() as monkeypatch:
            disk = Disk(monkeypatch, operation, fault)
            try:
                save(directory, 4, state, 2, {}, segment_bytes=BYTES)
            except (CheckpointError, Crash) as caught:
                error = caught
        finished = len(disk.log) <= operation
        if isinstance(error, Crash):
            disk.cut_power(directory)
        if isinstance(error, CheckpointError):
            assert f"{directory}/step_000000000004" in str(error)
            assert str(error).endswith(fault.strerror)
            assert "\n" not in str(error)

        for path in checkpoints(directory):
            if situation != "same, damaged" or not path.name.startswith("step_000000000004"):
                load(path)
        assert segments(directory) >= named(directory)
        loaded = load_newest(directory)
        assert possible[digest(loaded.state)] == loaded.step
        assert all("meta.json is truncated" in problem for problem in loaded.problems)
        if error is None or "is saved, but older" in str(error):
            assert digest(loaded.state) == digest(state_of(4))
        elif isinstance(error, CheckpointError) and fault.errno == errno.ENOSPC:
            assert not list(directory.glob(".tmp_*"))

        # The same process goes on with what it knows by now, or after a crash another one that knows nothing.
        state = state_of(4) if isinstance(error, Crash) else state
        save(directory, 4, state, 2, {}, segment_bytes=BYTES)
        assert digest(load_newest(directory).state) == digest(state_of(4))
        assert segments(directory) == named(directory)
        names = sorted(path.name for path in directory.iterdir())
        assert names[:2] == ["segments", "step_000000000003"]
        assert names[2:] == ["step_000000000004", "step_000000000004.1"][: 1 + (situation == "same, damaged")]
        shutil.rmtree(directory)
        operation += 1
    assert operation > 20


def test_nothing_gets_its_name_or_loses_it_before_the_disk_has_what_it_needs(tmp_path, monkeypatch):
    for step in [1, 2]:
        save(tmp_path, step, state_of(step), 2, {}, segment_bytes=BYTES)
    log = Disk(monkeypatch).log
    save(tmp_path, 3, state_of(3), 1, {}, segment_bytes=BYTES)
    temporary = f".tmp_3_{os.getpid()}"
    renamed = log.index(f"rename {temporary}")
    assert all(log.index(f"fsync {name}") < renamed for name in [*FILES, temporary])
    pruned, last_pruned = (log.index(f"rename step_00000000000{step}") for step in (2, 1))
    assert renamed < log.index(f"fsync {tmp_path.name}") < pruned
    assert not any(entry.startswith(("unlink", "rmdir")) for entry in log[:pruned])

    # A segment: its bytes, its name, the names of its folder, and only then the checkpoint that names it.
    for position, entry in enumerate(log):
        if entry == "replace segments":
            assert log[position - 1] == "fsync segments"
    assert log.count("replace segments") == 1
    last = max(position for position, entry in enumerate(log) if entry == "replace segments")
    assert "fsync segments" in log[last:renamed]
    # One that is no longer named: the checkpoint's name goes first, for good.
    deleted = [position for position, entry in enumerate(log) if re.fullmatch("unlink [0-9a-f]{64}.safetensors", entry)]
    assert deleted
    assert f"fsync {tmp_path.name}" in log[last_pruned : deleted[0]]


SAVER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from graftwork.engine.history import History
from graftwork.training.checkpoint import digest, load_newest, save

directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
def read(start, stop):
    return {"row": torch.arange(start, stop).unsqueeze(1).expand(-1, 500).float()}
def state_of(step, digests):
    # Each step has a segment of 8 rows more, and from the sixth on one less.
    history = History(max(8 * step - 40, 0), 8 * step + 3, read, digests)
    return {"weight": torch.full((90_000,), float(step)), "step": step, "history": history}

draw, parent, acknowledged, interrupted = random.Random(0), os.getpid(), 0, 0
for _ in range(rounds):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        digests = {}
        for step in range(acknowledged + 1, 10**6):
            save(directory, step, state_of(step, digests), 2, {}, segment_bytes=16_000)
            os.write(writer, b"%d\\n" % step)
            if os.getppid() != parent:
                os._exit(1)
    os.close(writer)
    first = os.read(reader, 100)
    time.sleep(0.02 * draw.random())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as rest:
        acknowledged = int((first + rest.read()).split()[-1])
    interrupted += any(name.startswith(".tmp") for name in os.listdir(directory))
    loaded = load_newest(directory)
    assert not loaded.problems, loaded.problems
    assert loaded.step in (acknowledged, acknowledged + 1), (loaded.step, acknowledged)
    assert digest(loaded.state) == digest(state_of(loaded.step, {}))
    acknowledged = loaded.step
print(acknowledged, interrupted)
"""


def test_kill_9_at_any_instant_loses_no_acknowledged_save(tmp_path):
    command = [sys.executable, "-c", SAVER, str(tmp_path / "checkpoints"), "40"]
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert finished.returncode == 0, finished.stderr
    saved, interrupted = map(int, finished.stdout.split())
    assert saved >= 40
    assert interrupted > 5, "too few kills hit a save for this to say anything"
