"""The settings that workloads are made of."""

from dataclasses import replace

from .settings import A2C, DQN, Device, Preset, Reinforce

ZOO = DQN(
    env="CartPole-v1",
    hidden=(256, 256),
    learning_rate=2.3e-3,
    batch=64,
    capacity=100_000,
    starts=1_000,
    target_period=10,
    train_rows=256,
    updates=128,
    epsilon_end=0.04,
    epsilon_fraction=0.16,
    loss="huber",
    max_norm=10.0,
    steps=50_000,
)
CLEAN = DQN(
    env="CartPole-v1",
    hidden=(120, 84),
    learning_rate=2.5e-4,
    batch=128,
    capacity=10_000,
    starts=10_000,
    target_period=500,
    train_rows=10,
    updates=1,
    epsilon_end=0.05,
    epsilon_fraction=0.5,
    loss="squared",
    max_norm=None,
    steps=100_000,
)
NATIVE_DQN = replace(CLEAN, env="graftwork/CartPole-v1", num_envs=10, train_rows=1, steps=500_000)
BREAKOUT = DQN(
    env="MinAtar/Breakout-v1",
    num_envs=8,
    hidden=(128,),
    convolution=16,
    learning_rate=5e-4,
    batch=32,
    capacity=100_000,
    starts=5_000,
    target_period=1_000,
    train_rows=4,
    updates=8,
    epsilon_end=0.02,
    epsilon_fraction=0.2,
    loss="huber",
    max_norm=10.0,
    steps=60_000,
)
REINFORCE = Reinforce(env="CartPole-v1", num_envs=8, hidden=(128, 128), learning_rate=1e-3, steps=200_000)
A2C_DEFAULTS = A2C(env="CartPole-v1", num_envs=8, steps=100_000)


def on_policy(kind: str, env: str, num_envs: int, steps: int, device: Device = "cpu") -> Preset:
    """PQN or REINFORCE, layers of 64 as SB3's A2C has; for at least four batches, however large these are."""
    is_pqn = kind == "pqn"
    rows = 32 if num_envs <= 64 else 16  # of PQN; a batch of REINFORCE is an episode of each, at first of 25 steps
    steps = max(steps, 4 * num_envs * (rows if is_pqn else 25))
    rate = 1e-3 if is_pqn and num_envs <= 64 else 2e-3
    overrides = [
        *(f"env.id={env}", f"env.num_envs={num_envs}", f"steps={steps}", "evaluation.period=0", f"device={device}"),
        f"agent.learning_rate={{kind: linear, start: {rate}, end: 0.0, steps: {steps}}}",
    ]
    if is_pqn:
        minibatches = min(max(4, num_envs // 64), num_envs)
        overrides += [f"agent.rollout_rows={rows}", "agent.epochs=2", f"agent.minibatches={minibatches}"]
        overrides.append(f"agent.epsilon={{kind: linear, start: 1.0, end: 0.05, steps: {steps // 4}}}")
    if "Breakout" in env:
        norm = ", norm: layer" if is_pqn else ""
        layers = "[{channels: 16, kernel: 3}]"
        overrides.append(f"agent.encoder={{kind: conv, channels: first, layers: {layers}, hidden: 128{norm}}}")
    else:
        overrides.append("agent.encoder.hidden=[64, 64]")
    return Preset(f"{kind}/cartpole", env, steps, num_envs, tuple(overrides), device=device)
