"""SB3's side of a comparison: its model, trained as it trains itself, on our environments and judged by our evaluation.

SB3 draws from the global streams of torch, NumPy and Python: it has a process of its own.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from ..engine import Step
from ..envs import EVALUATION, FRESH, EnvSpec, env_maker
from ..interop.extra import stable_baselines3
from ..networks import State
from ..networks.blocks import ACTIVATIONS
from ..runs import RunConfig
from ..runs.build import build_envs, device_of
from ..runs.parts import Objects
from ..spaces import Observation, one_line
from ..training.evaluate import Evaluation, evaluate
from ..training.schedules import Linear, Schedule, crossed
from .arguments import A2CBaseline, Arguments, DQNArguments
from .comparison import SB3_SEED_STRIDE
from .job import Job, Trained, peak_megabytes


def train(job: Job) -> Trained:
    """SB3's model of `job`, trained from the beginning: SB3 can resume no run as if it had never stopped."""
    assert job.arguments is not None
    torch.set_num_threads(1)
    config = job.config
    model = build(job.arguments, config)
    actor = SB3Actor(model)
    evaluations = _Along(actor, config)
    begun = time.perf_counter()
    model.learn(config.steps, callback=evaluations.callback())
    seconds = time.perf_counter() - begun - evaluations.seconds
    peak = peak_megabytes()
    evaluations.conclude(model.num_timesteps)
    return Trained(
        steps=model.num_timesteps,
        curve=tuple(evaluations.curve),
        final=played(actor, config, FRESH, job.episodes).mean,
        seconds=seconds,
        steps_per_second=model.num_timesteps / seconds,
        peak_megabytes=peak,
    )


def build(arguments: Arguments, config: RunConfig) -> Any:
    """SB3's model, untrained, on `config`'s environment in SB3's own vector of them. ValueError as `check_spaces`."""
    stable_baselines3()
    from stable_baselines3.common.vec_env import DummyVecEnv

    make = env_maker(config.env, training=True)
    envs = DummyVecEnv([make] * arguments.num_envs)
    seed, device = SB3_SEED_STRIDE * config.seed, device_of(config)
    if isinstance(arguments, DQNArguments):
        return dqn_model(arguments, envs, config.steps, seed, device)
    return _a2c(arguments, envs, config.steps, seed, device)


def check_spaces(config: RunConfig, arguments: Arguments) -> None:
    """ValueError, in one line, for an environment that SB3 can't take, or would see otherwise than ours."""
    envs = build_envs(config, Objects(), num_envs=1, stream=FRESH, autoreset=False, asynchronous=False)
    try:
        spec = envs.spec
    finally:
        envs.close()
    name, space = f"env.id={config.env.id}", spec.observation_space
    if spec.num_actions is None or spec.action_start != 0:
        raise ValueError(f"{name}: SB3 takes a Discrete action space that starts at 0, not {spec.action_space}")
    if spec.has_action_mask:
        raise ValueError(f"{name}: says which actions are legal, and SB3's models would take no notice")
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        raise ValueError(f"{name}: observes {one_line(space)}, which SB3's models of one observation can't take")
    if isinstance(space, spaces.Discrete) and space.start != 0:
        raise ValueError(f"{name}: observes {one_line(space)}, of which SB3 takes none that does not start at 0")
    _check_image(name, spec, arguments)


class SB3Actor:
    """What our evaluation asks of an agent, answered by SB3's model; observations normalised as in its training."""

    def __init__(self, model: Any) -> None:
        self._model, self._normaliser = model, model.get_vec_normalize_env()

    def initial_state(self, num_envs: int) -> State:
        return ()

    def act(
        self,
        observation: Observation,
        state: State,
        is_first: Tensor,
        *,
        explore: bool,
        action_mask: Tensor | None = None,
    ) -> Step:
        assert isinstance(observation, Tensor)
        rows = observation.cpu().numpy()
        if self._normaliser is not None:
            rows = self._normaliser.normalize_obs(rows)
        action, _ = self._model.predict(rows, deterministic=not explore)
        return Step(torch.as_tensor(action), ())


def played(actor: SB3Actor, config: RunConfig, stream: int, episodes: int) -> Evaluation:
    """Greedy episodes, the very ones that a run of ours with that config and seed plays on the stream."""
    num_envs = min(config.evaluation.num_envs, episodes)
    envs = build_envs(config, Objects(), num_envs=num_envs, stream=stream, autoreset=False, asynchronous=False)
    try:
        return evaluate(actor, envs, episodes)
    finally:
        envs.close()


