"""A run that is killed and resumed ends with the files, byte for byte, of one that was never stopped.

Runs are killed by a signal to a process of their own, see conftest.py.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

import graftwork as gw
from graftwork.configs import dump
from graftwork.runs import RunConfig

Event = tuple[str, str, int]  # of sys.setprofile, the name of a function ("" is any), and how many of it

STEPS = 600


def config(kind: str, encoder: str, *, asynchronous: bool = False, **fields: Any) -> RunConfig:
    """A small run in which the replay wraps, periods fall apart, and episodes end, and are cut short, all the time."""
    inner = {"kind": "mlp", "hidden": [8]}
    agent: dict[str, Any] = {
        "kind": kind,
        "encoder": inner if encoder == "mlp" else {"kind": "lstm", "hidden_size": 8, "inner": inner},
        "learning_rate": {"kind": "linear", "start": 0.003, "end": 0.001, "steps": STEPS},
    }
    if kind == "dqn":
        agent |= {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4, "updates": 2}
        agent |= {"target_period": 50, "epsilon": {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 300}}
        if encoder == "lstm":
            agent |= {"sequence_length": 6, "burn_in": 2}
    tree = {
        "env": {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 25, "asynchronous": asynchronous},
        "agent": agent,
        "steps": STEPS,
        "evaluation": {"period": 130, "episodes": 3, "num_envs": 2},
        "checkpoint": {"period": 100},
        "log": {"period": 70},
    }
    return RunConfig.model_validate(tree | fields)


def checkpoints(run_dir: Path) -> list[Path]:
    """Oldest first; not those set aside."""
    return sorted((run_dir / "checkpoints").glob("step_" + "[0-9]" * 12))


def digests(run_dir: Path, *, receipt: bool = False) -> dict[str, str]:
    """SHA-256 of every file that defines the result; receipt: of that too, which has the config in it."""
    final = checkpoints(run_dir)[-1]
    logs = [run_dir / name for name in ("metrics.jsonl", "evaluations.jsonl", *(["receipt.json"] if receipt else []))]
    files = [final / "state.safetensors", final / "meta.json", *logs]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Runs that were never stopped."""

    class References(dict[tuple[str, str], Path]):
        def __missing__(self, cell: tuple[str, str]) -> Path:
            self[cell] = gw.train(config(*cell), run_dir=tmp_path_factory.mktemp("-".join(cell)) / "run").run_dir
            return self[cell]

    return References()


