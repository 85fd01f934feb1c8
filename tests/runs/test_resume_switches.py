"""Every switch of DQN, PQN, and each kind of environment: a run that is cut in two ends with the files of a whole one.

Some are killed, in a process of their own; the others are stopped and resumed in this one.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete

import graftwork as gw
from graftwork.runs import RunConfig
from graftwork.training import checkpoint

SEGMENT_BYTES = 2**13  # of 16 rows of MinAtar's; whole segments of 16 MB would take hours to fill

MLP = {"kind": "mlp", "hidden": [8]}
LSTM = {"kind": "lstm", "hidden_size": 6, "inner": MLP}
CONV = {"kind": "conv", "channels": "first", "layers": [{"channels": 2, "kernel": 3}], "hidden": 8}
CARTPOLE = {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 25}
TAXI = next(name for name in gymnasium.registry if name.startswith("Taxi-v"))  # its infos have masks
MINATAR = {"id": "MinAtar/Breakout-v1", "num_envs": 2, "max_episode_steps": 25, "frame_stack": 2}


def atari(protocol: str, **fields: Any) -> dict[str, Any]:
    return {"id": "ALE/Breakout-v5", "protocol": protocol, "num_envs": 2, "max_episode_steps": 40, **fields}


class Branches(gymnasium.Env[Any, Any]):
    """Two branches of unequal size, and a mask that forbids what was done last; rewarded for both being small."""

    observation_space, action_space = Box(0, 1, (3,), np.float32), MultiDiscrete([3, 2])

    def _row(self, action: Any) -> tuple[Any, dict[str, Any]]:
        mask = np.ones(5, np.int8)
        mask[[action[0], 3 + action[1]]] = 0
        return self.np_random.random(3, np.float32), {"action_mask": mask}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 9
        return self._row([0, 0])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        observation, info = self._row(action)
        return observation, -float(action.sum()), self.left == 0 and action[0] == 1, self.left == 0, info


@dataclass(frozen=True)
class Cell:
    agent: dict[str, Any]
    env: dict[str, Any] = field(default_factory=lambda: CARTPOLE)
    make: Callable[[], Any] | None = None
    needs: str | None = None  # a package
    segment_bytes: int | None = None
    steps: int = 400  # to begin a game of Atari takes a tenth of a second, so there are fewer

    @property
    def period(self) -> int:
        """Steps between evaluations."""
        return self.steps // 3


def dqn(**fields: Any) -> dict[str, Any]:
    """So small that the replay wraps."""
    small = {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4, "updates": 2}
    others = {"target_period": 50, "epsilon": {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 300}}
    return {"kind": "dqn", "encoder": MLP, **small, **others, **fields}


def pqn(**fields: Any) -> dict[str, Any]:
    others = {"rollout_rows": 4, "epochs": 2, "minibatches": 2}
    return {"kind": "pqn", "encoder": {**MLP, "norm": "layer"}, **others, **fields}


C51 = {"kind": "categorical", "num_atoms": 11, "low": 0.0, "high": 25.0}
IQN = {"kind": "implicit", "num_fractions": 4, "num_target_fractions": 5, "num_acting_fractions": 6, "num_cosines": 7}
NOISY = {"dueling": True, "hidden": 8, "noise": 0.5}
TINY_CONV = {"kind": "conv", "layers": [{"channels": 2, "kernel": 8, "stride": 8}], "hidden": 8}
ON_ATARI = dqn(encoder=TINY_CONV, replay_capacity=500, updates=1)
SEQUENCES = {"sequence_length": 8, "burn_in": 2}

CELLS = {
    "rainbow": Cell(dqn(head=NOISY, value=C51, n_step=3, prioritised={}, epsilon=0.0)),
    "r2d2": Cell(
        dqn(encoder=LSTM, n_step=2, prioritised={"exponent": 0.9}, value_rescaling=True, **SEQUENCES),
    ),
    "munchausen": Cell(dqn(value=IQN, munchausen={}, target_rate=0.05)),
    "zero-state": Cell(dqn(encoder={**LSTM, "kind": "gru"}, stored_state=False, **SEQUENCES)),
    "quantile-auxiliary": Cell(
        dqn(value={"kind": "quantile", "num_quantiles": 5}, n_step=3, auxiliary={"reward": 0.5}, double=False)
    ),
    "mapped": Cell(dqn(encoder=LSTM, n_step=3, prioritised={}, replay_storage="mapped", **SEQUENCES)),
    "masks": Cell(dqn(n_step=3, prioritised={}, munchausen={}), {**CARTPOLE, "id": TAXI}),
    "branches": Cell(dqn(head=NOISY, n_step=2, prioritised={}), make=Branches),
    "recall": Cell(
        dqn(encoder=LSTM, sequence_length=8),
        {"id": "graftwork/DelayedRecall-v0", "num_envs": 2, "kwargs": {"length": 3, "noise": True}},
    ),
    "pqn": Cell(pqn()),
    "pqn-lstm": Cell(pqn(encoder=LSTM)),
    "pqn-masks": Cell(pqn(dueling=True), make=Branches),
    "minatar": Cell(dqn(encoder=CONV, n_step=3, prioritised={}), MINATAR, None, "minatar", SEGMENT_BYTES),
    "minatar-mapped": Cell(
        dqn(encoder={**LSTM, "inner": CONV}, replay_storage="mapped", **SEQUENCES),
        MINATAR,
        None,
        "minatar",
        SEGMENT_BYTES,
    ),
    "atari-machado": Cell(ON_ATARI, atari("atari-machado"), None, "ale_py", steps=160),
    "atari-noframeskip": Cell(ON_ATARI, atari("atari-noframeskip"), None, "ale_py", steps=160),
    "atari-ale": Cell(ON_ATARI, atari("atari-machado", backend="ale"), None, "ale_py", steps=160),
    "atari-ale-lives": Cell(ON_ATARI, atari("atari-noframeskip", backend="ale"), None, "ale_py", steps=160),
}
KILLED = ("rainbow", "r2d2", "masks", "pqn-lstm", "minatar", "atari-noframeskip")
SLOW = ("atari-machado", "atari-ale-lives")  # much as others


def parameters(names: Iterable[str], slow: Container[str]) -> list[Any]:
    return [pytest.param(name, name, id=name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def config(cell: Cell) -> RunConfig:
    tree = {
        "env": cell.env,
        "agent": {"learning_rate": {"kind": "linear", "start": 0.003, "end": 0.001, "steps": cell.steps}, **cell.agent},
        "steps": cell.steps,
        "evaluation": {"period": cell.period, "episodes": 2, "num_envs": 2},
        "checkpoint": {"period": cell.steps // 5},
        "log": {"period": cell.steps // 6},
    }
    return RunConfig.model_validate(tree)


def checkpoints(run_dir: Path) -> list[Path]:
    """Oldest first; not those set aside."""
    return sorted((run_dir / "checkpoints").glob("step_" + "[0-9]" * 12))


def digests(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every file that defines the result; a checkpoint's MANIFEST names its segments by theirs."""
    final = checkpoints(run_dir)[-1]
    files = [*final.iterdir(), run_dir / "metrics.jsonl", run_dir / "evaluations.jsonl"]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def segments(path: Path) -> set[str]:
    """Names of those that a checkpoint is made of."""
    histories = json.loads((path / "meta.json").read_text())["histories"]
    return {name for history in histories.values() for name in history["segments"]}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were never stopped."""

    class References(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            cell, run_dir = CELLS[name], tmp_path_factory.mktemp(name) / "run"
            with pytest.MonkeyPatch.context() as patch:
                use_segments(cell, patch)
                gw.train(config(cell), run_dir=run_dir, env=cell.make, quiet=True)
            self[name] = run_dir
            return run_dir

    return References()


def use_segments(cell: Cell, patch: pytest.MonkeyPatch) -> None:
    if cell.segment_bytes is not None:
        patch.setitem(checkpoint.save.__kwdefaults__, "segment_bytes", cell.segment_bytes)


@pytest.fixture
def cell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cell:
    found = CELLS[request.param]
    if found.needs is not None:
        pytest.importorskip(found.needs)
    use_segments(found, monkeypatch)
    return found


@pytest.mark.parametrize(("name", "cell"), parameters(CELLS, (*SLOW, *KILLED)), indirect=["cell"])
def test_run_in_two_parts_ends_with_the_files_of_a_whole_one(references, tmp_path, name, cell):
    # An evaluation's step ends the first part, so that it is no extra one.
    gw.train(config(cell), f"steps={2 * cell.period}", run_dir=tmp_path / "run", env=cell.make, quiet=True)
    assert digests(tmp_path / "run").keys() != digests(references[name]).keys()
    gw.resume(tmp_path / "run", f"steps={cell.steps}", env=cell.make, quiet=True)
    assert digests(tmp_path / "run") == digests(references[name])


@pytest.mark.parametrize(("name", "cell"), parameters(KILLED, ()), indirect=["cell"])
def test_killed_run_resumes_to_identical_files(processes, references, tmp_path, name, cell):
    conf, run_dir = config(cell), tmp_path / "run"
    processes.kill(run_dir, conf, [("return", "learn", cell.steps // 12)], cell.segment_bytes)
    assert checkpoints(run_dir)[-1].name < checkpoints(references[name])[-1].name
    processes.run(run_dir, conf, segment_bytes=cell.segment_bytes)
    assert digests(run_dir) == digests(references[name])


@pytest.mark.parametrize(("name", "cell"), parameters(CELLS, SLOW), indirect=["cell"])
def test_reference_is_worth_comparing_with(references, name, cell):
    rows = [json.loads(line) for line in (references[name] / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in rows) >= 3
    assert sum("episode/return" in row for row in rows) >= 1
    assert len((references[name] / "evaluations.jsonl").read_text().splitlines()) >= 3
    final = checkpoints(references[name])[-1]
    learner = json.loads((final / "meta.json").read_text())["tree"]["learner"]
    if cell.agent["kind"] == "dqn" and cell.agent["replay_capacity"] < cell.steps:
        assert learner["replay"]["counters"]["total"] > learner["replay"]["counters"]["num_rows"]
    assert (len(segments(final)) >= 4) == (cell.segment_bytes is not None)


@pytest.mark.parametrize("cell", ["minatar"], indirect=True)
def test_damaged_segment_is_named_and_an_older_checkpoint_without_it_resumed(references, tmp_path, cell, capsys):
    reference, run_dir = references["minatar"], tmp_path / "run"
    shutil.copytree(reference, run_dir)
    older, bad = checkpoints(run_dir)[-2:]
    (name, *_) = sorted(segments(bad) - segments(older))
    path = run_dir / "checkpoints" / "segments" / f"{name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    gw.resume(run_dir)
    told = capsys.readouterr().err
    assert f"passed over: checkpoint {bad}: segments/{path.name} is altered" in told
    assert f"resuming {older} at step" in told
    assert digests(run_dir) == digests(reference)


@pytest.mark.parametrize("cell", ["minatar"], indirect=True)
def test_segment_that_all_share_and_is_gone_leaves_nothing_to_resume(references, tmp_path, cell):
    run_dir = tmp_path / "run"
    shutil.copytree(references["minatar"], run_dir)
    (name, *_) = set.intersection(*map(segments, checkpoints(run_dir)))
    (run_dir / "checkpoints" / "segments" / f"{name}.safetensors").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"^no good checkpoint in .*safetensors is missing") as error:
        gw.resume(run_dir, quiet=True)
    assert "\n" not in str(error.value)
