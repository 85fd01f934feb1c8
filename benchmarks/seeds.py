"""Train a preset on many seeds and say how each ends: the source of every learning claim in docs/results.md.

    python benchmarks/seeds.py dqn/cartpole --seeds 0-9 --threshold 475
    python benchmarks/seeds.py dqn/cartpole-memory --name control agent.{encoder.kind=mlp,sequence_length=1,burn_in=0}

One process a seed, on one thread, `--jobs` of them side by side. Each seed is judged by the greedy mean of 100 fresh
episodes with the weights of its last step, never of its best one. A run that was cut short is resumed, one that is
complete is only evaluated. Writes docs/results/NAME.csv, a row a seed, and prints the table's row.
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

    def one(seed: int) -> dict[str, object]:
        directory = arguments.runs / f"{name}-{seed}"
        begun = time.time()
        if (directory / "config.yaml").exists():
            command(["resume", str(directory)])
        else:
            command(["train", arguments.preset, *arguments.overrides, f"seed={seed}", f"run_dir={directory}"])
        seconds = time.time() - begun
        row = json.loads(command(["evaluate", str(directory), "--episodes", str(arguments.episodes), "--json"]))
        returns = row["returns"]
        result = {
            "seed": seed,
            "step": row["step"],
            "mean": round(row["mean"], 2),
            "std": round(row["std"], 2),
            "min": min(returns),
            "max": max(returns),
            "episodes": row["episodes"],
            "seconds": round(seconds, 1),
        }
        print(result, file=sys.stderr, flush=True)
        return result

    with ThreadPoolExecutor(arguments.jobs) as pool:
        rows = list(pool.map(one, seeds(arguments.seeds)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    means = [float(str(row["mean"])) for row in rows]
    cells = [name, f"{max(int(str(row['step'])) for row in rows):,}", str(len(rows))]
    cells += [
        f"{statistics.mean(means):.1f}",
        f"{statistics.median(means):.1f}",
        f"{min(means):.1f}",
        f"{max(means):.1f}",
    ]
    if arguments.threshold is not None:
        reached = sum(mean >= arguments.threshold for mean in means)
        cells.append(f"{reached} of {len(rows)} >= {arguments.threshold:g}")
    print(f"| {' | '.join(cells)} |")


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
