import os
import signal
import sys
import threading
import time

import pytest

from graftwork.training.interrupt import Abandoned, StopRequest

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    """What a test leaves behind, if it fails, must not stop the next one."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_first_signal_is_noted_and_nothing_else_happens(number):
    with StopRequest() as stop:
        assert not stop()
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop()
        assert stop.signal == number
    assert stop.signal == number


@pytest.mark.parametrize("first", NUMBERS)
def test_second_sigint_interrupts(first):
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stop.signal == first


@pytest.mark.parametrize("first", NUMBERS)
def test_sigterm_after_a_first_signal_changes_nothing(first):
    with StopRequest() as stop:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == first


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_abandonable_is_given_up_once_the_signal_is_old(number):
    def hang() -> None:
        os.kill(os.getpid(), number)
        time.sleep(10)

    begun = time.monotonic()
    with StopRequest(patience=0.2) as stop:
        with pytest.raises(Abandoned), stop.abandonable():
            hang()
        assert 0.2 <= time.monotonic() - begun < 5
        assert stop.signal == number
        with pytest.raises(Abandoned), stop.abandonable():
            hang()
        assert time.monotonic() - begun < 5


@pytest.mark.parametrize("number", NUMBERS)
def test_what_is_not_abandonable_is_left_to_end(number):
    with StopRequest(patience=0.1) as stop:
        with stop.abandonable():
            os.kill(os.getpid(), number)
        time.sleep(0.4)  # the reminder comes in here, of SIGINT too
        assert stop.signal == number


def test_second_sigint_interrupts_what_is_abandonable_at_once():
    begun = time.monotonic()

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    with pytest.raises(KeyboardInterrupt), StopRequest(patience=3) as stop, stop.abandonable():
        hang()
    assert time.monotonic() - begun < 2


def test_reminder_that_is_lost_in_a_destructor_is_repeated(monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: raised.append(unraisable.exc_type))

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.4)

    def hang() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        Slow()
        time.sleep(10)

    with StopRequest(patience=0.2) as stop, pytest.raises(Abandoned), stop.abandonable():
        hang()
    assert raised == [Abandoned]


def test_fork_of_the_process_is_ended_by_sigterm_and_not_by_sigint():
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        time.sleep(0.1)
        os.kill(child, signal.SIGINT)
        time.sleep(0.1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 143
        assert not stop()


def test_without_a_signal_nothing_is_given_up():
    with StopRequest(patience=0.05) as stop, stop.abandonable():
        time.sleep(0.2)


def test_no_reminder_comes_once_it_is_left():
    with StopRequest(patience=0.3) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)  # pytest's own handler would end it
    assert stop()


def test_handlers_of_before_are_back_afterwards(handlers):
    def other(number: int, frame: object) -> None:
        raise AssertionError

    signal.signal(signal.SIGTERM, other)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != other
    assert signal.getsignal(signal.SIGTERM) is other
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]


def test_handlers_are_back_after_an_error(handlers):
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert {number: signal.getsignal(number) for number in NUMBERS} == handlers


def test_ignored_signal_is_ignored_again_afterwards():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
    assert stop()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_handler_that_python_did_not_set_is_given_up_for_the_default():
    stop = StopRequest()
    stop.__enter__()
    stop._previous[signal.SIGTERM] = None  # what signal.signal returns for it
    stop.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_requests_may_be_nested():
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
        assert inner()
        assert not outer()
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer()


def test_another_thread_than_the_main_one_leaves_handlers_alone(handlers):
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append((stop(), {number: signal.getsignal(number) for number in NUMBERS}))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, handlers)]
    assert {number: signal.getsignal(number) for number in NUMBERS} == handlers
