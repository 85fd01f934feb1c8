"""Batches drawn from our replay and from SB3's, Tianshou's and TorchRL's, in one process, on one CPU thread.

    pip install -c constraints.txt -e '.[bench]' && pip install --no-deps tianshou==2.0.1
    python benchmarks/replay.py

Each buffer is filled with the same 100,000 transitions of one environment, in 200 episodes. Each then draws in turn for
a fraction of a second, round after round, so that a drift of the machine's speed meets all; a first round is a warm-up.
A batch counts when observation, action, reward, end and next observation are there as tensors, and, where it is drawn
by priority, weights too and new priorities set. Each is used as its documentation says, with its memory-saving setting
for images; what is not installed is left out. Tianshou is installed without what it depends on since it asks for a
virtualenv that no current filelock goes with; the extra has what it needs here. Writes docs/results/replay.csv and
prints a table: medians, against ours, and the memory that each buffer takes.
"""

import argparse
import csv
import gc
import importlib.metadata
import importlib.util
import logging
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor

from graftwork.engine import ReplayBuffer, Rollout
from graftwork.engine.priorities import PrioritySettings
from graftwork.engine.window import Window
from graftwork.envs.contract import EnvSpec

ROOT = Path(__file__).resolve().parent.parent
EPISODES, STEPS, ACTIONS = 200, 500, 6
SIZE = EPISODES * STEPS  # transitions
ROWS = EPISODES * (STEPS + 1)  # observations
ALPHA, BETA = 0.6, 0.4


@dataclass(frozen=True)
class Case:
    """What is drawn."""

    what: str
    shape: tuple[int, ...]  # of a frame
    batch: int
    frames: int = 1  # stacked in an observation
    length: int = 1
    by_priority: bool = False

    @property
    def is_image(self) -> bool:
        return self.frames > 1

    @property
    def space(self) -> Box:
        """Of an observation."""
        shape = (self.frames, *self.shape) if self.is_image else self.shape
        return Box(0, 255, shape, np.uint8) if self.is_image else Box(-np.inf, np.inf, shape, np.float32)


CASES = {
    "uniform": Case("256 transitions of 4 floats", (4,), 256),
    "images": Case("256 transitions of 4 stacked frames of 84x84", (84, 84), 256, frames=4),
    "sequences": Case("32 sequences of 80 rows of 4 floats", (4,), 32, length=80),
    "prioritised": Case("256 transitions of 4 floats by priority, and their update", (4,), 256, by_priority=True),
}


class Tape:
    """What an environment did: rows of which STEPS + 1 make an episode, the last of them its final observation."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(0)
        self.frames = case.frames
        # Images are many, and it does not matter that they repeat, as long as each buffer has its own copy.
        count = 2_000 if case.is_image else ROWS
        drawn = rng.integers(0, 256, (count, *case.shape)) if case.is_image else rng.normal(size=(count, *case.shape))
        self.pool = drawn.astype(case.space.dtype)
        self.action = rng.integers(0, ACTIONS, ROWS)
        self.reward = rng.normal(size=ROWS).astype(np.float32)
        row = np.arange(ROWS)
        self.is_first, self.is_last = row % (STEPS + 1) == 0, row % (STEPS + 1) == STEPS
        self.truncated = row % (STEPS + 1) == STEPS - 1  # the last transition of each episode

    def frame(self, row: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return self.pool[row % len(self.pool)]

    def observation(self, row: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """[n] -> [n, *obs]; frames before an episode's first are that first."""
        if self.frames == 1:
            return self.frame(row)
        back = np.minimum(np.arange(self.frames - 1, -1, -1), row[:, None] % (STEPS + 1))
        return self.frame(row[:, None] - back)

    @property
    def transitions(self) -> npt.NDArray[np.int64]:
        """Rows that one more follows in the same episode."""
        return np.flatnonzero(~self.is_last)


Batch = tuple[Any, ...]  # of tensors


