"""Workloads that are curves: ours over sizes on a CPU, and ours beside JAX over numbers of environments on a device."""

from collections.abc import Callable
from dataclasses import replace

from .hyperparameters import BREAKOUT, NATIVE_DQN, on_policy
from .settings import DQN, Device, Limits
from .workloads import JAX, OURS, Scale, Side, Workload

CARTPOLE, MINATAR = "graftwork/CartPole-v1", "graftwork/MinAtarBreakout-v1"
GAMES = {CARTPOLE: "native CartPole", MINATAR: "native MinAtar Breakout"}

Sweep = Callable[[Scale, Device], Workload]


def _points(scale: Scale, full: tuple[int, ...], quick: tuple[int, ...]) -> tuple[int, ...]:
    return {Scale.FULL: full, Scale.QUICK: quick, Scale.TINY: (quick[0], quick[1])}[scale]


def _rows(settings: DQN, rows: int, scale: Scale) -> DQN:
    """So many rows that are learnt from, after the first."""
    rows = min(rows, 8) if scale is Scale.TINY else rows
    steps = settings.starts + rows * settings.num_envs
    return replace(settings, steps=steps, epsilon_fraction=0.5)


def _curve(title: str, axis: str, note: str, sides: dict[str, Side], scale: Scale) -> Workload:
    quick = scale is not Scale.FULL
    return Workload(title, sides, 1 if quick else 3, axis=axis, note=note, warms_up=not quick, timeout=600.0)


