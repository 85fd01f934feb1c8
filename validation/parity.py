"""Whether our agents do what Stable-Baselines3's do, bit for bit: the same weights from the same random numbers.

A further agent joins as one row of CHECKS.
"""

import csv
import io
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

from ..interop.extra import stable_baselines3
from ..runs.build import numerics
from ..training.durable import make_directory, write_text
from . import parity_dqn, parity_reinforce
from .parity_rows import ParityRow

PARITY = "parity.csv"
LEAST_STEPS = 1_024  # of DQN: from the fourth rollout on it learns, and before there is nothing to compare


@dataclass(frozen=True)
class Check:
    """What is compared, for a seed and a number of environment steps -> rows."""

    name: str
    run: Callable[[int, int], Sequence[ParityRow]]
    every_seed: bool = True  # or the first alone


CHECKS = (
    Check("dqn, learning", parity_dqn.learning),
    Check("dqn, one update, mlp", parity_dqn.update_of_mlp, every_seed=False),
    Check("dqn, one update, Nature CNN", parity_dqn.update_of_cnn, every_seed=False),
    Check("reinforce, learning", parity_reinforce.learning),
    Check("reinforce, one update, mlp", parity_reinforce.update_of_mlp, every_seed=False),
    Check("reinforce, one update, Nature CNN", parity_reinforce.update_of_cnn, every_seed=False),
)


@dataclass(frozen=True)
class ParityReport:
    rows: tuple[ParityRow, ...]

    @property
    def passed(self) -> bool:
        return all(row.is_equal for row in self.rows)

    def record(self) -> dict[str, JsonValue]:
        return {"passed": self.passed, "rows": [row.record() for row in self.rows]}

    def __str__(self) -> str:
        """A table, a row a quantity that was compared."""
        cells = [["", "seed", "steps", "updates", "truncated", "", "difference", "allowed", ""]]
        for row in self.rows:
            numbers = [row.seed, f"{row.steps:,}", f"{row.updates:,}", row.truncations]
            cells.append(
                [row.check, *map(str, numbers), row.what, f"{row.difference:.2g}", f"{row.tolerance:g}", row.verdict]
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)

    def csv(self) -> str:
        text = io.StringIO()
        names = [*(field.name for field in fields(ParityRow)), "verdict"]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.record() for row in self.rows)
        return text.getvalue()


def run(seeds: int, steps: int, out: Path | None, say: Callable[[str], None] = lambda line: None) -> ParityReport:
    """Every check, on seeds 0 and up; written to out/parity.csv. say: is given a line as each check ends.

    ValueError if Stable-Baselines3 is not installed, or there is nothing to do.
    """
    for name, value, least in (("--seeds", seeds, 1), ("--steps", steps, LEAST_STEPS)):
        if value < least:
            raise ValueError(f"{name}={value}: must be at least {least:,}")
    stable_baselines3()
    if out is not None:
        make_directory(out)
    rows: list[ParityRow] = []
    with numerics(threads=1), _global_streams_kept():
        for check in CHECKS:
            for seed in range(seeds if check.every_seed else 1):
                found = check.run(seed, steps)
                rows += found
                say(f"{check.name}, seed {seed}: {', '.join(dict.fromkeys(row.verdict for row in found))}")
    report = ParityReport(tuple(rows))
    if out is not None:
        write_text(out / PARITY, report.csv())
    return report


@contextmanager
def _global_streams_kept() -> Iterator[None]:
    """Theirs seeds and draws from every global stream."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
