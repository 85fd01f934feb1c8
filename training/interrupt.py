"""SIGINT and SIGTERM: a wish to stop after the current update, or an exception where there is nothing to save."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

PATIENCE = 4.0  # seconds from a signal to the end of whatever can be given up
_REMINDER = signal.SIGURG  # which nobody else sends, and which does nothing where nobody handles it
_REMINDER_PERIOD = 0.5  # seconds; one that meets a destructor is lost


class Abandoned(BaseException):
    """What was under way has been given up: a signal came PATIENCE seconds ago."""


class StopRequest:
    """While entered, the first SIGINT or SIGTERM is noted instead of obeyed; a second SIGINT interrupts at once.

    What is done inside `abandonable` and is not over in time (an episode without end, an environment that hangs) is
    given up by Abandoned.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        """patience: seconds."""
        self.signal: int | None = None
        self._patience = patience
        self._previous: dict[int, signal._HANDLER] = {}
        self._owner = os.getpid()
        self._left = threading.Event()
        self._clock: threading.Thread | None = None
        self._is_overdue = self._is_abandonable = False

    def __call__(self) -> bool:
        """A signal has come."""
        return self.signal is not None

    def __enter__(self) -> Self:
        self._previous = _set_handlers(
            {signal.SIGINT: self._note, signal.SIGTERM: self._note, _REMINDER: self._give_up}
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._left.set()
        try:
            if self._clock is not None:
                self._clock.join()  # else its reminder might meet the handlers of before
        finally:
            _restore_handlers(self._previous)

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        """Raises Abandoned inside once a signal is `patience` seconds old."""
        self._is_abandonable = True
        try:
            if self._is_overdue:
                raise Abandoned
            yield
        finally:
            self._is_abandonable = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if _is_for_another(self._owner, number):
            return
        if self.signal is None:
            self.signal = number
            self._clock = threading.Thread(target=self._remind, daemon=True)
            self._clock.start()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _remind(self) -> None:
        wait = self._patience
        while not self._left.wait(wait):
            self._is_overdue, wait = True, _REMINDER_PERIOD
            # Only a signal wakes a main thread that waits for an environment's process.
            signal.pthread_kill(threading.main_thread().ident or 0, _REMINDER)

    def _give_up(self, number: int, frame: FrameType | None) -> None:
        if self._is_abandonable and self._is_overdue:
            raise Abandoned


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM, where there is nothing to save."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped, wherever no StopRequest inside takes them as a wish."""
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if not _is_for_another(owner, number):
            raise Stopped(number)

    previous = _set_handlers({signal.SIGINT: stop, signal.SIGTERM: stop})
    try:
        yield
    finally:
        _restore_handlers(previous)


def _is_for_another(owner: int, number: int) -> bool:
    """This is an environment forked by the owner of a handler; SIGTERM ends it, Ctrl-C is its owner's affair."""
    if os.getpid() == owner:
        return False
    if number == signal.SIGTERM:
        os._exit(128 + number)
    return True


def _set_handlers(handlers: "Mapping[int, Callable[[int, FrameType | None], None]]") -> "dict[int, signal._HANDLER]":
    """The handlers before, by signal."""
    # Only the main thread may set handlers; elsewhere stopping is up to the caller.
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}


def _restore_handlers(previous: "dict[int, signal._HANDLER]") -> None:
    for number, handler in previous.items():
        # None stands for a handler that was not set from Python; nothing can set it again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
