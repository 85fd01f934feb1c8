"""Weights & Biases in a process of its own, where it cannot slow, break or outlive training.

Inside the trainer's process wandb would block on the network (at the start, and again in exit handlers), replace
`sys.exit` and `sys.excepthook`, print over the progress bar, and lose what it had not flushed when the trainer is
killed. So this file is both ends of a pipe: `WandbTracker` writes JSON lines, and the same file run as a script (at the
bottom, hence no relative imports) hands them to wandb. A killed trainer ends the input; all before is still uploaded.
"""

import contextlib
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Literal, TypeAlias

_STEP = "environment_steps"
_MAX_WAITING = 10_000  # rows, about 10 MB
_INIT_TIMEOUT = 20.0  # seconds; the environment variable WANDB_INIT_TIMEOUT goes first
_LINGER = 30.0  # seconds after the last metric that the wandb process may live
_DONE = "done"

_Row: TypeAlias = tuple[int, dict[str, float]]  # a step and its metrics


class WandbTracker:
    """Sends metrics to W&B on the environment-step axis; if that fails, training hears one line of `warn` and no more.

    Without a key, a network or an answer the metrics are dropped here (the local files have them), and nothing is asked
    at the terminal. The run id is made once and kept in `run_dir/wandb.json`, so that a resumed run continues its W&B
    run, which ignores the steps that it already has. `mode` None leaves it to WANDB_MODE and W&B's own settings.
    Offline runs lie in `run_dir/wandb`. `warn` is called in the thread that logs or closes. Raises ValueError that
    names a `wandb.json` without a run id.
    """

    def __init__(
        self,
        config: Mapping[str, object],
        run_dir: Path,
        project: str | None = None,
        entity: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        name: str | None = None,
        *,
        warn: Callable[[str], None],
        patience: float = 3.0,  # seconds that `close` waits
    ) -> None:
        self._warn, self._patience = warn, patience
        self._problem, self._told = "", False
        self._ended = threading.Event()
        self._waiting: queue.Queue[_Row | int] = queue.Queue(_MAX_WAITING)
        if (mode or os.environ.get("WANDB_MODE")) == "disabled":
            self._ended.set()
            return
        run_dir = run_dir.absolute()
        start: dict[str, object] = {"project": project, "entity": entity, "mode": mode, "name": name, "config": config}
        start |= {"dir": str(run_dir), "id": _run_id(run_dir / "wandb.json")}
        threading.Thread(target=self._feed, args=(_line(start),), name="graftwork-wandb", daemon=True).start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        if not self._ended.is_set():
            self._put((step, {key: float(value) for key, value in metrics.items()}))
        self._tell_problem()

    def close(self, exit_code: int = 0) -> None:
        """Wait at most `patience` seconds; W&B may go on with what it has by itself, for a minute at most."""
        if not self._ended.is_set():
            self._put(exit_code)
            if not self._ended.wait(self._patience):
                busy = f"still busy {self._patience:g} s after the end and left to finish by itself"
                self._problem = self._problem or busy
                self._ended.set()
        self._tell_problem()

    def _put(self, message: _Row | int) -> None:
        if self._waiting.full():
            self._problem = self._problem or f"too slow, {_MAX_WAITING} rows wait and the oldest are being dropped"
            with contextlib.suppress(queue.Empty):
                self._waiting.get_nowait()
        self._waiting.put_nowait(message)

    def _tell_problem(self) -> None:
        if self._problem and not self._told:
            self._told = True
            self._warn(f"W&B: {self._problem.rstrip('.')}; training is not affected, the local files are complete")

    def _feed(self, start: bytes) -> None:
        """The worker thread: start the wandb process, pass on what waits, keep its last word."""
        # The service of some parent process would end with that process: wandb starts its own.
        environment = {"WANDB_PROGRAM": sys.argv[0], **os.environ}
        environment.pop("WANDB_SERVICE", None)
        # Its own session, because Ctrl-C is for the trainer; -P, because this folder is no place to import from.
        command = [sys.executable, "-P", "-W", "ignore", __file__]
        try:
            process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._problem = f"its process cannot start: {_one_line(error)}"
            self._ended.set()
            return
        with process:
            assert process.stdin is not None
            assert process.stdout is not None
            # A write fails if the process has ended already: its last word says why.
            with contextlib.suppress(OSError), process.stdin as pipe:
                _send(pipe, start)
                message: _Row | int = (0, {})
                while not isinstance(message, int):
                    message = self._waiting.get()
                    _send(pipe, _line(message))
            last_word = process.stdout.read().decode()
            if last_word != _DONE:
                self._problem = self._problem or last_word or "its process died"
            self._ended.set()


def _line(message: dict[str, object] | _Row | int) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _send(pipe: IO[bytes], line: bytes) -> None:
    while line:
        line = line[pipe.write(line) :]  # unbuffered, so it may take a part


def _run_id(path: Path) -> str:
    """The id in `path`, which is made first, atomically, if there is none yet."""
    if not path.exists():
        new = path.with_name(f".{path.name}.{os.getpid()}")
        with new.open("w") as file:
            file.write(json.dumps({"run_id": secrets.token_hex(4)}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    try:
        run_id = json.loads(path.read_text())["run_id"]
    except (ValueError, KeyError, TypeError):
        run_id = None
    if not isinstance(run_id, str) or not run_id:
        raise ValueError(f'{path}: expected {{"run_id": "..."}}; delete the file to start a new W&B run')
    return run_id


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _serve() -> None:
    """The wandb process: the description of the run, then rows, then the exit code, all from standard input."""
    # Whatever wandb and its service print must not reach the pipe to the trainer: only the last word does.
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    last_word = _DONE
    try:
        _forward(sys.stdin.buffer)
    except Exception as error:
        last_word = _one_line(error)
    _limit_life()
    with contextlib.suppress(OSError):  # The trainer may be gone.
        os.write(report, last_word.encode())
    os.close(report)


def _forward(lines: IO[bytes]) -> None:
    import wandb

    settings = wandb.Settings(
        silent=True,  # nobody reads it, and who is logged in, asked for a banner, takes two round trips
        console="off",
        disable_code=True,
        disable_git=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
    )
    if "WANDB_INIT_TIMEOUT" not in os.environ:
        settings.init_timeout = _INIT_TIMEOUT
    start = json.loads(lines.readline())
    run = wandb.init(
        project=start["project"],
        entity=start["entity"],
        mode=start["mode"],
        name=start["name"],
        config=start["config"],
        dir=start["dir"],
        id=start["id"],
        resume="allow",
        settings=settings,
    )
    run.define_metric(_STEP, hidden=True)
    run.define_metric("*", step_metric=_STEP)
    exit_code = 1  # The input ends without an exit code when the trainer was killed.
    for line in lines:
        if not line.endswith(b"\n"):
            break  # killed in the middle of a line
        message = json.loads(line)
        if isinstance(message, int):
            exit_code = message
            break
        step, metrics = message
        run.log({_STEP: step, **metrics}, step=step)
    _limit_life()
    run.finish(exit_code)


def _limit_life() -> None:
    """An upload, or an exit handler of wandb, that waits for a dead server must not keep this process for ever."""
    timer = threading.Timer(_LINGER, os._exit, (1,))
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    _serve()
