"""Train a preset on many seeds and say how each ends: the source of every learning claim in docs/results.md.

    python benchmarks/seeds.py dqn/cartpole --seeds 0-9 --threshold 475
    python benchmarks/seeds.py dqn/cartpole-memory --name control agent.{encoder.kind=mlp,sequence_length=1,burn_in=0}

One process a seed, on one thread, `--jobs` of them side by side. An agent is judged by the greedy mean of 100 fresh
episodes with the weights of its last step, never of its best one; a task by its test part, which nothing was chosen by;
a preset of stages stage by stage. A run that was cut short is resumed, one that is complete is only evaluated. Writes
docs/results/NAME.csv, a row a seed (and stage), and prints the table's rows.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("overrides", nargs="*", help="field=value")
    parser.add_argument("--seeds", default="0-9", help="such as 0-9 or 0,3,5 (default 0-9)")
    parser.add_argument("--threshold", type=float, help="count the seeds whose mean reaches it")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--name", help="of the table and the runs (default: the preset's)")
    parser.add_argument("--runs", type=Path, default=Path("runs/seeds"), help="where the run directories go")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="where the CSV goes")
    arguments = parser.parse_intermixed_args()  # overrides may come after options
    name = arguments.name or arguments.preset.replace("/", "-")

    def one(seed: int) -> list[dict[str, object]]:
        directory = arguments.runs / f"{name}-{seed}"
        begun = time.time()
        if (directory / "config.yaml").exists():
            command(["resume", str(directory)])
        else:
            command(["train", arguments.preset, *arguments.overrides, f"seed={seed}", f"run_dir={directory}"])
        seconds = round(time.time() - begun, 1)
        results: list[dict[str, object]] = []
        for stage in stages(directory):
            path = str(directory / stage)
            row = json.loads(command(["evaluate", path, "--episodes", str(arguments.episodes), "--json"]))
            found = {**numbers(row), **along(directory / stage)}
            results.append({"seed": seed, **({"stage": stage} if stage else {}), **found, "seconds": seconds})
            print(results[-1], file=sys.stderr, flush=True)
        return results

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = [row for rows in pool.map(one, seeds(arguments.seeds)) for row in rows]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / f"{name}.csv").open("w", newline="") as file:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for stage in dict.fromkeys(row.get("stage", "") for row in rows):
        members = [row for row in rows if row.get("stage", "") == stage]
        means = [next(float(str(row[column])) for column in row if column in JUDGED) for row in members]
        digits = 1 if "mean" in members[0] else 3
        cells = [f"{name} {stage}".rstrip(), str(len(means)), *(f"{value:.{digits}f}" for value in spread(means))]
        if arguments.threshold is not None:
            reached = sum(mean >= arguments.threshold for mean in means)
            cells.append(f"{reached} of {len(means)} >= {arguments.threshold:g}")
        print(f"| {' | '.join(cells)} |")


JUDGED = ("mean", "accuracy", "r2")  # a return, or what the first head comes to


def stages(directory: Path) -> list[str]:
    """Names of a run's stages, or the run itself."""
    tree = yaml.safe_load((directory / "config.yaml").read_text())
    return list(tree.get("stages", [""]))


def numbers(row: dict[str, Any]) -> dict[str, object]:
    """What a table keeps of an evaluation."""
    if "returns" in row:
        kept = {"step": row["step"], "mean": row["mean"], "std": row["std"], "min": min(row["returns"])}
        return {**kept, "max": max(row["returns"]), "episodes": row["episodes"]}
    found: dict[str, object] = {"epoch": row["epoch"]}
    for place, (head, scores) in enumerate(row["heads"].items()):
        plain = {key: value for key, value in scores.items() if isinstance(value, float)}
        found |= {key if place == 0 else f"{head}_{key}": round(value, 5) for key, value in plain.items()}
    return found


def along(directory: Path) -> dict[str, object]:
    """How fast an agent learnt: the mean of its evaluations during training, as the area under its curve."""
    rows = [json.loads(line) for line in (directory / "evaluations.jsonl").read_text().splitlines()]
    returns = [row["mean"] for row in rows if "mean" in row]
    return {"area": round(statistics.mean(returns), 2)} if returns else {}


def spread(values: list[float]) -> tuple[float, ...]:
    """Mean, standard deviation over seeds, median, lowest and highest."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return statistics.mean(values), deviation, statistics.median(values), min(values), max(values)


def command(arguments: list[str]) -> str:
    """Standard output of a graftwork command; ends the program with its message if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"graftwork {' '.join(arguments)}: {done.stderr.splitlines()[-1:]}")
    return done.stdout


def seeds(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]."""
    chosen: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        chosen += range(int(first), int(last or first) + 1)
    return chosen


if __name__ == "__main__":
    main()
