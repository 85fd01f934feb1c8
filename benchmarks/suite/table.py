"""Ratios, and whether what was wanted was reached."""

from collections.abc import Mapping
from dataclasses import dataclass

from .records import Record, median
from .workloads import CLEANRL, JAX, LOOP, OURS, SB3, TIANSHOU

LOWER_IS_BETTER = {"first_step_seconds", "solved_seconds", "total_seconds", "peak_megabytes", "microseconds"}


@dataclass(frozen=True)
class Requirement:
    """How much better one side of a workload has to be than another."""

    what: str
    workload: str
    metric: str
    against: str  # a side; with a star, the best of those that begin so
    at_least: float | None = None  # times as good
    at_most: float | None = None  # times as much: of what is better when lower
    ours: str = OURS


@dataclass(frozen=True)
class Verdict:
    required: str
    reached: str
    answer: str  # yes, no, or not measured


A2C = f"{SB3}, A2C"
# 100,000 steps/s on a core where A2C makes 9,800.
_ON_POLICY = ("native-onpolicy", "steps_per_second", A2C, 100_000 / 9_800)
REQUIREMENTS = (
    Requirement("DQN CartPole, rl-zoo settings: steps/s", "dqn-zoo", "steps_per_second", SB3, 3.5),
    Requirement("the same: from the start of the process to solved", "dqn-zoo-solved", "solved_seconds", SB3, 3),
    Requirement("DQN CartPole, CleanRL's settings: steps/s", "dqn-cleanrl", "steps_per_second", CLEANRL, 3),
    Requirement("the same", "dqn-cleanrl", "steps_per_second", SB3, 3),
    Requirement("the same", "dqn-cleanrl", "steps_per_second", LOOP, 3),
    Requirement("REINFORCE CartPole: steps/s", "reinforce", "steps_per_second", TIANSHOU, 4),
    Requirement("DQN, native CartPole, 10 environments: steps/s", "native-dqn", "steps_per_second", JAX, 0.8),
    Requirement("the same: to the first step", "native-dqn", "first_step_seconds", JAX, 3),
    *(
        Requirement(f"{side}, native CartPole: steps/s", *_ON_POLICY, ours=side)
        for side in (f"{kind}, {num} environments" for kind in ("PQN", "REINFORCE") for num in ("64", "1,024"))
    ),
    Requirement("`graftwork train` to the first step", "start", "first_step_seconds", SB3, at_most=0.8),
    Requirement("MinAtar Breakout DQN, convolution: steps/s", "breakout", "steps_per_second", SB3, 3),
    *(
        Requirement(f"Replay, {case}: batches/s", "replay", "microseconds", f"{case}: *", 3, ours=f"{case}: {OURS}")
        for case in ("uniform", "images", "prioritised")
    ),
    Requirement("32 seeds at once", "seeds", "steps_per_second", "one after another", 3, ours="32 at once"),
    Requirement(
        "peak memory of `dqn/cartpole`", "dqn-zoo", "peak_megabytes", SB3, at_most=1.0, ours=f"{OURS}, dqn/cartpole"
    ),
)


def cost_of(record: Record) -> tuple[str, str]:
    """The rate whose inverse is what a curve is of, and that inverse's name."""
    if "environments" in record.axis:
        return "steps_per_second", "µs an environment step"
    return "updates_per_second", "µs an update, with its ten or 64 steps"


def times_as_good(metric: str, ours: float, theirs: float) -> float:
    return theirs / ours if metric in LOWER_IS_BETTER else ours / theirs


def verdict(wanted: Requirement, records: Mapping[str, Record]) -> Verdict:
    required = _required(wanted)
    record = records.get(wanted.workload)
    if record is None:
        return Verdict(required, f"`{wanted.workload}` was not run", "not measured")
    ours = _median(record, wanted.ours, wanted.metric)
    if wanted.ours not in record.runs:
        return Verdict(required, record.left_out.get(wanted.ours, "no runs"), "not measured")
    sides = _sides(record, wanted)
    if not sides:
        return Verdict(required, record.left_out.get(wanted.against, "nothing to compare with"), "not measured")
    if ours is None:
        return Verdict(required, "ours did not get there", "no")
    found = {side: value for side in sides if (value := _median(record, side, wanted.metric)) is not None}
    if not found:
        return _against_those_that_never_got_there(wanted, record, sides[0], ours)
    best = (min if wanted.metric in LOWER_IS_BETTER else max)(found, key=lambda side: found[side])
    if wanted.at_most is not None:
        times = ours / found[best]
        return Verdict(required, f"{times:.2f}x", "yes" if times <= wanted.at_most else "no")
    assert wanted.at_least is not None
    times = times_as_good(wanted.metric, ours, found[best])
    of = f" ({best.partition(': ')[2]})" if wanted.against.endswith("*") else ""
    return Verdict(required, f"{times:.2f}x{of}", "yes" if times >= wanted.at_least else "no")


def _against_those_that_never_got_there(wanted: Requirement, record: Record, side: str, ours: float) -> Verdict:
    """They have taken at least the time that their runs lasted."""
    lasted = _median(record, side, "total_seconds")
    assert lasted is not None
    assert wanted.at_least is not None
    times = lasted / ours
    answer = "yes" if times >= wanted.at_least else "no"
    return Verdict(_required(wanted), f"more than {times:.2f}x: it was not solved", answer)


def _required(wanted: Requirement) -> str:
    if wanted.at_most is not None:
        return f"at most {wanted.at_most:g}x"
    assert wanted.at_least is not None
    return f"{wanted.at_least:.3g}x"


def _median(record: Record, side: str, metric: str) -> float | None:
    return median(record.runs[side], metric) if side in record.runs else None


def _sides(record: Record, wanted: Requirement) -> list[str]:
    if not wanted.against.endswith("*"):
        return [wanted.against] if wanted.against in record.runs else []
    return [side for side in record.runs if side.startswith(wanted.against[:-1]) and side != wanted.ours]