@dataclass(frozen=True)
class Contender:
    """A buffer that is full."""

    draw: Callable[[], Batch]
    nbytes: int


def graftwork(case: Case, tape: Tape) -> dict[str, Contender]:
    spec = EnvSpec("Benchmark", case.space, ACTIONS, 0, f"Discrete({ACTIONS})", frame_stack=case.frames)
    buffer = ReplayBuffer(
        ROWS,
        1,
        spec,
        torch.Generator().manual_seed(0),
        window=Window(length=case.length),
        priorities=PrioritySettings(ALPHA) if case.by_priority else None,
    )
    for start in range(0, ROWS - 1, 100):
        rows = np.arange(start, min(start + 101, ROWS))

        def column(values: npt.NDArray[Any]) -> Tensor:
            return torch.from_numpy(values).unsqueeze(1)

        inner = rows[:-1]
        buffer.add(
            Rollout(
                observation=column(tape.observation(rows)),
                is_first=column(tape.is_first[rows]),
                action=column(tape.action[inner]),
                log_prob=None,
                reward=column(tape.reward[inner]),
                terminated=column(np.zeros(len(inner), bool)),
                truncated=column(tape.truncated[inner]),
                state=(),
            )
        )
    priority = torch.rand(case.batch)

    def draw() -> Batch:
        sample = buffer.sample(case.batch, BETA)
        if case.by_priority:
            buffer.prioritise(sample.index, priority)
        rollout = sample.rollout
        observation = rollout.observation
        assert isinstance(observation, Tensor)
        ends = rollout.terminated, rollout.truncated
        return observation[:-1], rollout.action, rollout.reward, *ends, observation[1:], sample.weight

    return {"graftwork": Contender(draw, buffer.nbytes)}


def stable_baselines3(case: Case, tape: Tape) -> dict[str, Contender]:
    from stable_baselines3.common.buffers import ReplayBuffer as Buffer

    if case.length > 1 or case.by_priority:
        return {}
    # Its setting that keeps each observation once goes without its handling of time limits.
    buffer = Buffer(
        SIZE,
        case.space,
        Discrete(ACTIONS),
        "cpu",
        optimize_memory_usage=case.is_image,
        handle_timeout_termination=not case.is_image,
    )
    for row in tape.transitions:
        now, then = tape.observation(row + np.arange(2)).reshape(2, 1, *case.space.shape)
        reward, done = tape.reward[row : row + 1], tape.truncated[row : row + 1]
        buffer.add(now, then, tape.action[row : row + 1], reward, done, [{"TimeLimit.truncated": bool(done[0])}])

    def draw() -> Batch:
        found = buffer.sample(case.batch)
        return found.observations, found.actions, found.rewards, found.dones, found.next_observations

    return {"Stable-Baselines3": Contender(draw, held(buffer))}


def tianshou(case: Case, tape: Tape) -> dict[str, Contender]:
    from tianshou.data import Batch as Entry
    from tianshou.data import PrioritizedReplayBuffer
    from tianshou.data import ReplayBuffer as Buffer

    saves = case.is_image or case.length > 1
    settings = {"stack_num": case.frames, "ignore_obs_next": saves, "save_only_last_obs": case.is_image}
    by_priority = {"alpha": ALPHA, "beta": BETA}
    buffer = PrioritizedReplayBuffer(SIZE, **by_priority, **settings) if case.by_priority else Buffer(SIZE, **settings)
    for row in tape.transitions:
        now, then = tape.observation(row + np.arange(2))
        entry = Entry(
            obs=now,
            act=tape.action[row],
            rew=tape.reward[row],
            terminated=False,
            truncated=tape.truncated[row],
            obs_next=then,
            info={},
        )
        buffer.add(entry)
    priority = torch.rand(case.batch)

    def draw() -> Batch:
        found, index = buffer.sample(case.batch)
        if case.by_priority:
            buffer.update_weight(index, priority)
        keys = ("obs", "act", "rew", "terminated", "truncated", "obs_next", *(("weight",) if case.by_priority else ()))
        return tuple(torch.from_numpy(found[key]) for key in keys)

    def sequences() -> Batch:
        # It stacks what is asked for by name; an episode's first row stands for those before it.
        index = buffer.sample_indices(case.batch)
        keys = ("obs", "act", "rew", "terminated", "truncated")
        rows = [torch.from_numpy(buffer.get(index, key, stack_num=case.length)) for key in keys]
        return (*rows, torch.from_numpy(buffer.get(buffer.next(index), "obs", stack_num=1)))

    return {"Tianshou": Contender(draw if case.length == 1 else sequences, held(buffer))}


