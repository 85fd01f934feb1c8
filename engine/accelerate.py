"""Recorded graphs made into native code, beside the run and for the next one too.

What is compiled comes to the same bits as what was recorded, which is checked on the first calls. So when it is ready,
whether it was in the cache, and whether there is a compiler at all, changes how long a run takes and nothing else.
"""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, fx

from .graph_text import NotText, to_text

Function: TypeAlias = Callable[..., list[Tensor]]  # of tensors

LEAST_SECONDS = 20.0  # that a run has left for compiling beside it to pay, with a core to spare
LEAST_ALONE = 600.0  # without one: compiling takes some 15 s of the run's own
NUM_CHECKED = 20  # calls
_COMPILER = Path(__file__).with_name("compile_graph.py")


class Accelerator:
    """Compiles what is submitted, one graph at a time, in a process of its own; looks into the cache first."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        """directory: the cache, which need not exist. tell: given a line where something cannot be accelerated."""
        self._directory, self._tell = directory, tell
        self._waiting: list[_Order] = []
        self._under_way: tuple[_Order, subprocess.Popen[bytes]] | None = None
        self._told: set[str] = set()
        self._has_core_to_spare = _cores() > torch.get_num_threads()

    def read(self, module: fx.GraphModule, inputs: list[Tensor]) -> str | None:
        """The graph as `submit` takes it; None if it cannot be compiled."""
        module.graph.eliminate_dead_code()
        try:
            return to_text(module, inputs)
        except NotText as reason:
            self._say(f"runs as recorded: {reason}")
            return None

    def submit(self, text: str, recording: Function, ready: "Ready") -> None:
        """`ready` is called, now or in a later `poll`, with what does as `recording` does, whose graph the text is."""
        order = _Order(text, self._directory / _key(text), recording, ready)
        if not self._deliver(order):
            self._waiting.append(order)

    def poll(self, remaining: float) -> None:
        """Take what is finished and begin what pays. remaining: seconds that the run will still take."""
        if self._under_way is not None:
            order, process = self._under_way
            if process.poll() is None:
                return
            self._under_way = None
            if not self._deliver(order):
                self._say(f"runs as recorded: {_reason(order)}")
        if remaining < (LEAST_SECONDS if self._has_core_to_spare else LEAST_ALONE):
            return
        self._waiting.sort(key=lambda order: len(order.text))
        while self._waiting and self._under_way is None:
            order = self._waiting.pop()  # the largest graph is the one that takes most time
            if not self._deliver(order):
                self._begin(order)

    def close(self) -> None:
        """What is under way is given up."""
        if self._under_way is not None:
            self._under_way[1].kill()
            self._under_way[1].wait()
            self._under_way = None

    def _begin(self, order: "_Order") -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            order.source.write_text(order.text)
            log = order.log.open("wb")
        except OSError as error:
            self._say(f"runs as recorded: {self._directory}: {error.strerror}")
            self._waiting.clear()
            return
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "TORCHINDUCTOR_CACHE_DIR": str(self._directory / "inductor"),
        }
        command = [sys.executable, "-m", f"{__package__}.{_COMPILER.stem}", str(order.source), str(order.directory)]
        with log:
            # A session of its own: Ctrl-C is the run's.
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._under_way = order, process

    def _deliver(self, order: "_Order") -> bool:
        """Whether it is in the cache."""
        path = order.directory / "model.so"
        if not path.exists():
            return False
        try:
            compiled = _load(path)
        except Exception as error:  # whatever the loader raises; the recording does the same
            self._say(f"runs as recorded: {path} does not load: {error}")
            return True
        order.ready(_Checked(compiled, order, self._say))
        return True

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(f"accelerate: {line}")


Ready: TypeAlias = Callable[[Function], None]


class _Order:
    """A graph that is to be compiled, and who waits for it."""

    def __init__(self, text: str, directory: Path, recording: Function, ready: Ready) -> None:
        self.text, self.directory, self.recording, self.ready = text, directory, recording, ready
        self.source, self.log = directory.with_suffix(".json"), directory.with_suffix(".log")


class _Checked:
    """Runs both for some calls, then hands over to the faster one; what it gives is the recording's until then."""

    def __init__(self, compiled: Function, order: _Order, say: Callable[[str], None]) -> None:
        self._compiled, self._order, self._say = compiled, order, say
        self._calls = 0

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        order = self._order
        expected, reason = order.recording(*tensors), "came to other bits than torch"
        self._calls += 1
        try:
            is_alike = _alike(expected, self._compiled(*tensors))
        except Exception as error:  # whatever a compiled graph raises; the recording does the same
            is_alike, reason = False, str(error).partition("\n")[0]
        if not is_alike:
            self._say(f"runs as recorded: {order.directory}: {reason}")
            order.ready(order.recording)
        elif self._calls == NUM_CHECKED:
            order.ready(self._compiled)
        return expected


_current: Accelerator | None = None


def current() -> Accelerator | None:
    """The one in use, if any."""
    return _current


@contextmanager
def accelerated(accelerator: Accelerator | None) -> Iterator[None]:
    """Inside, graphs that are recorded go to this one."""
    global _current
    before, _current = _current, accelerator
    try:
        yield
    finally:
        _current = before
        if accelerator is not None:
            accelerator.close()


def cache_directory() -> Path:
    """Where compiled graphs are kept: $GRAFTWORK_CACHE, or the user's cache."""
    if own := os.environ.get("GRAFTWORK_CACHE"):
        return Path(own).expanduser() / "compiled"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "graftwork/compiled"


def _load(path: Path) -> Function:
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(path), 1)

    def run(*tensors: Tensor) -> list[Tensor]:
        found: list[Tensor] = runner.run([*tensors])
        return found

    return run


def _alike(expected: list[Tensor], found: list[Tensor]) -> bool:
    """Bits, types, and as many places in memory: a fused optimizer writes to gradients."""
    if len(expected) != len(found) or len({t.data_ptr() for t in found}) < len({t.data_ptr() for t in expected}):
        return False
    pairs = zip(expected, found, strict=True)
    return all(a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b) for a, b in pairs)


def _key(text: str) -> str:
    """By what the code depends on: the graph, and who writes it for which processor."""
    parts = (
        text,
        _COMPILER.read_text(),
        str(torch.__version__),
        torch.backends.cpu.get_cpu_capability(),
        platform.platform(),
        _processor(),
        str(torch.get_num_threads()),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("flags")), platform.processor())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(order: _Order) -> str:
    """The last line that the compiler left."""
    try:
        lines = order.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"{lines[-1] if lines else 'the compiler ended without a word'} (all of it in {order.log})"
