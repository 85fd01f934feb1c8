"""Native environments beside gymnasium's, in one process, on one CPU thread: rows of all environments a second.

    OMP_NUM_THREADS=1 python benchmarks/native_envs.py

Each side is given random actions made before, in the form it takes: `native` tensors in and out, as an agent steps it;
`make_vec` the same game through gymnasium's door, NumPy in and out; `sync` gymnasium's original (MinAtar's by
graftwork's adapter) in a SyncVectorEnv; `entry point` the original's own vector environment, where it has one. The row
that begins an episode counts for every side. Sides take turns, round after round, so that a drift of the machine's
speed meets all; a first round is a warm-up. Writes docs/results/native-envs.csv and prints a table of medians.
"""

import argparse
import csv
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from graftwork.envs import EnvConfig, minatar, native_envs

ROOT = Path(__file__).resolve().parent.parent
ORIGINALS = {
    "graftwork/CartPole-v1": "CartPole-v1",
    "graftwork/Acrobot-v1": "Acrobot-v1",
    "graftwork/MountainCar-v0": "MountainCar-v0",
    "graftwork/MinAtarBreakout-v1": "MinAtar/Breakout-v1",
}
SIDES = ("native", "make_vec", "sync", "entry point")
MADE = 64  # rows of actions, used again and again

Step = Callable[[Any], object]


def opened(side: str, env_id: str, num_envs: int) -> tuple[Step, list[Any]] | None:
    """What steps the environments of a side, begun, and actions for it; None if there is no such side."""
    if side == "native":
        envs = native_envs(EnvConfig(id=env_id), num_envs, 0)
        envs.reset()
        actions = torch.randint(
            envs.spec.num_actions or 0, (MADE, num_envs), generator=torch.Generator().manual_seed(0)
        )
        return envs.step, list(actions)
    name = env_id if side == "make_vec" else ORIGINALS[env_id]
    mode = "sync" if side == "sync" else "vector_entry_point"
    if mode == "vector_entry_point" and gymnasium.spec(name).vector_entry_point is None:
        return None
    env: Any = gymnasium.make_vec(name, num_envs, vectorization_mode=mode)
    env.reset(seed=0)
    env.action_space.seed(0)
    return env.step, [env.action_space.sample() for _ in range(MADE)]


def rate(step: Step, actions: list[Any], num_envs: int, seconds: float) -> float:
    """Rows of environments a second, over at least so long."""
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        for action in actions[:8]:
            step(action)
        count += 8
        actions = actions[8:] + actions[:8]
    return count * num_envs / passed


def measured(env_id: str, num_envs: int, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Rates of each side, a round each."""
    sides = {side: found for side in SIDES if (found := opened(side, env_id, num_envs)) is not None}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for round_ in range(repeats + 1):
        for side, (step, actions) in sides.items():
            found = rate(step, actions, num_envs, seconds)
            if round_:
                rates[side].append(found)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", choices=ORIGINALS, default=list(ORIGINALS))
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 8, 64, 1024])
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds")
    parser.add_argument("--seconds", type=float, default=0.3, help="that each side steps for in a round")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/native-envs.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    minatar.register()
    table = []
    print(f"| environment | environments | {' | '.join(SIDES)} | against sync |\n{'|---' * (len(SIDES) + 3)}|")
    for env_id in arguments.envs:
        for num_envs in arguments.num_envs:
            rates = measured(env_id, num_envs, arguments.repeats, arguments.seconds)
            medians = {side: statistics.median(found) for side, found in rates.items()}
            cells = [f"{medians[side]:,.0f}" if side in medians else "" for side in SIDES]
            against = f"{medians['native'] / medians['sync']:.2f}x"
            print(f"| {env_id} | {num_envs:,} | {' | '.join(cells)} | {against} |", flush=True)
            for side, found in rates.items():
                rounded = {"median": round(medians[side]), "lowest": round(min(found)), "highest": round(max(found))}
                table.append({"env": env_id, "num_envs": num_envs, "side": side, **rounded})
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(
        f"\nrows a second; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}",
        end="",
    )
    print(f", gymnasium {gymnasium.__version__}, {load}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
