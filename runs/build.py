"""A RunConfig made into parts: the one place that knows every one of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..engine import Agent
from ..envs import GymnasiumEnvs, env_maker
from ..envs.address import AnyEnv
from ..networks import Encoder, Network
from ..training.seeding import Seeds
from .config import RunConfig

SMALL_NETWORK = 1_000_000  # parameters; below, a second thread costs more than it brings


@dataclass(frozen=True)
class Objects:
    """Parts of the user's own, each in place of what the config would build."""

    env: Callable[[], AnyEnv] | None = None
    wrapper: Callable[[AnyEnv], AnyEnv] | None = None
    encoder: Encoder | None = None
    network: Network[Any] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)


def build_envs(
    config: RunConfig, objects: Objects, *, num_envs: int, stream: int, autoreset: bool, asynchronous: bool
) -> GymnasiumEnvs:
    """The run's environments on a stream of episodes of their own."""
    make = objects.env or env_maker(config.env)

    def wrapped() -> AnyEnv:
        env = make()
        return env if objects.wrapper is None else objects.wrapper(env)

    return GymnasiumEnvs(
        wrapped,
        num_envs,
        config.seed,
        stream=stream,
        autoreset=autoreset,
        asynchronous=asynchronous,
        device=device_of(config),
    )


def build_agent(config: RunConfig, envs: GymnasiumEnvs, objects: Objects) -> Agent:
    """The agent with fresh weights, for the environments given."""
    seeds = Seeds(config.seed)
    # One branch in place of two types: each agent's config builds the network that its own agent takes.
    agent: Any = config.agent
    with torch.random.fork_rng(devices=()):  # torch's layers draw weights of their own before ours replace them
        try:
            network = objects.network or agent.network(envs.spec, seeds, objects.encoder)
        except RuntimeError as error:  # torch has no MemoryError
            if "memory" not in str(error):
                raise
            raise ValueError("agent.encoder: a network of this size does not fit into memory") from error
    built: Agent = agent.build(network, envs.spec, envs.num_envs, seeds, device_of(config))
    return built


def device_of(config: RunConfig) -> torch.device:
    """ValueError if it is not there."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={config.device}: torch {torch.__version__} sees no CUDA device; use cpu or auto")
    return torch.device(config.device)


def threads_for(config: RunConfig, network: Network[Any]) -> int:
    """Torch threads that the run is to use."""
    if config.threads is not None:
        return config.threads
    is_small = sum(parameter.numel() for parameter in network.parameters()) < SMALL_NETWORK
    return 1 if is_small else torch.get_num_threads()


@contextmanager
def numerics(threads: int) -> Iterator[None]:
    """Torch's process-wide settings for a run, and the caller's back afterwards."""
    threads_before, flushed_before = torch.get_num_threads(), _flushes_denormals()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # Adam's moments decay into denormals, on which a CPU is many times slower
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)
        torch.set_num_threads(threads_before)


def _flushes_denormals() -> bool:
    # Torch sets this but does not tell it.
    return bool(torch.tensor(1e-40) * 1.0 == 0.0)
