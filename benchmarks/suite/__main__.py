"""The command: runs workloads, keeps what they come to, and writes the page."""

import argparse
import subprocess
import sys
from pathlib import Path

from . import page, pictures, processes, records, replay
from .machine import ROOT
from .settings import Device
from .sweeps import CPU_SWEEPS, GPU_SWEEPS
from .workloads import WORKLOADS, Scale, workload

FILL = 120.0  # seconds
NO_DEVICE = 2  # exit status
_ASK = "import sys, torch; sys.exit(not torch.cuda.is_available())"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 1 if something of ours failed, 2 if there is no CUDA device to run on."""
    parser = argparse.ArgumentParser(prog="suite", description=__doc__)
    parser.add_argument("--scale", choices=[scale.value for scale in Scale], default="full")
    parser.add_argument("--gpu", action="store_true", help="the workloads for a device, in place of the others")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="of --gpu (default cuda); cpu tries them out")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="workloads to run (default: all)")
    parser.add_argument("--repeats", type=int, help="runs that count (default: the workload's)")
    parser.add_argument("--fill", type=float, help="seconds for ours to compile before (full scale: 120)")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what there is")
    parser.add_argument("--results", type=Path, default=records.FOLDER, help="where records and pictures are")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the page")
    parsed = parser.parse_args(arguments)
    names = list(GPU_SWEEPS) if parsed.gpu else [*WORKLOADS, *CPU_SWEEPS]
    unknown = [name for name in parsed.only if name not in names]
    if unknown:
        parser.error(f"no workload {unknown[0]}; there are {', '.join(names)}")
    device: Device = (parsed.device or "cuda") if parsed.gpu else "cpu"
    if device == "cuda" and subprocess.run([sys.executable, "-c", _ASK], check=False).returncode != 0:
        print("torch sees no CUDA device here: nothing to measure", file=sys.stderr)
        return NO_DEVICE
    if parsed.page:
        _write(parsed.results, parsed.out)
        return 0
    scale, succeeded = Scale(parsed.scale), True
    fill = parsed.fill if parsed.fill is not None else FILL if scale is Scale.FULL and not parsed.gpu else 0.0
    for name in parsed.only or names:
        succeeded &= _run(name, scale, device, parsed.repeats, fill, parsed.results)
        _write_apart(parsed.results, parsed.out)  # after each: what was measured is kept if the next is cut short
    print(f"written: {parsed.out}")
    return 0 if succeeded else 1


def _run(name: str, scale: Scale, device: Device, repeats: int | None, fill: float, results: Path) -> bool:
    """Whether ours ran."""
    found = workload(name, scale, device)
    count = found.repeats if repeats is None else repeats
    if name == "replay" or found.axis or found.goal == "start":
        fill = 0.0  # nothing is compiled, or too much: a network of its own for each point of a curve
    if name == "replay":
        outcome = replay.run(scale, count, _say)
    else:
        outcome = processes.run(name, found, scale, device, count, _say, fill=fill)
    if outcome.runs:
        records.write(results, records.record(name, found, outcome, scale, device, count, fill))
    return not processes.failed(outcome, found)


def _write_apart(results: Path, out: Path) -> None:
    """In a process of its own: this one has to stay small, see processes.py."""
    command = [sys.executable, "-P", "-m", "suite", "--page", "--results", str(results), "--out", str(out)]
    with processes.caches() as environment:
        subprocess.run(command, env=environment, check=False)


def _write(results: Path, out: Path) -> None:
    found = records.read_all(results)
    records.write_summary(results, found)
    page.write(out, found, pictures.draw(results, found))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
