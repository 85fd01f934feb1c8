"""An agent's run made into parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..engine import Agent, Apart, Collector, Together, Turns, record
from ..envs import EVALUATION, TRAINING, AtariVectorEnvs, GymnasiumEnvs, VectorEnv, env_maker, native_envs
from ..envs.address import AnyEnv
from ..envs.native import NativeEnvs
from ..networks import Encoder, StackedNetwork, has_batch_norm
from ..training.evaluate import GreedyEvaluator
from ..training.seeding import Seeds
from ..training.trainer import Periods
from .config import RunConfig, Settings
from .graft import prepare, thawing, transplanted
from .parts import Objects, Parts

SMALL_NETWORK = 1_000_000  # parameters; below, a second thread costs more than it brings


def build_run(config: RunConfig, objects: Objects, source: Encoder | None) -> Parts:
    """The parts of an agent's run; ValueError for whatever is wrong. source: of weights, where one is grafted."""
    envs = build_envs(
        config,
        objects,
        num_envs=config.env.num_envs,
        stream=TRAINING,
        autoreset=config.agent.rollout_rows is not None,
        asynchronous=config.env.asynchronous,
    )
    try:
        agent = build_agent(config, envs, objects, source)
        agent.check_room()
        num_envs = min(config.evaluation.num_envs, config.evaluation.episodes)
        evaluation_envs = build_envs(
            config, objects, num_envs=num_envs, stream=EVALUATION, autoreset=False, asynchronous=False
        )
    except BaseException:
        envs.close()
        raise

    def close() -> None:
        envs.close()
        evaluation_envs.close()

    each = " each" if config.seeds > 1 else ""
    return Parts(
        title=f"{config.agent.kind} on {envs.spec.id}, {config.seed_text}, {config.steps:,} steps{each}",
        source=Collector(envs, agent, agent.rollout_rows, config.seeds, _turns(envs, agent)),
        learner=thawing(agent, agent.network.encoder, config.graft, lambda: agent.step),
        evaluator=GreedyEvaluator(agent, evaluation_envs, config.evaluation.episodes, seeds_of(config)),
        steps=config.steps,
        periods=Periods(config.log.period, config.evaluation.period, config.checkpoint.period),
        notes=[*agent.notes(), *_on_batch_norm(agent), *_on_own_env(config, objects)],
        result=lambda state: agent,
        close=close,
    )


def _turns(envs: VectorEnv, agent: Agent) -> Turns:
    return Together(envs, agent) if isinstance(envs, NativeEnvs) else Apart(envs, agent)


def seeds_of(config: RunConfig) -> tuple[int, ...]:
    """Those of its agents, () if there is but one."""
    return tuple(config.all_seeds) if config.seeds > 1 else ()


def _on_batch_norm(agent: Agent) -> list[str]:
    """A warning, where the network has some."""
    if not has_batch_norm(agent.network):
        return []
    return [
        "batch norm counts rows that the loss leaves out (fillers between episodes, environments at rest): "
        "norm=layer, group or rms mixes no rows"
    ]


def _on_own_env(config: RunConfig, objects: Objects) -> list[str]:
    """A warning, where fields say how an environment is made that is made by the user's own function."""
    if objects.env is None:
        return []
    given = config.env.model_dump(exclude_defaults=True).keys() - {"id", "num_envs", "asynchronous"}
    return [f"env.{name} has no part in an environment given in Python: wrap it there" for name in sorted(given)]


def build_envs(
    config: RunConfig,
    objects: Objects,
    *,
    num_envs: int,
    stream: int,
    autoreset: bool,
    asynchronous: bool,
    seed: int | None = None,
) -> VectorEnv:
    """The run's environments on a stream of episodes of their own; those of TRAINING alone may clip or end early.

    num_envs: of each of the run's seeds. seed: that the episodes of all of them follow from, None for their own.
    """
    seeds = list(config.all_seeds) if seed is None else [seed] * config.seeds
    training = stream == TRAINING
    if objects.env is None and config.env.backend == "ale":
        if objects.wrapper is not None:
            raise ValueError("env.backend=ale steps many games at once and takes no wrapper; use env.backend=gymnasium")
        return AtariVectorEnvs(
            config.env,
            num_envs,
            seeds[0],
            stream=stream,
            autoreset=autoreset,
            training=training,
            device=device_of(config),
        )
    if objects.env is None and config.env.backend == "native":
        if objects.wrapper is not None:
            raise ValueError(
                f"env.id={config.env.id} steps all environments at once and takes no wrapper; use env.backend=gymnasium"
            )
        return native_envs(
            config.env,
            num_envs,
            seeds,
            stream=stream,
            autoreset=autoreset,
            device=device_of(config),
            record=record,
        )
    make = objects.env or env_maker(config.env, training=training)

    def wrapped() -> AnyEnv:
        env = make()
        return env if objects.wrapper is None else objects.wrapper(env)

    return GymnasiumEnvs(
        wrapped,
        num_envs,
        seeds[0],
        stream=stream,
        autoreset=autoreset,
        asynchronous=asynchronous,
        device=device_of(config),
    )


def build_agent(config: RunConfig, envs: VectorEnv, objects: Objects, source: Encoder | None = None) -> Agent:
    """The agent with fresh or grafted weights, for the environments given."""
    seeds = Seeds(config.seed)
    # One branch in place of two types: each agent's config builds the network that its own agent takes.
    agent: Any = config.agent

    def network() -> Any:
        if objects.network is not None:
            return objects.network
        if config.seeds > 1:
            return StackedNetwork([agent.network(envs.spec, Seeds(seed)) for seed in config.all_seeds])
        encoder = objects.encoder
        if encoder is None and config.graft.run is not None:
            encoder = transplanted(config.graft, agent.encoder, envs.spec.observation_space, source)
        return agent.network(envs.spec, seeds, encoder)

    made = in_memory("agent", network)
    prepare(made.encoder, config.graft)
    built: Agent = agent.build(made, envs.spec, envs.num_envs, seeds, device_of(config))
    return built


def in_memory(owner: str, build: Callable[[], Any]) -> Any:
    """What `build` makes; ValueError if it does not fit. Torch's global stream is left as it was."""
    with torch.random.fork_rng(devices=()):  # torch's layers draw weights of their own before ours replace them
        try:
            return build()
        except RuntimeError as error:  # torch has no MemoryError
            if "memory" not in str(error):
                raise
            raise ValueError(f"{owner}.encoder: a network of this size does not fit into memory") from error


def device_of(config: Settings) -> torch.device:
    """ValueError if it is not there."""
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={config.device}: torch {torch.__version__} sees no CUDA device; use cpu or auto")
    return torch.device(config.device)


def threads_for(config: Settings, network: nn.Module) -> int:
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
