"""graftwork, as `graftwork train` runs it: metrics, receipt and checkpoints are written as by default."""

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..clock import EPISODES, EVALUATION_PERIOD, Clock, Metrics
from ..play import env_class
from ..settings import DQN as DQNSettings
from ..settings import NATIVE, Preset, Reinforce, Settings


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    """Steps and updates a second are of all seeds."""
    found = trained(settings, clock, seed)[1]
    of_one = {name: found.get(name) for name in ("steps_per_second", "updates_per_second")}
    return {**found, **{name: settings.seeds * speed for name, speed in of_one.items() if speed is not None}}


def preset(settings: Preset, clock: Clock, seed: int) -> Metrics:
    return trained(settings, clock, seed)[1]


def trained(settings: DQNSettings | Preset, clock: Clock, seed: int) -> tuple[Any, Metrics]:
    """The run too."""
    if isinstance(settings, Preset):
        return _train(settings.name, list(settings.overrides), settings, clock, seed)
    overrides = [*dqn_overrides(settings), *_evaluation(EVALUATION_PERIOD if clock.goal == "solved" else 0)]
    if settings.seeds > 1:
        overrides.append(f"seeds={settings.seeds}")
    return _train("sb3/dqn-cartpole", overrides, settings, clock, seed)


def reinforce(settings: Reinforce, clock: Clock, seed: int) -> Metrics:
    overrides = [
        f"env.id={settings.env}",
        f"env.num_envs={settings.num_envs}",
        f"steps={settings.steps}",
        f"agent.encoder={{kind: mlp, hidden: {list(settings.hidden)}, activation: tanh}}",
        f"agent.learning_rate={settings.learning_rate}",
        f"agent.discount={settings.discount}",
        "agent.baseline=standardised",
        "agent.entropy_coefficient=0.0",
        "agent.max_gradient_norm=null",
        *_evaluation(0),
    ]
    return _train("reinforce/cartpole", overrides, settings, clock, seed)[1]


def command_line(settings: Preset, clock: Clock, seed: int) -> Metrics:
    """`graftwork train PRESET`, all of it from the command on; ends with the first environment step."""
    clock.watch(env_class(settings.env))
    from graftwork.__main__ import main

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["graftwork", "train", settings.name, f"seed={seed}", f"run_dir={folder}/run", *settings.overrides]
        main()
    raise AssertionError("no environment was stepped")


def dqn_overrides(settings: DQNSettings) -> list[str]:
    """What makes the preset sb3/dqn-cartpole the settings given; field for field where it already is."""
    hidden = list(settings.hidden)
    encoder = f"{{kind: mlp, hidden: {hidden}}}"
    if settings.convolution is not None:
        layers = f"[{{channels: {settings.convolution}, kernel: 3}}]"
        encoder = f"{{kind: conv, channels: first, layers: {layers}, hidden: {hidden[0]}}}"
    norm = "null" if settings.max_norm is None else settings.max_norm
    epsilon = f"start: 1.0, end: {settings.epsilon_end}, steps: {settings.epsilon_steps}"
    return [
        f"env.id={settings.env}",
        f"env.num_envs={settings.num_envs}",
        f"device={settings.device}",
        f"steps={settings.steps}",
        f"agent.encoder={encoder}",
        f"agent.learning_rate={settings.learning_rate}",
        f"agent.adam_epsilon={settings.adam_epsilon}",
        f"agent.max_gradient_norm={norm}",
        f"agent.value={{kind: scalar, loss: {settings.loss}}}",
        f"agent.batch_size={settings.batch}",
        f"agent.replay_capacity={settings.capacity}",
        f"agent.learning_starts={settings.starts}",
        f"agent.discount={settings.discount}",
        f"agent.target_period={settings.target_period}",
        f"agent.train_period={settings.train_rows}",
        f"agent.updates={settings.updates}",
        f"agent.epsilon={{kind: linear, {epsilon}}}",
        "agent.double=false",
    ]


def _evaluation(period: int) -> list[str]:
    return [f"evaluation.period={period}", f"evaluation.episodes={EPISODES}"]


def _train(name: str, overrides: list[str], settings: Settings, clock: Clock, seed: int) -> tuple[Any, Metrics]:
    if settings.env.startswith(NATIVE):
        from graftwork.training.progress import Progress

        clock.watch_progress(Progress)
    else:
        clock.watch(env_class(settings.env))
    import graftwork as gw

    with tempfile.TemporaryDirectory() as folder, _evaluations_noted(clock):
        run = gw.train(name, *overrides, seed=seed, run_dir=Path(folder) / "run")
        clock.stop(run.step)
        return run, clock.report(run.agent.num_updates)


@contextmanager
def _evaluations_noted(clock: Clock) -> Iterator[None]:
    from graftwork.training.evaluate import GreedyEvaluator

    evaluate: Callable[..., Any] = GreedyEvaluator.__call__

    @functools.wraps(evaluate)
    def timed(evaluator: Any, step: int, stop: Callable[[], bool]) -> Any:
        with clock.paused():
            found = evaluate(evaluator, step, stop)
        clock.evaluated(found.mean)
        return found

    GreedyEvaluator.__call__ = timed
    try:
        yield
    finally:
        GreedyEvaluator.__call__ = evaluate
