"""gymnasium environments as a VectorEnv."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import connection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from torch import Tensor

from ..spaces import Observation, first_leaf, leaves, map_leaves, one_line, tensors_of, zeros
from .actions import choices
from .address import Address, AddressedEnv, AnyEnv, EnvironmentFailure
from .arrays import in_arrays
from .contract import EnvSpec, EnvStep, Episode
from .state import StateDict, expect_keys
from .statistics import EpisodeStatistics
from .sync_envs import SyncEnvs

TRAINING, EVALUATION, FRESH = 0, 1, 2
"""Streams of episodes; no two share a seed."""

STEP_TIMEOUT = 300.0  # seconds that an asynchronous environment may take for one step or reset
_FLOAT32_MAX = float(np.finfo(np.float32).max)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

GRACE = 10  # seconds that a worker outlives SIGTERM, for a trainer that saves before it ends


class NonFiniteEnvError(ValueError):
    """An environment gave an observation or reward that is NaN, infinite, or so in float32."""


class _Trainer(NamedTuple):
    """Who steps the environments."""

    process: int
    is_main_thread: bool


class GymnasiumEnvs:
    """`num_envs` environments of one maker, in this process or each in its own; see contract.VectorEnv.

    With autoreset=False each environment plays one episode and then rests, its rows marked `is_first`, until `reset`.
    A NaN or infinite observation or reward raises NonFiniteEnvError, an environment that fails EnvironmentFailure.
    """

    def __init__(
        self,
        make: Callable[[], AnyEnv],
        num_envs: int,
        seed: int,
        *,
        stream: int = TRAINING,
        autoreset: bool = True,
        asynchronous: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_envs = num_envs
        self.device = torch.device(device)
        self._autoreset = autoreset
        trainer = _Trainer(os.getpid(), threading.current_thread() is threading.main_thread())
        makers = [partial(_addressed, make, seed, stream, i, autoreset, trainer) for i in range(num_envs)]
        self._envs: SyncEnvs | AsyncVectorEnv
        if asynchronous:
            try:
                self._envs = AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP, copy=False)
            except (EOFError, ConnectionError) as error:  # the worker has printed why
                raise EnvironmentFailure("an environment could be made in this process, but not in its own") from error
        else:
            self._envs = SyncEnvs(makers)
        self.spec = _spec(self._envs)
        if self._has_action_mask():
            self.spec = replace(self.spec, has_action_mask=True)
        start = np.array(self.spec.action_start)
        # Of branches always, so that no environment can write to what it is given.
        self._start = start if start.any() or start.ndim else None
        self._ended = np.ones(num_envs, np.bool_)
        self._statistics = EpisodeStatistics(num_envs)
        self._keeps_score: bool = self._envs.get_attr("keeps_score")[0]
        self._scores: list[Episode] = []  # of whole games, where the environment tells them
        self._observation = zeros(self.spec.observation_space, num_envs)
        parts = leaves(self.spec.observation_space).values()
        self._floats = [leaf for leaf in parts if leaf.dtype == torch.float32]
        self._dtype = first_leaf(self._observation).numpy().dtype  # of a lone leaf
        self._infos: dict[str, Any] = {}  # of the newest rows of an asynchronous vector env
        self._reuses = asynchronous  # the memory of a row for the next one

    def reset(self, episode: int | None = None) -> EnvStep:
        observation = self._reset({"begin": episode})
        self._ended[:] = False
        self._statistics.begin()
        reward, never = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        self._check_finite(observation, reward)
        return self._row(observation, reward, never, never, ~never)

    def step(self, action: Tensor) -> EnvStep:
        actions = action.cpu().numpy()
        if self._start is not None:
            actions = actions + self._start
        observation, reward, terminated, truncated = self._step(actions)
        done = terminated | truncated
        is_first = self._ended
        self._ended = done if self._autoreset else done | is_first
        self._check_finite(observation, reward)
        self._statistics.update(reward, done, is_first)
        if self._keeps_score and done.any():
            with self._answering():
                scores = self._envs.get_attr("score")
            self._scores += [Episode(*score) for score, ended in zip(scores, done, strict=True) if ended and score]
        return self._row(observation, reward, terminated, truncated, is_first)

    def finished(self) -> list[Episode]:
        episodes, scores, self._scores = self._statistics.finished(), self._scores, []
        return scores if self._keeps_score else episodes

    def close(self) -> None:
        if isinstance(self._envs, SyncEnvs):
            self._envs.close()
        elif not self._envs.closed:
            # Killed, not asked: a worker that hangs or is dead would block or break gymnasium's own close.
            for process in self._envs.processes:
                process.kill()
            for process, pipe in zip(self._envs.processes, self._envs.parent_pipes, strict=True):
                process.join()
                if pipe is not None:
                    pipe.close()
            self._envs.closed = True

    def __del__(self) -> None:
        # gymnasium's own would ask with SIGTERM, and wait out the workers' grace.
        if isinstance(getattr(self, "_envs", None), AsyncVectorEnv):
            self.close()

    def state_dict(self) -> StateDict:
        with self._answering():
            addresses: tuple[Address, ...] = self._envs.get_attr("address")
        dtype = self._envs.single_action_space.dtype
        return {
            "episode": [address.episode for address in addresses],
            "ended": [address.ended for address in addresses],
            "actions": [torch.from_numpy(np.asarray(address.actions, dtype)) for address in addresses],
            "observation": map_leaves(torch.clone, self._observation),
            "statistics": self._statistics.state_dict(),
        }

    def load_state_dict(self, state: StateDict) -> None:
        expect_keys("environments", state, {"episode", "ended", "actions", "observation", "statistics"})
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"env.num_envs={self.num_envs}: the checkpoint holds {len(state['episode'])} environments")
        entries = zip(state["episode"], state["actions"], state["ended"], strict=True)
        with self._answering():
            self._envs.set_attr("restore_to", [Address(e, list(a.numpy()), ended) for e, a, ended in entries])
            replayed = tensors_of(self._tensors(self._reset({})))
            self._ended = np.array(self._envs.get_attr("ended"))
        self._statistics.load_state_dict(state["statistics"])
        self._observation = state["observation"]
        saved, begun = tensors_of(self._observation), np.array(state["episode"]) >= 0
        if saved.keys() != replayed.keys() or not all(
            np.array_equal(saved[name].numpy()[begun], replayed[name].numpy()[begun]) for name in saved
        ):
            warnings.warn(
                f"{self.spec.id}: replaying an episode's actions from its seed led elsewhere, so this environment is "
                "not determined by its seed and the run continues, but not bit for bit",
                stacklevel=2,
            )

    def _row(
        self,
        observation: Any,
        reward: npt.NDArray[np.float64],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        is_first: npt.NDArray[np.bool_],
    ) -> EnvStep:
        arrays = (reward.astype(np.float32), terminated, truncated, is_first)
        row = EnvStep(self._tensors(observation), *map(torch.from_numpy, arrays))
        self._observation = row.observation
        if self.spec.has_action_mask:
            row = row._replace(action_mask=torch.from_numpy(self._action_masks()))
        if self.device.type == "cpu":
            return row
        observation, *others = row
        return EnvStep(
            map_leaves(lambda leaf: leaf.to(self.device, non_blocking=True), observation),
            *(tensor.to(self.device, non_blocking=True) for tensor in others if tensor is not None),
        )

    def _tensors(self, observation: Any) -> Observation:
        """Of the leaves' types, and a copy where the vector env reuses its buffer."""
        if isinstance(observation, dict):
            return {name: torch.from_numpy(rows.copy() if self._reuses else rows) for name, rows in observation.items()}
        return torch.from_numpy(observation.astype(self._dtype, copy=self._reuses))

    def _check_finite(self, observation: Any, reward: npt.NDArray[np.float64]) -> None:
        # Counting is a fifth of what `all` takes.
        for leaf in self._floats:
            rows = observation[leaf.name] if leaf.path else observation
            if np.count_nonzero(finite := _finite(rows)) < finite.size:
                env, *entry = np.argwhere(~finite)[0].tolist()
                raise NonFiniteEnvError(f"{leaf} of env {env} is {rows[env, *entry]} at entry {entry}")
        if np.count_nonzero(finite := _finite(reward)) < finite.size:
            env = int(np.flatnonzero(~finite)[0])
            raise NonFiniteEnvError(f"reward of env {env} is {reward[env]}")

    def _has_action_mask(self) -> bool:
        """Whether rows have masks: each environment begins its episode 0 to find out, and keeps it for the first reset.

        ValueError if some have one and some have not.
        """
        if isinstance(self._envs, SyncEnvs):
            found = self._envs.get_attr("has_action_mask")
        else:
            with self._answering():
                self._envs.call_async("has_action_mask")
                found = self._envs.call_wait(timeout=STEP_TIMEOUT)
        if any(found) and not all(found):
            self.close()
            without = [i for i, has_one in enumerate(found) if not has_one]
            raise ValueError(f"{self.spec.id}: all environments must have an action mask or none; without: {without}")
        return all(found)

    def _action_masks(self) -> npt.NDArray[np.bool_]:
        """Of the newest rows, [B, A] or [B, D, A]; new memory."""
        masks: npt.NDArray[np.bool_] = (
            self._envs.action_masks() if isinstance(self._envs, SyncEnvs) else self._infos["action_mask"]
        )
        return masks

    def _reset(self, options: dict[str, Any]) -> Any:
        if isinstance(self._envs, SyncEnvs):
            return self._envs.reset(options)
        with self._answering():
            self._envs.reset_async(options=options)
            observation, self._infos = self._envs.reset_wait(timeout=STEP_TIMEOUT)
            return observation

    def _step(self, actions: npt.NDArray[Any]) -> tuple[Any, Any, Any, Any]:
        if isinstance(self._envs, SyncEnvs):
            return self._envs.step(actions)
        with self._answering():
            self._envs.step_async(actions)
            *row, self._infos = self._envs.step_wait(timeout=STEP_TIMEOUT)
            observation, reward, terminated, truncated = row
            return observation, reward, terminated, truncated

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """EnvironmentFailure, and no worker left, if one is late or dead."""
        try:
            yield
        except multiprocessing.TimeoutError as error:
            # After a timeout the vector env would return stale rows: it is of no more use.
            self.close()
            raise EnvironmentFailure(f"an environment of {self.spec.id} took over {STEP_TIMEOUT:.0f} s") from error
        except (EOFError, ConnectionError) as error:
            assert isinstance(self._envs, AsyncVectorEnv)
            processes = self._envs.processes
            ended = connection.wait([process.sentinel for process in processes], timeout=1.0)
            self.close()
            dead = [
                f"env {i} (exit code {process.exitcode})"
                for i, process in enumerate(processes)
                if process.sentinel in ended
            ]
            raise EnvironmentFailure(f"the process of {', '.join(dead)} of {self.spec.id} died") from error


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which are finite as float32, which every row becomes."""
    is_wide = values.dtype == np.float64
    finite: npt.NDArray[np.bool_] = np.abs(values) <= _FLOAT32_MAX if is_wide else np.isfinite(values)
    return finite


def _addressed(
    make: Callable[[], AnyEnv], seed: int, stream: int, env_index: int, autoreset: bool, trainer: _Trainer
) -> AddressedEnv:
    if os.getpid() != trainer.process:
        # Ctrl-C, and often SIGTERM, reach the whole process group; only the trainer decides when to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
        if sys.platform == "linux" and trainer.is_main_thread:  # the signal comes when the thread ends
            # A worker that waits ends with its pipe; one that hangs in a step would outlive a trainer that was killed.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return AddressedEnv(in_arrays(make()), seed, stream, env_index, autoreset)


def _spec(envs: SyncEnvs | AsyncVectorEnv) -> EnvSpec:
    found = choices(envs.single_action_space)
    branches = found.sizes if found is not None and found.is_branched else None
    start: int | tuple[int, ...] = 0
    if found is not None:
        start = found.start if branches else found.start[0]
    return EnvSpec(
        id=envs.get_attr("env_id")[0],
        observation_space=envs.get_attr("own_space")[0],
        num_actions=None if found is None or branches else found.sizes[0],
        action_start=start,
        action_space=one_line(envs.single_action_space),
        branches=branches,
        frame_stack=envs.get_attr("frame_stack")[0],
    )
