"""Environments that fail: three of them, of which number 1 fails in episode 2 (see the fixture `broken`)."""

import multiprocessing.process
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor

from graftwork.envs import EnvironmentFailure, GymnasiumEnvs, NonFiniteEnvError, async_envs, episode_seed
from graftwork.envs.async_envs import AsyncEnvs

Make = Callable[[], gymnasium.Env[Any, Any]]
Open = Callable[..., GymnasiumEnvs]
Actions = Callable[..., list[Tensor]]

pytestmark = [
    pytest.mark.timeout(60),
    # gymnasium warns of a worker's error, with its traceback, before it raises it.
    pytest.mark.filterwarnings("ignore:.*ERROR"),
]
asynchronously = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


@contextmanager
def within(seconds: float) -> Iterator[None]:
    start = time.perf_counter()
    yield
    assert time.perf_counter() - start < seconds


def play(envs: GymnasiumEnvs) -> None:
    """Episodes 0 to 2 and more, unless something fails."""
    envs.reset()
    for _ in range(60):
        envs.step(torch.ones(3, dtype=torch.int64))


def workers(envs: GymnasiumEnvs) -> list[multiprocessing.process.BaseProcess]:
    assert isinstance(envs._envs, AsyncEnvs)
    return list(envs._envs.processes)


@asynchronously
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", "RuntimeError: out of fuel"),
        ("unpicklable", "Unpicklable: no way"),
        ("shape", "ValueError: observation has shape (1,), its space says (2,)"),
        ("text", "ValueError: observation is of type <U1, its space says float32"),
    ],
)
@pytest.mark.parametrize("step", [0, 4], ids=["reset", "step"])
def test_an_error_names_env_episode_step_and_seed(
    broken: Callable[..., Make], open_envs: Open, fault: str, reason: str, step: int, asynchronous: bool
) -> None:
    begun = f"reset(seed={episode_seed(0, 0, 1, 2)})"
    text = f"environment failed at env 1, episode 2, step {step} (begun by {begun}): {reason}"
    envs = open_envs(broken(fault, step), asynchronous=asynchronous)
    with within(10), pytest.raises(EnvironmentFailure, match=f"^{re.escape(text)}$"):
        play(envs)
    envs.close()


@asynchronously
def test_a_reward_that_is_no_number_is_named(broken: Callable[..., Make], open_envs: Open, asynchronous: bool) -> None:
    envs = open_envs(broken("no reward", 3), asynchronous=asynchronous)
    with pytest.raises(EnvironmentFailure, match=r"env 1, episode 2, step 3 .*: TypeError: float"):
        play(envs)


@asynchronously
@pytest.mark.parametrize(
    ("fault", "step", "text"),
    [
        ("nan", 0, r"^observation of env 1 is nan at entry \[1\]$"),
        ("nan", 4, r"^observation of env 1 is nan at entry \[1\]$"),
        ("inf reward", 4, r"^reward of env 1 is inf$"),
        ("huge reward", 4, r"^reward of env 1 is -1e\+300$"),  # infinite as float32
    ],
)
def test_a_value_that_is_not_finite_names_its_env(
    broken: Callable[..., Make], open_envs: Open, fault: str, step: int, text: str, asynchronous: bool
) -> None:
    envs = open_envs(broken(fault, step), asynchronous=asynchronous)
    with pytest.raises(NonFiniteEnvError, match=text):
        play(envs)


@asynchronously
@pytest.mark.parametrize("step", [0, 4], ids=["reset", "step"])
def test_a_shape_that_is_wrong_inside_a_dict_names_the_leaf(
    broken: Callable[..., Make], in_dict: Callable[[Make], Make], open_envs: Open, step: int, asynchronous: bool
) -> None:
    envs = open_envs(in_dict(broken("shape", step)), asynchronous=asynchronous)
    reason = r"ValueError: observation 'others\.0' has shape \(0,\), its space says \(1,\)$"
    with pytest.raises(EnvironmentFailure, match=rf"^environment failed at env 1, episode 2, step {step} .*: {reason}"):
        play(envs)