def torchrl(case: Case, tape: Tape) -> dict[str, Contender]:
    # Its extension is built for one release of torch, and needs of another a function that no replay calls: only at
    # its first call does it have to be there.
    flags = sys.getdlopenflags()
    sys.setdlopenflags(os.RTLD_LAZY)
    from tensordict import TensorDict
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data import ReplayBuffer as RowsBuffer
    from torchrl.data.replay_buffers.samplers import PrioritizedSampler, RandomSampler, SliceSampler
    from torchrl.envs import CatFrames

    sys.setdlopenflags(flags)
    logging.getLogger("torchrl").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="The last dimension of the tensordict should be marked as 'time'")
    rows, priority = case.batch * case.length, torch.rand(case.batch)

    def filled(key: str, look: Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]]) -> Any:
        storage = LazyTensorStorage(SIZE)
        buffer = TensorDictReplayBuffer(storage=storage)
        for row in np.array_split(tape.transitions, EPISODES):
            ends = torch.from_numpy(tape.truncated[row]).unsqueeze(1)
            following = {
                key: torch.from_numpy(look(row + 1)),
                "reward": torch.from_numpy(tape.reward[row]).unsqueeze(1),
                "done": ends,
                "terminated": torch.zeros_like(ends),
            }
            entry = {key: torch.from_numpy(look(row)), "action": torch.from_numpy(tape.action[row]), "next": following}
            buffer.extend(TensorDict(entry, [len(row)]))
        return storage

    def contender(storage: Any, sampler: Any, transform: Any = None) -> Contender:
        # The other kind sets the index of each row, which fails once a transform has made one of several.
        kind = TensorDictReplayBuffer if transform is None else RowsBuffer
        buffer = kind(storage=storage, sampler=sampler, batch_size=rows, transform=transform)

        def draw() -> Batch:
            found = buffer.sample()
            if case.by_priority:
                buffer.update_priority(found["index"], priority)
            keys = ("observation", "action", ("next", "reward"), ("next", "done"), ("next", "observation"))
            batch = tuple(found[key] for key in keys)
            if case.length > 1:
                batch = tuple(part.unflatten(0, (case.batch, case.length)) for part in batch)
            return (*batch, found["priority_weight"]) if case.by_priority else batch

        return Contender(draw, storage[:].bytes())

    whole = filled("observation", tape.observation)
    if case.is_image:
        frames = filled("pixels", lambda row: tape.frame(row)[:, None])
        keys = {"in_keys": ["pixels"], "out_keys": ["observation"], "reset_key": "_reset"}
        stack = CatFrames(N=case.frames, dim=-3, padding="same", **keys)
        transform, sampler = stack.make_rb_transform_and_sampler(case.batch)
        stacked = {"TorchRL, CatFrames": contender(frames, sampler, transform)}
        return {"TorchRL, whole stacks": contender(whole, RandomSampler()), **stacked}
    if case.length > 1:
        # What is remembered of where episodes begin holds until a row is added; training adds between two draws.
        remembering = SliceSampler(slice_len=case.length, cache_values=True)
        found = {"TorchRL": contender(whole, SliceSampler(slice_len=case.length))}
        return {**found, "TorchRL, nothing added": contender(whole, remembering)}
    if not case.by_priority:
        return {"TorchRL": contender(whole, RandomSampler())}
    by_priority = PrioritizedSampler(SIZE, alpha=ALPHA, beta=BETA)
    by_priority.extend(torch.arange(SIZE))
    return {"TorchRL": contender(whole, by_priority)}


