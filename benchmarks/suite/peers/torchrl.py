"""TorchRL: an actor, a collector, a replay and a loss, put together as its own DQN examples are."""

from typing import Any

from ..clock import Clock, Metrics
from ..play import env_class, greedy_return, make_env
from ..settings import DQN as DQNSettings


def dqn(settings: DQNSettings, clock: Clock, seed: int) -> Metrics:
    clock.watch(env_class(settings.env))
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    _load()
    from tensordict.nn import TensorDictSequential
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.envs import GymWrapper
    from torchrl.modules import MLP, EGreedyModule, QValueActor
    from torchrl.objectives import DQNLoss, HardUpdate

    env: Any = GymWrapper(make_env(settings.env), categorical_action_encoding=True)
    env.set_seed(seed)
    (width,) = env.observation_spec["observation"].shape
    net = MLP(width, env.action_spec.n, num_cells=settings.hidden, activation_class=torch.nn.ReLU)
    actor = QValueActor(net, in_keys=["observation"], spec=env.action_spec)
    greedy = EGreedyModule(env.action_spec, 1.0, settings.epsilon_end, settings.epsilon_steps)
    collector: Any = Collector(
        env,
        TensorDictSequential(actor, greedy),
        frames_per_batch=settings.train_steps,
        total_frames=settings.steps,
        init_random_frames=settings.starts,
    )
    replay: Any = TensorDictReplayBuffer(storage=LazyTensorStorage(settings.capacity), batch_size=settings.batch)
    kind = "smooth_l1" if settings.loss == "huber" else "l2"
    loss: Any = DQNLoss(actor, loss_function=kind, delay_value=True)
    loss.make_value_estimator(gamma=settings.discount)
    # It copies at the call after so many, and a burst's updates come in a row: one copy a burst, as elsewhere.
    bursts = max(settings.target_period // settings.train_steps, 1)
    target = HardUpdate(loss, value_network_update_interval=bursts * settings.updates - 1)
    optimizer = torch.optim.Adam(loss.parameters(), lr=settings.learning_rate, eps=settings.adam_epsilon)
    steps = updates = 0
    for rollout in collector:
        replay.extend(rollout.reshape(-1))
        steps += rollout.numel()
        greedy.step(rollout.numel())
        if steps <= settings.starts:
            continue
        for _ in range(settings.updates):
            error = loss(replay.sample())["loss"]
            optimizer.zero_grad()
            error.backward()
            if settings.max_norm is not None:
                torch.nn.utils.clip_grad_norm_(loss.parameters(), settings.max_norm)
            optimizer.step()
            target.step()
            updates += 1
    clock.stop(steps)
    metrics = clock.report(updates)
    collector.shutdown()
    with torch.no_grad():
        mean = greedy_return(lambda batch: net(torch.from_numpy(batch)).argmax(-1), settings.env)
    return {**metrics, "final_return": mean}


def _load() -> None:
    """Its extension is built for one release of torch and needs of another what no replay calls: bind it late."""
    import logging
    import os
    import sys
    import warnings

    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    import torchrl  # noqa: F401

    sys.setdlopenflags(flags)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    warnings.simplefilter("ignore")
