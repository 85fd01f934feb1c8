"""Which of DQN's switches helps where: a plain DQN, each switch alone, and all of Rainbow's, on the same seeds.

    python benchmarks/switches.py --seeds 0-4

Every run differs from its task's base by one switch alone; nothing else is tuned for it, so a switch is judged at the
settings of plain DQN. Reported are the greedy mean of 100 fresh episodes at the last step and the area: the mean
of the evaluations along the way. Goes through benchmarks/seeds.py, so runs that were cut short go on. Writes
docs/results/switches-TASK.csv for each task, a row a seed, and prints the table.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent

DQN = {"kind": "dqn", "double": False, "encoder": {"kind": "mlp", "hidden": [128, 128]}}
CLASSIC = {
    **DQN,
    "learning_rate": {"kind": "linear", "start": 1e-3, "end": 0.0, "steps": 49_900},
    "target_period": 500,
    "train_period": 16,
    "updates": 8,
}
TASKS: dict[str, dict[str, object]] = {
    "cartpole": {
        "steps": 49_900,
        "env": {"id": "CartPole-v1"},
        "agent": {**CLASSIC, "epsilon": {"kind": "linear", "start": 1.0, "end": 0.04, "steps": 8_000}},
        "evaluation": {"period": 5_000},
    },
    "acrobot": {
        "steps": 49_900,
        "env": {"id": "Acrobot-v1"},
        "agent": {**CLASSIC, "epsilon": {"kind": "linear", "start": 1.0, "end": 0.05, "steps": 12_000}},
        "evaluation": {"period": 5_000},
    },
    "minatar-breakout": {
        "steps": 149_900,
        "env": {"id": "MinAtar/Breakout-v1", "num_envs": 8},
        "agent": {
            **DQN,
            "encoder": {"kind": "conv", "channels": "first", "layers": [{"channels": 16, "kernel": 3}], "hidden": 128},
            "learning_rate": {"kind": "linear", "start": 5e-4, "end": 0.0, "steps": 149_900},
            "batch_size": 32,
            "learning_starts": 5_000,
            "train_period": 4,
            "updates": 8,
            "epsilon": {"kind": "linear", "start": 1.0, "end": 0.02, "steps": 50_000},
        },
        "evaluation": {"period": 15_000, "episodes": 20},
    },
}
RETURNS = {"cartpole": (0, 100), "acrobot": (-100, 0), "minatar-breakout": (0, 20)}  # discounted, that C51 tells
SWITCHES: dict[str, list[str]] = {
    "plain": [],
    "double": ["agent.double=true"],
    "dueling": ["agent.head.dueling=true"],
    "3-step": ["agent.n_step=3"],
    "prioritised": ["agent.prioritised={}"],
    "noisy": ["agent.head.noise=0.5", "agent.epsilon=0.0"],
    "munchausen": ["agent.munchausen={}"],
    "soft target": ["agent.target_rate=0.005"],
    "c51": ["agent.value={kind: categorical, low: LOW, high: HIGH}"],
    "qr": ["agent.value={kind: quantile}"],
    "iqn": ["agent.value={kind: implicit, num_fractions: 8, num_target_fractions: 8}"],
}
SWITCHES["rainbow"] = [
    change for name in ("double", "dueling", "3-step", "prioritised", "noisy", "c51") for change in SWITCHES[name]
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0-4", help="such as 0-4 or 0,3 (default 0-4)")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--switches", nargs="+", choices=SWITCHES, default=list(SWITCHES))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=Path, default=Path("runs/switches"), help="where the run directories go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="where the CSV goes")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        preset = arguments.runs / f"{task}.yaml"
        preset.write_text(yaml.safe_dump(TASKS[task]))
        low, high = map(str, RETURNS[task])
        rows: list[dict[str, str]] = []
        for switch in arguments.switches:
            name = f"{task}-{switch.replace(' ', '-')}"
            changes = [change.replace("LOW", low).replace("HIGH", high) for change in SWITCHES[switch]]
            options = ["--seeds", arguments.seeds, "--jobs", str(arguments.jobs), "--name", name]
            places = ["--runs", str(arguments.runs), "--out", str(arguments.runs)]
            command = [sys.executable, str(ROOT / "benchmarks/seeds.py"), str(preset), *changes, *options, *places]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            with (arguments.runs / f"{name}.csv").open(newline="") as file:
                found = [{"task": task, "switch": switch, **row} for row in csv.DictReader(file)]
            rows += found
            print(line(task, switch, found), flush=True)
        with (arguments.out / f"switches-{task}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def line(task: str, switch: str, rows: list[dict[str, str]]) -> str:
    """A row of the table: mean and standard deviation over seeds, of the end and of the way there, and the time."""
    cells = [task, switch, str(len(rows))]
    for column in ("mean", "area"):
        values = [float(row[column]) for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        cells.append(f"{statistics.mean(values):.1f} ± {deviation:.1f}")
    cells.append(f"{statistics.median(float(row['seconds']) for row in rows):.0f}")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
