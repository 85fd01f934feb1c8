"""DQN as one plain loop of PyTorch with Stable-Baselines3's replay: how single-file implementations are written.

It stands where such an implementation cannot be installed. Autograd, torch's own Adam, one environment, no logging.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from ..clock import Clock, Metrics
from ..play import env_class, greedy_return, make_env
from ..settings import DQN as DQNSettings


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    clock.watch(env_class(settings.env))
    import torch
    from stable_baselines3.common.buffers import ReplayBuffer
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    env: Any = make_env(settings.env)
    sizes = (*env.observation_space.shape, *settings.hidden)

    def network() -> nn.Sequential:
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], int(env.action_space.n)))

    online, target = network(), network()
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon)
    error: Callable[..., Any] = nn.functional.smooth_l1_loss if settings.loss == "huber" else nn.functional.mse_loss
    replay = ReplayBuffer(
        settings.capacity, env.observation_space, env.action_space, "cpu", handle_timeout_termination=False
    )
    observation, _ = env.reset(seed=seed)
    updates = 0
    for step in range(settings.steps):
        epsilon = 1.0 + min(step / settings.epsilon_steps, 1.0) * (settings.epsilon_end - 1.0)
        if rng.random() < epsilon:
            action = int(rng.integers(env.action_space.n))
        else:
            with torch.no_grad():
                action = int(online(torch.from_numpy(observation)).argmax())
        following, reward, terminated, truncated, info = env.step(action)
        replay.add(observation, following, np.array(action), np.array(reward), np.array(terminated), [info])
        observation = following if not (terminated or truncated) else env.reset()[0]
        if step < settings.starts or step % settings.train_rows != 0:
            continue
        for _ in range(settings.updates):
            batch = replay.sample(settings.batch)
            with torch.no_grad():
                best = target(batch.next_observations).amax(1, keepdim=True)
                goal = batch.rewards + settings.discount * best * (1 - batch.dones)
            loss = error(online(batch.observations).gather(1, batch.actions), goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
        if step % settings.target_period < settings.train_rows:
            target.load_state_dict(online.state_dict())
    clock.stop(settings.steps)
    metrics = clock.report(updates)
    with torch.no_grad():
        mean = greedy_return(lambda batch: online(torch.from_numpy(batch)).argmax(-1), settings.env)
    return {**metrics, "final_return": mean}
