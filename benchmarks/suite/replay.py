"""The workload that draws from buffers: `benchmarks/replay.py`, whose rounds are in one process, as an Outcome."""

import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from .clock import Metrics
from .machine import ROOT
from .processes import Outcome, Say, caches, reason
from .workloads import OURS, Scale

CASES = {
    Scale.FULL: ("uniform", "images", "sequences", "prioritised"),
    Scale.QUICK: ("uniform", "images", "prioritised"),
    Scale.TINY: ("uniform",),
}


def run(scale: Scale, repeats: int, say: Say) -> Outcome:
    """Medians of the rounds, a run each: what is compared is drawn in turn, so that the rounds are the repeats."""
    outcome = Outcome()
    script = str(ROOT / "benchmarks" / "replay.py")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, caches() as environment:
        table = Path(folder) / "replay.csv"
        options = ["--cases", *CASES[scale], "--repeats", str(repeats), "--seconds", "0.03", "--out", str(table)]
        done = subprocess.run(
            [sys.executable, script, *options], env=environment, capture_output=True, text=True, check=False
        )
        for line in done.stderr.splitlines():
            if "is not installed and left out" in line:
                outcome.left_out[line.partition(" ")[0]] = "is not installed"
                say(f"replay: {line}")
        if done.returncode != 0:
            outcome.left_out[OURS] = reason(done.stderr)
            say(f"replay: nothing to show: {outcome.left_out[OURS]}")
            return outcome
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                microseconds = float(row["microseconds"])
                numbers: Metrics = {"microseconds": microseconds, "megabytes": float(row["bytes"]) / 1e6}
                outcome.runs[f"{row['case']}: {row['buffer']}"] = [numbers]
                say(f"replay: {row['case']}, {row['buffer']}: {microseconds:,.0f} microseconds")
    return outcome
