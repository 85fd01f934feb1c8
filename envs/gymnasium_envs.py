"""gymnasium environments as a VectorEnv."""

import multiprocessing
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from torch import Tensor

from .address import Address, AddressedEnv, AnyEnv, EnvironmentFailure
from .contract import Episode, EnvSpec, EnvStep
from .make import flat
from .statistics import EpisodeStatistics

TRAINING, EVALUATION, FRESH = 0, 1, 2
"""Streams of episodes; no two share a seed."""

STEP_TIMEOUT = 300.0  # seconds that an asynchronous environment may take for one step or reset


class NonFiniteEnvError(ValueError):
    """An environment gave a NaN or infinite observation or reward."""


def _addressed(make: Callable[[], AnyEnv], seed: int, stream: int, autoreset: bool, env_index: int) -> AddressedEnv:
    return AddressedEnv(flat(make()), seed, stream, env_index, autoreset)


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
        self._device = torch.device(device)
        self._autoreset = autoreset
        makers = [partial(_addressed, make, seed, stream, autoreset, i) for i in range(num_envs)]
        mode = AutoresetMode.NEXT_STEP
        self._envs: SyncVectorEnv | AsyncVectorEnv = (
            AsyncVectorEnv(makers, autoreset_mode=mode, copy=False)
            if asynchronous
            else SyncVectorEnv(makers, autoreset_mode=mode, copy=False)
        )
        self.spec = _spec(self._envs)
        self._float = self.spec.observation_dtype == torch.float32
        self._ended = np.ones(num_envs, np.bool_)
        self._statistics = EpisodeStatistics(num_envs)
        self._observation = torch.zeros(num_envs, *self.spec.observation_shape, dtype=self.spec.observation_dtype)

    def reset(self, episode: int | None = None) -> EnvStep:
        observation = self._reset({"begin": episode})
        self._ended[:] = False
        self._statistics.begin()
        return self._first_row(observation, np.ones(self.num_envs, np.bool_))

    def step(self, action: Tensor) -> EnvStep:
        actions = action.cpu().numpy()
        if self.spec.action_start:
            actions = actions + self.spec.action_start
        observation, reward, terminated, truncated = self._step(actions)
        done = terminated | truncated
        is_first = self._ended
        self._ended = done if self._autoreset else done | is_first
        self._check_finite(observation, reward)
        self._statistics.update(reward, done, is_first)
        return self._row(observation, reward, terminated, truncated, is_first)

    def finished(self) -> list[Episode]:
        return self._statistics.finished()

    def close(self) -> None:
        if isinstance(self._envs, AsyncVectorEnv):
            # Terminated, not asked: a worker that hangs or was killed would block or break a polite close.
            self._envs.close(terminate=True)
        else:
            self._envs.close()

    def state_dict(self) -> dict[str, Any]:
        addresses: tuple[Address, ...] = self._envs.get_attr("address")
        return {
            "episode": [address.episode for address in addresses],
            "ended": [address.ended for address in addresses],
            "actions": [torch.from_numpy(np.asarray(address.actions, self._action_dtype)) for address in addresses],
            "observation": self._observation.clone(),
            "statistics": self._statistics.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["episode"]) != self.num_envs:
            raise ValueError(f"env.num_envs={self.num_envs}: the checkpoint holds {len(state['episode'])} environments")
        entries = zip(state["episode"], state["actions"], state["ended"], strict=True)
        self._envs.set_attr("restore_to", [Address(e, list(a.numpy()), ended) for e, a, ended in entries])
        replayed = self._reset({})
        self._ended[:] = state["ended"]
        self._statistics.load_state_dict(state["statistics"])
        self._observation = state["observation"]
        if not np.array_equal(self._observation.numpy(), self._converted(replayed)):
            warnings.warn(
                f"{self.spec.id}: replaying an episode's actions from its seed led elsewhere, so this environment is not "
                "determined by its seed and the run continues, but not bit for bit",
                stacklevel=2,
            )

    @property
    def _action_dtype(self) -> npt.DTypeLike:
        return self._envs.single_action_space.dtype

    def _first_row(self, observation: npt.NDArray[Any], is_first: npt.NDArray[np.bool_]) -> EnvStep:
        nothing = np.zeros(self.num_envs)
        self._check_finite(observation, nothing)
        return self._row(observation, nothing, nothing > 0, nothing > 0, is_first)

    def _row(
        self,
        observation: npt.NDArray[Any],
        reward: npt.NDArray[np.float64],
        terminated: npt.NDArray[np.bool_],
        truncated: npt.NDArray[np.bool_],
        is_first: npt.NDArray[np.bool_],
    ) -> EnvStep:
        arrays = (
            self._converted(observation),
            reward.astype(np.float32),
            terminated,
            truncated,
            is_first.copy(),
        )
        tensors = [torch.from_numpy(array) for array in arrays]
        self._observation = tensors[0]
        if self._device.type != "cpu":
            tensors = [tensor.to(self._device, non_blocking=True) for tensor in tensors]
        return EnvStep(*tensors)

    def _converted(self, observation: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A copy (the vector env reuses its buffer), uint8 or float32."""
        return observation.astype(np.float32 if self._float else np.uint8)

    def _check_finite(self, observation: npt.NDArray[Any], reward: npt.NDArray[np.float64]) -> None:
        if self._float and not np.isfinite(observation).all():
            env, *entry = np.argwhere(~np.isfinite(observation))[0].tolist()
            raise NonFiniteEnvError(f"observation of env {env} is {observation[env, *entry]} at entry {entry}")
        if not np.isfinite(reward).all():
            env = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise NonFiniteEnvError(f"reward of env {env} is {reward[env]}")

    def _reset(self, options: dict[str, Any]) -> npt.NDArray[Any]:
        if isinstance(self._envs, AsyncVectorEnv):
            self._envs.reset_async(options=options)
            return self._wait(self._envs.reset_wait)[0]
        return self._envs.reset(options=options)[0]

    def _step(self, actions: npt.NDArray[Any]) -> tuple[Any, Any, Any, Any]:
        if isinstance(self._envs, AsyncVectorEnv):
            self._envs.step_async(actions)
            return self._wait(self._envs.step_wait)[:4]
        return self._envs.step(actions)[:4]

    def _wait(self, wait: Callable[..., Any]) -> Any:
        try:
            return wait(timeout=STEP_TIMEOUT)
        except multiprocessing.TimeoutError as error:
            # After a timeout the vector env would return stale rows: it is of no more use.
            self.close()
            raise EnvironmentFailure(f"an environment of {self.spec.id} took over {STEP_TIMEOUT:.0f} s") from error
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise EnvironmentFailure(f"a process of environment {self.spec.id} died") from error


def _spec(envs: SyncVectorEnv | AsyncVectorEnv) -> EnvSpec:
    observation, action = envs.single_observation_space, envs.single_action_space
    assert isinstance(observation, Box) and observation.shape is not None
    return EnvSpec(
        id=envs.get_attr("env_id")[0],
        observation_shape=observation.shape,
        observation_dtype=torch.uint8 if observation.dtype == np.uint8 else torch.float32,
        num_actions=int(action.n) if isinstance(action, Discrete) else None,
        action_start=int(action.start) if isinstance(action, Discrete) else 0,
        action_space=str(action),
    )
