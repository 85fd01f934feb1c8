"""Environments stepped at once, each in a process of its own."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from .address import Address, AddressedEnv, EnvironmentFailure
from .rows import Block

STEP_TIMEOUT = 300.0  # seconds that an environment may take for one step or reset

GRACE = 10  # seconds that a worker outlives SIGTERM, for a trainer that saves before it ends

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Trainer(NamedTuple):
    """Who steps the environments."""

    process: int
    is_main_thread: bool


class AsyncEnvs:
    """What SyncEnvs is, in gymnasium's AsyncVectorEnv; EnvironmentFailure if a worker is late or dead."""

    def __init__(self, makers: Sequence[Callable[[], AddressedEnv]], autoreset: bool) -> None:
        """EnvironmentFailure for an environment that cannot be made in a process of its own."""
        self._autoreset = autoreset
        trainer = _Trainer(os.getpid(), threading.current_thread() is threading.main_thread())
        try:
            self._envs = AsyncVectorEnv(
                [partial(_in_worker, make, trainer) for make in makers],
                autoreset_mode=AutoresetMode.NEXT_STEP,
                copy=False,
            )
            self.processes: Sequence[multiprocessing.process.BaseProcess] = self._envs.processes
            self._id = self._envs.get_attr("env_id")[0]
        except (EOFError, ConnectionError) as error:  # the worker has printed why
            raise EnvironmentFailure("an environment could be made in this process, but not in its own") from error
        self.observation_space = self._envs.single_observation_space
        self.action_space = self._envs.single_action_space
        self._ended = np.ones(len(makers), np.bool_)
        self._infos: dict[str, Any] = {}  # of the newest row

    def reset(self, options: dict[str, Any], block: Block, row: int) -> None:
        """Begin episodes, and fill in a row of a block."""
        block.begin(row)
        with self._answering():
            self._envs.reset_async(options=options)
            observation, self._infos = self._envs.reset_wait(timeout=STEP_TIMEOUT)
        _copy(observation, block, row)
        self._ended[:] = False

    def step(self, actions: npt.NDArray[Any], block: Block, row: int) -> None:
        """Fill in a row of a block."""
        with self._answering():
            self._envs.step_async(actions)
            observation, *others, self._infos = self._envs.step_wait(timeout=STEP_TIMEOUT)
        _copy(observation, block, row)
        block.reward[row], block.terminated[row], block.truncated[row], block.is_first[row] = *others, self._ended
        done = block.terminated[row] | block.truncated[row]
        self._ended = done if self._autoreset else done | self._ended

    def restore(self, addresses: Sequence[Address], block: Block, row: int) -> None:
        """Bring each environment to its address, and fill in a row with what it observes there."""
        with self._answering():
            self._envs.set_attr("restore_to", list(addresses))
        self.reset({}, block, row)
        self._ended = np.array(self.get_attr("ended"))

    def has_action_mask(self) -> Sequence[bool]:
        """Of each environment; see AddressedEnv."""
        with self._answering():
            self._envs.call_async("has_action_mask")
            found: Sequence[bool] = self._envs.call_wait(timeout=STEP_TIMEOUT)
        return found

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Of every environment's newest row, [B, A] or [B, D, A]; new memory."""
        masks: npt.NDArray[np.bool_] = self._infos["action_mask"]
        return masks

    def get_attr(self, name: str) -> tuple[Any, ...]:
        with self._answering():
            found: tuple[Any, ...] = self._envs.get_attr(name)
        return found

    def close(self) -> None:
        if self._envs.closed:
            return
        # Killed, not asked: a worker that hangs or is dead would block or break gymnasium's own close.
        for process in self.processes:
            process.kill()
        for process, pipe in zip(self.processes, self._envs.parent_pipes, strict=True):
            process.join()
            if pipe is not None:
                pipe.close()
        self._envs.closed = True

    def __del__(self) -> None:
        # gymnasium's own would ask with SIGTERM, and wait out the workers' grace.
        if hasattr(self, "_envs"):
            self.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """EnvironmentFailure, and no worker left, if one is late or dead."""
        try:
            yield
        except multiprocessing.TimeoutError as error:
            # After a timeout the vector env would return stale rows: it is of no more use.
            self.close()
            raise EnvironmentFailure(f"an environment of {self._id} took over {STEP_TIMEOUT:.0f} s") from error
        except (EOFError, ConnectionError) as error:
            ended = connection.wait([process.sentinel for process in self.processes], timeout=1.0)
            self.close()
            dead = [
                f"env {i} (exit code {process.exitcode})"
                for i, process in enumerate(self.processes)
                if process.sentinel in ended
            ]
            raise EnvironmentFailure(f"the process of {', '.join(dead)} of {self._id} died") from error


def _in_worker(make: Callable[[], AddressedEnv], trainer: _Trainer) -> AddressedEnv:
    """The environment; gymnasium makes one in the trainer too, to see its spaces."""
    if os.getpid() != trainer.process:
        # Ctrl-C, and often SIGTERM, reach the whole process group; only the trainer decides when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
        if sys.platform == "linux" and trainer.is_main_thread:  # the signal comes when the thread ends
            # A worker that waits ends with its pipe; one that hangs in a step would outlive a trainer that was killed.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return make()


def _copy(observation: Any, block: Block, row: int) -> None:
    """Out of the memory that the vector env uses again."""
    if isinstance(block.observation, dict):
        for name, rows in block.observation.items():
            rows[row] = observation[name]
    else:
        block.observation[row] = observation
