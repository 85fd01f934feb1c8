import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork.training import lock
from graftwork.training.lock import RunLock, is_alive

HOLDER = """
import os, sys, time
from pathlib import Path
from graftwork.training.lock import RunLock
with RunLock(Path(sys.argv[1])):
    child = os.fork() if "fork" in sys.argv else 1
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def start_holder(run_dir: Path, *options: str) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run_dir), *options], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_second_process_is_refused_and_told_the_first_and_kill_9_frees_the_directory(tmp_path):
    process, _ = start_holder(tmp_path)
    with process:
        with pytest.raises(ValueError, match=f"^run directory {tmp_path} is in use by process {process.pid}; .*$"):
            RunLock(tmp_path).__enter__()
        process.send_signal(signal.SIGKILL)
    with RunLock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def test_an_orphaned_child_does_not_keep_the_directory(tmp_path):
    process, orphan = start_holder(tmp_path, "fork")
    with process:
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"):
            RunLock(tmp_path).__enter__()
        process.kill()
        process.wait()
        try:
            assert is_alive(orphan)
            with RunLock(tmp_path):
                pass
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_child_that_ends_leaves_the_lock_to_its_parent(tmp_path):
    script = """
import os, sys
from pathlib import Path
from graftwork.training import lock
for flock in [lock.fcntl, None]:
    lock.fcntl = flock
    with lock.RunLock(Path(sys.argv[1])) as held:
        child = os.fork()
        if child == 0:
            held.__exit__(None, None, None)
            os._exit(0)
        os.waitpid(child, 0)
        try:
            lock.RunLock(Path(sys.argv[1])).__enter__()
        except ValueError as error:
            print(error)
"""
    finished = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert finished.stdout.count("is in use by process") == 2


def test_same_process_is_refused_while_held_and_welcome_afterwards(tmp_path):
    held = RunLock(tmp_path)
    for _ in range(2):
        with held, pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
            RunLock(tmp_path).__enter__()


def test_the_lock_is_released_when_the_run_raises(tmp_path):
    with pytest.raises(KeyError), RunLock(tmp_path):
        raise KeyError
    with RunLock(tmp_path):
        pass


def test_other_directories_are_not_affected(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with RunLock(tmp_path / "a"), RunLock(tmp_path / "b"):
        pass


def test_missing_directory_is_named_and_not_made(tmp_path):
    with pytest.raises(ValueError, match=f"run directory {tmp_path}/none cannot be locked: No such file"):
        RunLock(tmp_path / "none").__enter__()
    assert not (tmp_path / "none").exists()


def without_flock(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    if reason == "no fcntl":
        monkeypatch.setattr(lock, "fcntl", None)
    else:

        def flock(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(lock.fcntl, "flock", flock)


@pytest.mark.parametrize("reason", ["no fcntl", "file system without locks"])
def test_without_flock_a_marker_file_holds_the_directory(tmp_path, monkeypatch, reason):
    without_flock(monkeypatch, reason)
    marker = tmp_path / ".lock_held"
    for _ in range(2):
        with RunLock(tmp_path):
            assert marker.read_text() == f"{os.getpid()}\n"
            with pytest.raises(ValueError, match=f"process {os.getpid()}; if that process is dead, delete {marker}$"):
                RunLock(tmp_path).__enter__()
        assert not marker.exists()


def test_a_lock_file_without_a_number_still_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    (tmp_path / ".lock_held").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="in use by another process; if"):
        RunLock(tmp_path).__enter__()


def test_other_failures_of_the_lock_name_the_directory_and_leak_no_descriptor(tmp_path, monkeypatch):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match=f"run directory {tmp_path} cannot be locked: Input/output error"):
        RunLock(tmp_path).__enter__()
    assert len(os.listdir("/proc/self/fd")) == before


def test_is_alive_knows_this_process_and_not_a_finished_one():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert is_alive(os.getpid())
    assert not is_alive(process.pid)
    assert not is_alive(10**30)