LIBRARIES: dict[str, Callable[[Case, Tape], dict[str, Contender]]] = {
    "graftwork": graftwork,
    "stable_baselines3": stable_baselines3,
    "tianshou": tianshou,
    "torchrl": torchrl,
}


def held(owner: object) -> int:
    """Bytes of the arrays that an object holds."""

    def arrays(value: object) -> Iterator[npt.NDArray[Any]]:
        if isinstance(value, np.ndarray):
            yield value
        elif hasattr(value, "__dict__"):
            for part in vars(value).values():
                yield from arrays(part)

    return sum({id(array): array.nbytes for array in arrays(owner)}.values())


def timed(contenders: dict[str, Contender], repeats: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds a batch takes, of each in turn."""
    counts, found = {}, {name: list[float]() for name in contenders}
    for name, contender in contenders.items():
        taken = []
        for _ in range(9):  # a lone draw may be one that another process interrupted
            started = time.perf_counter()
            contender.draw()
            taken.append(time.perf_counter() - started)
            if sum(taken) > 5.0:
                break
        counts[name] = max(int(seconds / statistics.median(taken)), 1)
    for _ in range(repeats + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                contender.draw()
            found[name].append((time.perf_counter() - started) / counts[name] * 1e6)
    return {name: values[1:] for name, values in found.items()}


def size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.1f} MB"


def million_frames() -> str:
    """What each takes for a million Atari frames; nothing is allocated."""
    spec = EnvSpec("Atari", CASES["images"].space, ACTIONS, 0, f"Discrete({ACTIONS})", frame_stack=4)
    ours = ReplayBuffer(1_000_000, 1, spec, torch.Generator()).nbytes
    # Of each transition two observations, an int64, and reward, end and time limit as float32.
    theirs = 1_000_000 * (2 * 4 * 84 * 84 + 8 + 3 * 4)
    return f"One million Atari frames: {size(ours)} here, {size(theirs)} by SB3's default."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--repeats", type=int, default=40, help="counted rounds")
    parser.add_argument("--seconds", type=float, default=0.02, help="that each draws for in a round")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results/replay.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions, table = {}, []
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            hint = "pip install --no-deps tianshou==2.0.1" if library == "tianshou" else "pip install -e '.[bench]'"
            print(f"{library} is not installed and left out: {hint} -c constraints.txt", file=sys.stderr)
        else:
            versions[library] = importlib.metadata.version(library.replace("_", "-"))
    print(f"| batch | buffer | microseconds | against ours | memory |\n{'|---' * 5}|")
    for name in arguments.cases:
        case, contenders = CASES[name], dict[str, tuple[str, Contender]]()
        tape = Tape(case)
        for library in versions:
            found = LIBRARIES[library](case, tape)
            contenders |= {label: (library, contender) for label, contender in found.items()}
        times = timed({label: pair[1] for label, pair in contenders.items()}, arguments.repeats, arguments.seconds)
        base = statistics.median(times["graftwork"])
        for label, (library, contender) in contenders.items():
            median = statistics.median(times[label])
            against = "" if label == "graftwork" else f"{median / base:.2f}x"
            what = case.what if label == "graftwork" else ""
            print(f"| {what} | {label} | {median:,.0f} | {against} | {size(contender.nbytes)} |", flush=True)
            numbers = {"microseconds": round(median, 1), "lowest": round(min(times[label]), 1)}
            table.append(
                {"case": name, "buffer": label, "version": versions[library], **numbers, "bytes": contender.nbytes}
            )
        del contenders, found
        gc.collect()
    print(f"\n{million_frames()}\n{', '.join(f'{key} {value}' for key, value in versions.items())}", end="")
    print(f", torch {torch.__version__}, numpy {np.__version__}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