def scaling_envs(scale: Scale, _: Device) -> Workload:
    sides = {}
    for num_envs in _points(scale, (1, 4, 16, 64, 256, 1_024, 4_096, 16_384), (1, 64, 1_024, 16_384)):
        base = replace(NATIVE_DQN, num_envs=num_envs, starts=max(1_000, num_envs), capacity=max(10_000, 4 * num_envs))
        settings = _rows(base, max(min(4_000_000 // num_envs, 3_000), 200), scale)
        sides[f"DQN, {num_envs:,}"] = Side(".peers.ours:dqn", settings, series="DQN, an update a row", x=num_envs)
        if scale is Scale.FULL:
            own = on_policy("pqn", CARTPOLE, num_envs, max(min(20_000 * num_envs, 4_000_000), 40_000))
            sides[f"PQN, {num_envs:,}"] = Side(".peers.ours:preset", own, series="PQN", x=num_envs)
    note = "CleanRL's network and batch; a row is a step of every environment."
    return _curve("Number of environments", "environments", note, sides, scale)


def scaling_batch(scale: Scale, _: Device) -> Workload:
    sides = {}
    for batch in _points(scale, (16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096), (16, 256, 4_096)):
        settings = _rows(replace(NATIVE_DQN, batch=batch, starts=5_000), max(min(300_000 // batch, 2_000), 150), scale)
        sides[f"{batch:,}"] = Side(".peers.ours:dqn", settings, series="DQN, 10 environments", x=batch)
    return _curve("Batch size", "transitions an update", "An update for each row of ten environments.", sides, scale)


def scaling_width(scale: Scale, _: Device) -> Workload:
    sides = {}
    for width in _points(scale, (32, 64, 128, 256, 512, 1_024), (32, 256, 1_024)):
        base = replace(NATIVE_DQN, hidden=(width, width), starts=2_000)
        settings = _rows(base, max(min(200_000 // width, 2_000), 150), scale)
        sides[f"{width:,}"] = Side(".peers.ours:dqn", settings, series="DQN, 10 environments", x=width)
    return _curve("Width of the network", "units of each of two layers", "Batches of 128.", sides, scale)


def scaling_replay(scale: Scale, _: Device) -> Workload:
    sides = {}
    for capacity in _points(scale, (1_000, 10_000, 100_000, 1_000_000), (1_000, 100_000, 1_000_000)):
        # Full when learning begins.
        base = replace(NATIVE_DQN, num_envs=64, capacity=capacity, starts=capacity)
        sides[f"{capacity:,}"] = Side(
            ".peers.ours:dqn", _rows(base, 2_000, scale), series="DQN, 64 environments", x=capacity
        )
    return _curve("Capacity of the replay", "transitions", "Filled before learning begins.", sides, scale)


def _gpu(game: str) -> Sweep:
    def sweep(scale: Scale, device: Device) -> Workload:
        sides = {}
        for num_envs in _points(scale, (1, 16, 256, 4_096, 16_384), (1, 16)):
            settings = _rows(_device_dqn(game, num_envs, scale, device), 1_000, scale)
            sides[f"DQN, {num_envs:,}"] = Side(".peers.ours:dqn", settings, series="DQN", x=num_envs)
            needs = ("jax", "gymnax", "optax")
            sides[f"{JAX}, {num_envs:,}"] = Side(".peers.jax_dqn:dqn", settings, needs, "JAX DQN", num_envs)
            for name, kind in (("PQN", "pqn"), ("REINFORCE", "reinforce")):
                steps = 600 if scale is Scale.TINY else 3_000 * num_envs
                own = on_policy(kind, game, num_envs, steps, device)
                sides[f"{name}, {num_envs:,}"] = Side(".peers.ours:preset", own, series=name, x=num_envs)
        return Workload(
            f"{GAMES[game]} on a device",
            sides,
            1 if scale is Scale.TINY else 3,
            axis="environments",
            warms_up=scale is not Scale.TINY,
            note="Environments, replay and learning on the device; DQN makes an update for each row.",
            timeout=900.0,
        )

    return sweep


def _device_dqn(game: str, num_envs: int, scale: Scale, device: Device) -> DQN:
    base = NATIVE_DQN if game == CARTPOLE else replace(BREAKOUT, env=game, train_rows=1, updates=1)
    capacity = 2_000 if scale is Scale.TINY else 262_144
    return replace(base, num_envs=num_envs, capacity=capacity, starts=max(1_000, num_envs), device=device)


def gpu_limits(scale: Scale, device: Device) -> Workload:
    copied, side = (1 << 20, 64) if scale is Scale.TINY else (1 << 30, 8_192)
    return Workload(
        "What the device can do at most",
        {"the device": Side(".peers.device:limits", Limits(copied, side, device))},
        1 if scale is Scale.TINY else 3,
        warms_up=scale is not Scale.TINY,
        note="A copy inside its memory, and a product of two square float32 matrices at torch's default precision.",
    )


def gpu_profile(scale: Scale, device: Device) -> Workload:
    sides = {}
    for game in GAMES:
        for num_envs in (4,) if scale is Scale.TINY else (256, 16_384):
            dqn = _rows(_device_dqn(game, num_envs, scale, device), 1_000, scale)
            what = f"{GAMES[game]}, {num_envs:,}"
            sides[f"DQN, {what}"] = Side(".peers.device:profile", dqn, series=OURS)
            for name, kind in (("PQN", "pqn"), ("REINFORCE", "reinforce")):
                own = on_policy(kind, game, num_envs, 600 if scale is Scale.TINY else 3_000 * num_envs, device)
                sides[f"{name}, {what}"] = Side(".peers.device:profile", own, series=OURS)
    return Workload(
        "Where the device's time goes",
        sides,
        1,
        warms_up=False,
        note="Shares of the time of all kernels, by torch's profiler over some iterations in the middle of a run. Busy "
        "is the time of kernels by the time that passed. Bandwidth is what has to be moved at the least (weights, "
        "optimizer, layers' outputs and their gradients, observations), by the time that passed without the profiler.",
    )


CPU_SWEEPS: dict[str, Sweep] = {
    "scaling-envs": scaling_envs,
    "scaling-batch": scaling_batch,
    "scaling-width": scaling_width,
    "scaling-replay": scaling_replay,
}
GPU_SWEEPS: dict[str, Sweep] = {
    "gpu-limits": gpu_limits,
    "gpu-cartpole": _gpu(CARTPOLE),
    "gpu-breakout": _gpu(MINATAR),
    "gpu-profile": gpu_profile,
}
SWEEPS = {**CPU_SWEEPS, **GPU_SWEEPS}
