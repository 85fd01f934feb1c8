"""Stable-Baselines3, as its documentation has it."""

from typing import Any

from ..clock import EVALUATION_PERIOD, Clock, Metrics
from ..play import env_class, greedy_return, make_env
from ..settings import A2C as A2CSettings
from ..settings import DQN as DQNSettings


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    """Its loss is Huber's whatever the settings say, and it knows no run without a norm: infinity stands for that."""
    clock.watch(env_class(settings.env))
    import torch

    torch.set_num_threads(1)
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    env: Any = make_env(settings.env)
    if settings.num_envs > 1:
        env = make_vec_env(lambda: make_env(settings.env), settings.num_envs)
    policy: dict[str, Any] = {"net_arch": list(settings.hidden), "optimizer_kwargs": {"eps": settings.adam_epsilon}}
    if settings.convolution is not None:
        policy |= _convolution(settings)
    model = DQN(
        "MlpPolicy",
        env,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch,
        buffer_size=settings.capacity,
        learning_starts=settings.starts,
        gamma=settings.discount,
        target_update_interval=settings.target_period,
        train_freq=settings.train_rows,
        gradient_steps=settings.updates,
        exploration_fraction=settings.epsilon_fraction,
        exploration_final_eps=settings.epsilon_end,
        max_grad_norm=float("inf") if settings.max_norm is None else settings.max_norm,
        policy_kwargs=policy,
        seed=seed,
        device=settings.device,
    )

    def evaluate() -> None:
        with clock.paused():
            mean = greedy_return(lambda batch: model.predict(batch, deterministic=True)[0], settings.env)
        clock.evaluated(mean)

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % EVALUATION_PERIOD == 0:
                evaluate()
            return True

    model.learn(settings.steps, callback=Evaluate() if clock.goal == "solved" else None)
    clock.stop(model.num_timesteps)
    metrics = clock.report(model._n_updates)
    if clock.goal == "rate":
        evaluate()
    return {**metrics, "final_return": clock.last_return}


def a2c(settings: A2CSettings, clock: Clock, seed: int) -> Metrics:
    clock.watch(env_class(settings.env))
    import torch

    torch.set_num_threads(1)
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    model = A2C("MlpPolicy", make_vec_env(settings.env, settings.num_envs), seed=seed, device=settings.device)
    model.learn(settings.steps)
    clock.stop(model.num_timesteps)
    metrics = clock.report(model._n_updates)
    mean = greedy_return(lambda batch: model.predict(batch, deterministic=True)[0], settings.env)
    return {**metrics, "final_return": mean}


def _convolution(settings: DQNSettings) -> dict[str, Any]:
    """The same layers as ours, as a features extractor: no further ones after it."""
    import torch
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
    from torch import Tensor, nn

    class Convolution(BaseFeaturesExtractor):
        def __init__(self, space: Any) -> None:
            super().__init__(space, settings.hidden[0])
            channels, height, width = space.shape
            assert settings.convolution is not None
            flat = settings.convolution * (height - 2) * (width - 2)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, settings.convolution, 3),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(flat, settings.hidden[0]),
                nn.ReLU(),
            )

        def forward(self, observation: Tensor) -> Tensor:
            found: Tensor = self.layers(observation.to(torch.float32))
            return found

    return {"features_extractor_class": Convolution, "net_arch": []}
