"""One live process per run directory."""

import contextlib
import errno
import os
import sys
import weakref
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What flock answers on a file system that has no locks, as some network mounts do.
_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


class RunLock:
    """While entered, no other RunLock on `run_dir` can be entered, in this process or another.

    The kernel releases it with the process, kill -9 included; forked children (async envs) do not keep it alive. The
    file `.lock` stays behind: removing it would let two processes lock two files of one name.

    Without flock (Windows, some network mounts) the lock is the existence of `.lock_held`, which a killed process
    leaves behind: the error then says which file to delete.

    Raises ValueError on entry if the directory is in use, missing or not writable.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self._descriptor: int | None = None
        self._marker: Path | None = None
        if hasattr(os, "register_at_fork"):
            # A flock lives as long as any copy of its descriptor, and an orphaned env worker can outlive its parent.
            reference = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _drop_in_child(reference))

    def __enter__(self) -> Self:
        try:
            if fcntl is None or not self._flock():
                self._create_marker()
        except OSError as error:
            raise ValueError(f"run directory {self.run_dir} cannot be locked: {error.strerror or error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._marker is not None:
            self._marker.unlink(missing_ok=True)
            self._marker = None
        self._close()

    def _flock(self) -> bool:
        """False if the file system has no locks."""
        path = self.run_dir / ".lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise ValueError(f"{_in_use(self.run_dir, path)}; wait for it or choose another run_dir") from None
            if error.errno in _NO_FLOCK:
                return False
            raise
        self._descriptor = descriptor
        with contextlib.suppress(OSError):  # The number only serves another process's message: a full disk may lose it.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        return True

    def _create_marker(self) -> None:
        path = self.run_dir / ".lock_held"
        try:
            file = open(path, "x")  # noqa: SIM115 (a full disk must lose the number, not the lock)
        except FileExistsError:
            raise ValueError(f"{_in_use(self.run_dir, path)}; if that process is dead, delete {path}") from None
        self._marker = path
        with contextlib.suppress(OSError), file:
            file.write(f"{os.getpid()}\n")

    def _close(self) -> None:
        # Only ever closed, never unlocked: unlocking a child's copy would take the lock from its parent.
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_alive(pid: int) -> bool:
    """Whether a process of this number may exist on this machine; True where that cannot be asked safely."""
    if sys.platform == "win32":  # os.kill(pid, 0) sends Ctrl-C there.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _drop_in_child(reference: weakref.ref[RunLock]) -> None:
    lock = reference()
    if lock is not None:
        lock._marker = None
        lock._close()


def _in_use(run_dir: Path, path: Path) -> str:
    try:
        pid = path.read_text().strip()
    except (OSError, ValueError):
        pid = ""
    return f"run directory {run_dir} is in use by " + (f"process {pid}" if pid.isdigit() else "another process")