CELLS = [(kind, encoder) for kind in ("dqn", "reinforce") for encoder in ("mlp", "lstm")]
NUM_LEARNT = {"dqn": 40, "reinforce": 9}  # calls to learn, somewhere past the middle


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_reference_is_worth_comparing_with(references, cell):
    run_dir = references[cell]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert sum("train/loss" in row for row in rows) >= 5
    assert sum("episode/return" in row for row in rows) >= 5
    steps = [json.loads(line)["step"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    assert len(steps) == 5
    assert len({int(path.name[5:]) for path in checkpoints(run_dir)} - set(steps)) >= 1
    final = json.loads((checkpoints(run_dir)[-1] / "meta.json").read_text())["tree"]
    assert max(final["source"]["env"]["episode"]) > 5
    if cell[0] == "dqn":
        assert final["learner"]["replay"]["counters"]["total"] > 2 * 100  # a ring of 100 rows, twice round


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_killed_run_resumes_to_identical_files(processes, references, tmp_path, cell, asynchronous):
    conf = config(*cell, asynchronous=asynchronous)
    processes.kill(tmp_path / "run", conf, [("return", "learn", NUM_LEARNT[cell[0]])])
    assert checkpoints(tmp_path / "run")[-1].name < checkpoints(references[cell])[-1].name
    processes.run(tmp_path / "run", conf)
    has_same_config = not asynchronous
    assert digests(tmp_path / "run", receipt=has_same_config) == digests(references[cell], receipt=has_same_config)


INSTANTS: dict[str, list[Event]] = {
    "before its config is written": [("call", "_write", 1)],
    "before its config is in place": [("call", "_write", 1), ("c_call", "replace", 1)],
    "before its first checkpoint": [("return", "_write", 1)],
    "in its first checkpoint": [("c_call", "fsync", 7)],  # after the two of its receipt
    "before its first update": [("call", "learn", 1)],
    "as a checkpoint begins": [("call", "learn", 30), ("c_return", "mkdir", 1)],
    "between tensors of a checkpoint": [("call", "learn", 30), ("c_return", "mkdir", 1), ("call", "tensor_bytes", 9)],
    "between a checkpoint's files": [("call", "learn", 30), ("c_return", "fsync", 5)],
    "before a checkpoint has its name": [("call", "learn", 30), ("c_call", "rename", 1)],
    "after a checkpoint has its name": [("call", "learn", 30), ("c_return", "rename", 1)],
    "as an old checkpoint is deleted": [("call", "learn", 60), ("c_return", "unlink", 1)],
    "in its first evaluation": [("call", "evaluate", 1), ("return", "act", 4)],
    "in a later evaluation": [("call", "evaluate", 3), ("return", "act", 4)],
    "before an evaluation is recorded": [("call", "log_evaluation", 2)],
    "after an evaluation is recorded": [("return", "log_evaluation", 2)],
    "while it acts": [("call", "learn", 30), ("call", "act", 2)],
    "between metrics and timings": [("call", "append", 3), ("return", "append", 1)],
    "in its last evaluation": [("call", "evaluate", 5), ("return", "act", 4)],
    "in its last checkpoint": [("return", "log_evaluation", 5), ("c_call", "fsync", 4)],
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_instant_of_the_kill_does_not_matter(processes, references, tmp_path, instant):
    conf = config("dqn", "mlp")
    processes.kill(tmp_path / "run", conf, INSTANTS[instant])
    processes.run(tmp_path / "run", conf)
    assert digests(tmp_path / "run", receipt=True) == digests(references["dqn", "mlp"], receipt=True)


@pytest.mark.parametrize("num_calls", [1_013, 9_001, 20_011, 41_017, 64_321])
def test_kill_at_any_call_of_any_function_does_not_matter(processes, references, tmp_path, num_calls):
    conf = config("reinforce", "lstm")
    processes.start(tmp_path / "run", conf, at=[("call", "", num_calls)], number=signal.SIGKILL)
    assert processes.wait() in (-signal.SIGKILL, 0)  # 0 if a run has come to need fewer calls
    processes.run(tmp_path / "run", conf)
    assert digests(tmp_path / "run", receipt=True) == digests(references["reinforce", "lstm"], receipt=True)


def test_run_killed_twice_resumes_to_identical_files(processes, references, tmp_path):
    conf = config("dqn", "lstm")
    processes.kill(tmp_path / "run", conf, [("call", "learn", 25)])
    processes.kill(tmp_path / "run", conf, [("call", "learn", 30)])
    processes.run(tmp_path / "run", conf)
    assert digests(tmp_path / "run", receipt=True) == digests(references["dqn", "lstm"], receipt=True)


@pytest.mark.parametrize("where", ["learning", "evaluating"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_run_stopped_by_a_signal_resumes_to_identical_files(processes, references, tmp_path, number, where):
    conf, run_dir = config("dqn", "mlp", asynchronous=True), tmp_path / "run"
    at = {"learning": ("call", "learn", 40), "evaluating": ("call", "evaluate", 3)}[where]
    processes.start(run_dir, conf, at=[at], number=number)
    assert processes.wait() == 0
    stopped = json.loads((run_dir / "result.json").read_text())
    assert stopped["signal"] == number
    assert checkpoints(run_dir)[-1].name == f"step_{stopped['step']:012d}"
    evaluated = [json.loads(line)["step"] for line in (run_dir / "evaluations.jsonl").read_text().splitlines()]
    assert len(evaluated) == 2
    assert stopped["step"] not in evaluated
    processes.run(run_dir, conf)
    assert json.loads((run_dir / "result.json").read_text())["signal"] is None
    assert digests(run_dir) == digests(references["dqn", "mlp"])


def test_kill_from_outside_and_new_interpreters(processes, tmp_path):
    conf, run_dir = config("reinforce", "mlp", steps=2_000), tmp_path / "run"
    (tmp_path / "config.yaml").write_text(json.dumps(conf.model_dump(mode="json")))
    train = "import graftwork, sys; graftwork.train(sys.argv[1], run_dir=sys.argv[2])"
    command = [sys.executable, "-c", train, str(tmp_path / "config.yaml"), str(run_dir)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        _wait_until(lambda: _size(run_dir / "metrics.jsonl") > 0 or killed.poll() is not None)
        killed.kill()
    resume = "import graftwork, sys; graftwork.resume(sys.argv[1])"
    subprocess.run([sys.executable, "-c", resume, str(run_dir)], stderr=subprocess.DEVNULL, check=True, timeout=200)
    assert digests(run_dir) == digests(gw.train(conf, run_dir=tmp_path / "reference").run_dir)


def test_killed_run_leaves_no_environment_processes(processes, tmp_path):
    conf = config("dqn", "mlp", asynchronous=True, steps=10**9)
    parent = psutil.Process(processes.start(tmp_path / "run", conf))
    _wait_until(lambda: _size(tmp_path / "run" / "metrics.jsonl") > 0)
    workers = parent.children()
    assert len(workers) == 2
    parent.kill()
    assert processes.wait() == -signal.SIGKILL
    _wait_until(lambda: not any(map(_is_alive, workers)))


def test_longer_run_is_identical_to_one_that_was_longer_from_the_start(processes, references, tmp_path):
    shorter = config("dqn", "lstm", steps=260)  # an evaluation's step: the shorter run's last one is not an extra one
    gw.train(shorter, run_dir=tmp_path / "run")
    processes.run(tmp_path / "run", shorter, f"steps={STEPS}")
    assert digests(tmp_path / "run") == digests(references["dqn", "lstm"])


def test_run_may_go_on_with_environments_in_other_processes(processes, references, tmp_path):
    processes.kill(tmp_path / "run", config("dqn", "lstm"), [("call", "learn", 30)])
    processes.run(tmp_path / "run", config("dqn", "lstm"), "env.asynchronous=true")
    assert digests(tmp_path / "run") == digests(references["dqn", "lstm"])


def test_run_keeps_its_protocol(tmp_path):
    game = {"id": "ALE/Pong-v5", "protocol": "atari-machado"}
    (tmp_path / "config.yaml").write_text(dump(config("dqn", "mlp", env=game)))
    for override in ("env.protocol=atari-noframeskip", "env.protocol=null", "env.backend=ale"):
        name = override.split("=")[0]
        with pytest.raises(ValueError, match=f"^{name}=.*: a run keeps its {name}, "):
            gw.resume(tmp_path, "steps=1000", override, quiet=True)


def test_truncated_checkpoint_is_passed_over_named_and_kept(references, tmp_path, capsys):
    reference, run_dir = references["dqn", "mlp"], tmp_path / "run"
    shutil.copytree(reference, run_dir)
    bad = checkpoints(run_dir)[-1]
    os.truncate(bad / "state.safetensors", 100)
    assert gw.resume(run_dir).step >= STEPS
    assert f"passed over: checkpoint {bad}: state.safetensors is truncated (100 of " in capsys.readouterr().err
    assert digests(run_dir) == digests(reference)
    assert (run_dir / "checkpoints" / f"{bad.name}.1" / "state.safetensors").stat().st_size == 100


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_resume_from_every_checkpoint_ends_the_same(tmp_path, cell):
    conf = config(*cell, steps=300, checkpoint={"period": 40, "keep": 1_000})
    reference = gw.train(conf, run_dir=tmp_path / "reference").run_dir
    expected = digests(reference)
    for path in checkpoints(reference)[:-1]:
        run_dir = tmp_path / path.name
        shutil.copytree(path, run_dir / "checkpoints" / path.name)
        for name in ("config.yaml", "metrics.jsonl", "evaluations.jsonl"):
            shutil.copy(reference / name, run_dir / name)
        with (run_dir / "metrics.jsonl").open("ab") as file:
            file.write(b'{"step": 9')  # torn by a crash
        gw.resume(run_dir)
        assert digests(run_dir) == expected, path.name


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