class _Along:
    """Evaluations by the same rule as our Trainer's: after the updates of the first batch that passes a period."""

    def __init__(self, actor: SB3Actor, config: RunConfig) -> None:
        self._actor, self._config = actor, config
        self._evaluated_at = 0
        self.curve: list[tuple[int, float]] = []
        self.seconds = 0.0

    def callback(self) -> Any:
        """For SB3's learn."""
        from stable_baselines3.common.callbacks import BaseCallback

        note = self._note

        class Evaluate(BaseCallback):
            def _on_rollout_start(self) -> None:  # the updates on the last rollout are done
                note(self.num_timesteps)

            def _on_step(self) -> bool:
                return True

        return Evaluate()

    def conclude(self, step: int) -> None:
        """Evaluate at the end too, unless that has just been done."""
        if step > self._evaluated_at:
            self._evaluate(step)

    def _note(self, step: int) -> None:
        if crossed(self._config.evaluation.period, self._evaluated_at, step):
            self._evaluate(step)

    def _evaluate(self, step: int) -> None:
        begun = time.perf_counter()
        result = played(self._actor, self._config, EVALUATION, self._config.evaluation.episodes)
        self.seconds += time.perf_counter() - begun
        self._evaluated_at = step
        self.curve.append((step, result.mean))


def dqn_model(arguments: DQNArguments, envs: Any, steps: int, seed: int, device: torch.device) -> Any:
    """SB3's DQN. envs: its vector of them, or one environment."""
    from stable_baselines3 import DQN

    policy: dict[str, Any] = {
        "net_arch": list(arguments.net_arch),
        "activation_fn": ACTIVATIONS[arguments.activation],
        "optimizer_kwargs": {"eps": arguments.adam_epsilon},
    }
    return DQN(
        arguments.policy,
        envs,
        learning_rate=_by_progress(arguments.learning_rate, steps),
        buffer_size=arguments.buffer_size,
        learning_starts=arguments.learning_starts,
        batch_size=arguments.batch_size,
        tau=arguments.tau,
        gamma=arguments.gamma,
        train_freq=arguments.train_freq,
        gradient_steps=arguments.gradient_steps,
        n_steps=arguments.n_steps,
        target_update_interval=arguments.target_update_interval,
        exploration_initial_eps=arguments.exploration_initial_eps,
        exploration_final_eps=arguments.exploration_final_eps,
        exploration_fraction=arguments.exploration_fraction,
        max_grad_norm=arguments.max_grad_norm,
        policy_kwargs=policy,
        seed=seed,
        device=device,
    )


def _a2c(baseline: A2CBaseline, envs: Any, steps: int, seed: int, device: torch.device) -> Any:
    from stable_baselines3 import A2C
    from stable_baselines3.common.vec_env import VecNormalize

    if baseline.normalise_observation or baseline.normalise_reward:
        envs = VecNormalize(
            envs,
            norm_obs=baseline.normalise_observation,
            norm_reward=baseline.normalise_reward,
            gamma=baseline.discount,
        )
    policy: dict[str, Any] = {
        "net_arch": {"pi": list(baseline.hidden_policy), "vf": list(baseline.hidden_value)},
        "activation_fn": ACTIVATIONS[baseline.activation],
    }
    if not baseline.rms_prop:
        policy["optimizer_kwargs"] = {"eps": baseline.epsilon}
    decaying: Schedule = Linear(start=baseline.learning_rate, end=0.0, steps=steps)
    model = A2C(
        "MlpPolicy",
        envs,
        learning_rate=_by_progress(decaying, steps) if baseline.linear_decay else baseline.learning_rate,
        n_steps=baseline.n_steps,
        gamma=baseline.discount,
        gae_lambda=baseline.gae_lambda,
        ent_coef=baseline.entropy_coefficient,
        vf_coef=baseline.value_coefficient,
        max_grad_norm=baseline.max_gradient_norm,
        rms_prop_eps=baseline.epsilon,
        use_rms_prop=baseline.rms_prop,
        policy_kwargs=policy,
        seed=seed,
        device=device,
    )
    if baseline.zero_value:  # its gradient is 0 too, value_coefficient being 0
        with torch.no_grad():
            for parameter in model.policy.value_net.parameters():
                parameter.zero_()
    return model


def _by_progress(schedule: Schedule, steps: int) -> Callable[[float], float]:
    """A schedule by environment step as SB3 asks for it, by the share of progress that remains."""
    return lambda remaining: schedule.at((1.0 - remaining) * steps)


def _check_image(name: str, spec: EnvSpec, arguments: Arguments) -> None:
    from stable_baselines3.common.preprocessing import is_image_space

    is_image = is_image_space(spec.observation_space)
    takes_images = isinstance(arguments, DQNArguments) and arguments.policy == "CnnPolicy"
    if is_image != takes_images:
        seen = one_line(spec.observation_space)
        why = "are images to SB3, which divides them by 255" if is_image else "are no images to SB3"
        raise ValueError(f"{name}: observations {seen} {why}; agent.encoder.kind={'conv' if is_image else 'mlp'} fits")
