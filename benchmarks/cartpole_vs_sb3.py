"""DQN on CartPole-v1 against Stable-Baselines3's, side by side in one run, at rl-baselines3-zoo's hyper-parameters.

    python benchmarks/cartpole_vs_sb3.py --runs 5 --json benchmarks/results/cartpole_vs_sb3.json

Each side runs in a process of its own on one thread, the sides in turn, so that a drift of the machine's speed meets
all; one run of each is a warm-up and not counted. All evaluate greedily on 10 episodes every 2,500 steps, and the
seconds that take are left out of every side's wall-clock. Ours also writes its metrics and checkpoints. Needs the
extra `sb3`.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, PERIOD, EPISODES, SOLVED = 50_000, 2_500, 10, 475.0
SIDES = {"zoo": "graftwork, zoo settings", "preset": "graftwork, preset", "sb3": "SB3"}
ROWS = (
    ("steps_per_second", "steps/s with learning", "higher"),
    ("train_seconds", "seconds to train 50,000 steps", "lower"),
    ("solved_seconds", "seconds to the first 475", "lower"),
    ("first_step_seconds", "seconds from process start to the first step", "lower"),
    ("peak_megabytes", "peak memory, MB", "lower"),
    ("final_return", "greedy return at the end", "higher"),
)


class Clock:
    """Wall-clock without evaluations, the instant of the first environment step, and when 475 was first reached."""

    def __init__(self, started: float) -> None:
        self.started, self.first_step = started, 0.0
        self.evaluating, self.solved, self.last_return = 0.0, None, 0.0

    def make_env(self) -> Any:
        import gymnasium

        clock = self

        class FirstStep(gymnasium.Wrapper[Any, Any, Any, Any]):
            def step(self, action: Any) -> Any:
                if not clock.first_step:
                    clock.first_step = time.time()
                return self.env.step(action)

        return FirstStep(gymnasium.make("CartPole-v1", disable_env_checker=True))

    def timed(self, evaluate: Callable[[], float]) -> None:
        begun = time.time()
        self.last_return = evaluate()
        if self.solved is None and self.last_return >= SOLVED:
            self.solved = begun - self.first_step - self.evaluating
        self.evaluating += time.time() - begun

    def report(self) -> dict[str, float | None]:
        seconds = time.time() - self.first_step - self.evaluating
        return {
            "steps_per_second": STEPS / seconds,
            "train_seconds": seconds,
            "solved_seconds": self.solved,
            "first_step_seconds": self.first_step - self.started,
            "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "final_return": self.last_return,
        }


def ours(clock: Clock, seed: int, preset: str) -> None:
    import graftwork as gw
    from graftwork.training import evaluate as evaluation

    evaluate = evaluation.evaluate

    def timed(*arguments: Any, **options: Any) -> Any:
        results: list[Any] = []

        def run() -> float:
            results.append(evaluate(*arguments, **options))
            return float(results[0].mean)

        clock.timed(run)
        return results[0]

    evaluation.evaluate = timed
    overrides = ["threads=1", f"steps={STEPS}", f"evaluation.period={PERIOD}", f"evaluation.episodes={EPISODES}"]
    if preset == "zoo":  # the same as SB3's side to the last number
        overrides += [
            "agent.learning_rate=2.3e-3",
            "agent.double=false",
            "agent.target_period=10",
            "agent.discount=0.99",
        ]
        overrides += ["agent.epsilon={kind: linear, start: 1.0, end: 0.04, steps: 8000}", "agent.train_period=256"]
        overrides += ["agent.updates=128", "agent.batch_size=64", "agent.learning_starts=1000"]
        overrides += ["agent.value={kind: scalar, loss: huber}"]
        overrides += ["agent.encoder={kind: mlp, hidden: [256, 256]}", "agent.max_gradient_norm=10"]
    with tempfile.TemporaryDirectory() as folder:
        gw.train("dqn/cartpole", *overrides, seed=seed, run_dir=Path(folder) / "run", env=clock.make_env, quiet=True)


def theirs(clock: Clock, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    from stable_baselines3 import DQN
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    evaluation_env = Monitor(clock.make_env())

    class Evaluate(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % PERIOD == 0:
                clock.timed(lambda: float(evaluate_policy(self.model, evaluation_env, EPISODES, warn=False)[0]))
            return True

    model = DQN(
        "MlpPolicy",
        clock.make_env(),
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_final_eps=0.04,
        policy_kwargs={"net_arch": [256, 256]},
        seed=seed,
        device="cpu",
    )
    model.learn(STEPS, callback=Evaluate())


def run_side(side: str, seed: int) -> dict[str, float | None]:
    command = [sys.executable, __file__, "--side", side, "--seed", str(seed), "--started", str(time.time())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{side}, seed {seed}: {done.stderr}")
    result: dict[str, float | None] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side:8} seed {seed}: {json.dumps({k: v and round(v, 1) for k, v in result.items()})}", file=sys.stderr)
    return result


def median(rows: list[dict[str, float | None]], key: str) -> float | None:
    """None unless more than half the runs have a value; a run without one counts as the slowest."""
    middle = statistics.median(float("inf") if (value := row[key]) is None else value for row in rows)
    return None if middle == float("inf") else middle


def table(sides: dict[str, list[dict[str, float | None]]]) -> str:
    lines = ["| median of runs | " + " | ".join(SIDES[side] for side in sides) + " | zoo settings against SB3 |"]
    lines.append("|---" * (len(sides) + 2) + "|")
    for key, label, better in ROWS:
        values = {side: median(rows, key) for side, rows in sides.items()}
        ours_, base = values.get("zoo"), values.get("sb3")
        ratio = "" if not ours_ or not base else f"{ours_ / base if better == 'higher' else base / ours_:.2f}x"
        cells = ["-" if value is None else f"{value:,.1f}" for value in values.values()]
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted runs of each side; seeds 0, 1, ...")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--json", type=Path, help="file for every run's figures")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        clock = Clock(arguments.started)
        if arguments.side == "sb3":
            theirs(clock, arguments.seed)
        else:
            ours(clock, arguments.seed, arguments.side)
        print(json.dumps(clock.report()))
        return
    sides: dict[str, list[dict[str, float | None]]] = {side: [] for side in arguments.sides}
    for side in sides:
        run_side(side, 1000)
    for seed in range(arguments.runs):
        for side, rows in sides.items():
            rows.append(run_side(side, seed))
    print(table(sides))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        versions = {name: __import__(name).__version__ for name in ("torch", "gymnasium", "stable_baselines3", "numpy")}
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        record = {"versions": versions, "python": platform.python_version(), "machine": machine, "runs": sides}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
