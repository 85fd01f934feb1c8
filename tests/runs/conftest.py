"""Runs in processes of their own, which can be killed.

A fresh interpreter takes seconds to import torch, so one that has imported it, and done nothing else, forks a process
for each run: this file, run as a script.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import gymnasium
import pytest

import graftwork as gw
from graftwork.runs import RunConfig
from graftwork.training import checkpoint

Event = tuple[str, str, int]  # of sys.setprofile, the name of a function ("" is any), and how many of it


class Processes:
    """Runs, each in a new process of the same forking interpreter."""

    def __init__(self) -> None:
        command = [sys.executable, __file__]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def start(
        self,
        run_dir: Path,
        config: RunConfig,
        *overrides: str,
        at: list[Event] | None = None,
        number: int = 0,
        segment_bytes: int | None = None,
    ) -> int:
        """The number of a process that resumes the run, or begins it, and signals itself `number` at the event `at`.

        segment_bytes: of a checkpoint's segments, in place of those many that a small run never fills.
        """
        job = {"run_dir": str(run_dir), "config": config.model_dump(mode="json"), "overrides": overrides}
        assert self._server.stdin is not None
        print(
            json.dumps({**job, "at": at or [], "signal": number, "segment_bytes": segment_bytes}),
            file=self._server.stdin,
            flush=True,
        )
        return int(self._line())

    def wait(self) -> int:
        """The exit status of the last that was started, negative if a signal ended it."""
        return int(self._line())

    def run(self, run_dir: Path, config: RunConfig, *overrides: str, segment_bytes: int | None = None) -> None:
        """Resume or begin, to the end."""
        self.start(run_dir, config, *overrides, segment_bytes=segment_bytes)
        assert self.wait() == 0

    def kill(self, run_dir: Path, config: RunConfig, at: list[Event], segment_bytes: int | None = None) -> None:
        """Resume or begin, and kill at `at`."""
        self.start(run_dir, config, at=at, number=signal.SIGKILL, segment_bytes=segment_bytes)
        assert self.wait() == -signal.SIGKILL

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.wait(60) == 0
        assert self._server.stdout is not None
        self._server.stdout.close()

    def _line(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline()


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    with contextlib.closing(Processes()) as started:
        yield started


def _serve(jobs: IO[str]) -> None:
    """Fork a process for each line of `jobs`; print its number, and later its exit status."""
    import torch._dynamo  # noqa: F401 (an optimizer's first step imports it)

    gymnasium.make("CartPole-v1").close()
    for line in jobs:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _do(json.loads(line))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _do(job: dict[str, Any]) -> None:
    os.setpgid(0, 0)
    run_dir = Path(job["run_dir"])
    if job["segment_bytes"] is not None:
        checkpoint.save.__kwdefaults__["segment_bytes"] = job["segment_bytes"]
    if job["at"]:
        _signal_at(job["at"], job["signal"])
    if (run_dir / "config.yaml").exists():
        run = gw.resume(run_dir, *job["overrides"], quiet=True)
    else:
        run = gw.train(RunConfig.model_validate(job["config"]), run_dir=run_dir, quiet=True)
    sys.setprofile(None)
    (run_dir / "result.json").write_text(json.dumps({"step": run.step, "signal": run.signal}))


def _signal_at(events: list[Event], number: int) -> None:
    """Send this process a signal at the last of `events`, each of them awaited after the one before."""
    process, awaited, seen = os.getpid(), list(events), 0

    def watch(frame: FrameType, happened: str, function: Any) -> None:
        nonlocal seen
        if os.getpid() != process:  # an environment's
            sys.setprofile(None)
            return
        event, name, count = awaited[0]
        called = function.__qualname__ if happened.startswith("c_") else frame.f_code.co_name
        if happened == event and name in ("", called):
            seen += 1
            if seen == count:
                awaited.pop(0)
                seen = 0
        if not awaited:
            sys.setprofile(None)
            # Ctrl-C reaches a whole process group, environments too, and so may SIGTERM; kill -9 reaches one process.
            (os.kill if number == signal.SIGKILL else os.killpg)(process, number)

    sys.setprofile(watch)


if __name__ == "__main__":
    _serve(sys.stdin)
