"""Installs this package and every peer that can be into the environment whose Python runs it; the others are a line.

python install.py cpu|cuda
"""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
JAX = {"cpu": "jax[cpu]", "cuda": "jax[cuda12]"}


def main(device: str) -> None:
    pip("--no-build-isolation", "--editable", str(ROOT), needed=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    peers = project["optional-dependencies"]["bench"]
    if pip(*peers):  # at once is faster, but then one that cannot be had takes all others with it
        for peer in peers:
            report(peer, pip(peer))
    # It asks for an older filelock than torch's neighbours do; the extra has what else it needs.
    report("tianshou", pip("--no-deps", "tianshou"))
    # Pins of what JAX brings along, for itself: nobody else has a use for them.
    report("JAX", pip("--constraint", str(Path(__file__).with_name("jax.txt")), JAX[device], "gymnax"))


def pip(*arguments: str, needed: bool = False) -> str:
    """What went wrong, in a line; empty if nothing did. needed: then it ends the program."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    command += ["--constraint", str(ROOT / "constraints.txt"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip says no more"]
    if needed:
        sys.exit("\n".join(lines))
    return lines[-1].removeprefix("ERROR: ")


def report(peer: str, problem: str) -> None:
    if problem:
        print(f"{peer} cannot be installed here and is left out: {problem}")


if __name__ == "__main__":
    main(sys.argv[1])