@asynchronously
def test_a_value_that_is_not_finite_inside_a_dict_names_the_leaf(
    broken: Callable[..., Make], in_dict: Callable[[Make], Make], open_envs: Open, asynchronous: bool
) -> None:
    envs = open_envs(in_dict(broken("nan", 4)), asynchronous=asynchronous)
    with pytest.raises(NonFiniteEnvError, match=r"^observation 'others\.0' of env 1 is nan at entry \[0\]$"):
        play(envs)


def test_an_error_while_restoring_is_named_too(
    broken: Callable[..., Make], open_envs: Open, random_actions: Actions
) -> None:
    envs, other = open_envs(broken("raise", 10)), open_envs(broken("raise", 2))
    envs.reset(2)
    for action in random_actions(3):
        envs.step(action)
    with pytest.raises(EnvironmentFailure, match="env 1, episode 2, step 2 "):
        other.load_state_dict(envs.state_dict())


@pytest.mark.parametrize("asked", ["step", "reset", "state_dict", "load_state_dict"])
def test_a_killed_worker_is_named_at_once_whatever_is_asked_next(walk: Make, open_envs: Open, asked: str) -> None:
    envs = open_envs(walk, asynchronous=True)
    envs.reset()
    state = envs.state_dict()
    ask: dict[str, Callable[[], object]] = {
        "step": lambda: envs.step(torch.zeros(3, dtype=torch.int64)),
        "reset": envs.reset,
        "state_dict": envs.state_dict,
        "load_state_dict": lambda: envs.load_state_dict(state),
    }
    workers(envs)[1].kill()
    workers(envs)[1].join()
    with within(5), pytest.raises(EnvironmentFailure, match=r"^the process of env 1 \(exit code -9\) of Walk died$"):
        ask[asked]()
    envs.close()
    assert not any(worker.is_alive() for worker in workers(envs))


def test_a_worker_that_dies_in_a_step_is_named_at_once(broken: Callable[..., Make], open_envs: Open) -> None:
    envs = open_envs(broken("die", 4), asynchronous=True)
    with within(5), pytest.raises(EnvironmentFailure, match=r"^the process of env 1 \(exit code -9\) of Broken died$"):
        play(envs)


def test_a_worker_that_hangs_is_given_up_and_killed(
    broken: Callable[..., Make], open_envs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_envs, "STEP_TIMEOUT", 1.0)
    envs = open_envs(broken("hang", 4), asynchronous=True)
    with within(10), pytest.raises(EnvironmentFailure, match=r"^an environment of Broken took over 1 s$"):
        play(envs)
    assert not any(worker.is_alive() for worker in workers(envs))


def test_an_environment_that_can_be_made_here_but_not_in_a_worker_is_an_error(walk: Make) -> None:
    here = os.getpid()

    def make() -> gymnasium.Env[Any, Any]:
        if os.getpid() != here:
            sys.exit("the port is taken")
        return walk()

    with pytest.raises(EnvironmentFailure, match="could be made in this process, but not in its own"):
        GymnasiumEnvs(make, 3, 0, asynchronous=True)


@asynchronously
def test_closing_twice_is_closing(walk: Make, open_envs: Open, asynchronous: bool) -> None:
    envs = open_envs(walk, asynchronous=asynchronous)
    envs.reset()
    envs.close()
    envs.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_survive_what_asks_the_trainer_to_stop(walk: Make, open_envs: Open, number: signal.Signals) -> None:
    envs = open_envs(walk, asynchronous=True)
    for worker in workers(envs):
        assert worker.pid is not None
        os.kill(worker.pid, number)
    play(envs)


def test_workers_do_not_outlive_a_trainer_that_was_told_to_end(
    walk: Make, open_envs: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = async_envs.GRACE + 5
    monkeypatch.setattr(async_envs, "GRACE", 1)  # in workers that are forked
    envs = open_envs(walk, asynchronous=True)
    with within(limit):
        for worker in workers(envs):
            worker.terminate()
        for worker in workers(envs):
            worker.join()


def test_workers_go_at_once_when_their_environments_are_forgotten(walk: Make) -> None:
    envs = GymnasiumEnvs(walk, 3, 0, asynchronous=True)
    processes = workers(envs)
    with within(5):
        del envs
    assert not any(process.is_alive() for process in processes)


def test_making_environments_leaves_this_process_its_signals(walk: Make, open_envs: Open) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    open_envs(walk)
    open_envs(walk, asynchronous=True)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
