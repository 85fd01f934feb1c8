"""Native environments in runs: of every agent, evaluated, and resumed after a kill."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork.envs import NativeEnvs
from graftwork.runs import RunConfig

CARTPOLE, BREAKOUT = "graftwork/CartPole-v1", "graftwork/MinAtarBreakout-v1"
SMALL: dict[str, Any] = {
    "device": "cpu",
    "evaluation": {"period": 150, "episodes": 3, "num_envs": 2},
    "checkpoint": {"period": 100},
    "log": {"period": 70},
}
AGENTS: dict[str, dict[str, Any]] = {
    "dqn": {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4, "updates": 2},
    "pqn": {"rollout_rows": 8, "epochs": 2, "minibatches": 2},
    "reinforce": {},
}


def config(kind: str, env_id: str, steps: int = 320) -> RunConfig:
    conv = {"kind": "conv", "channels": "first", "layers": [{"channels": 2, "kernel": 3}], "hidden": 8}
    encoder = conv if env_id == BREAKOUT else {"kind": "mlp", "hidden": [8]}
    return RunConfig.model_validate(
        {
            **SMALL,
            "steps": steps,
            "env": {"id": env_id, "num_envs": 2, "max_episode_steps": 25},
            "agent": {"kind": kind, "encoder": encoder, **AGENTS[kind]},
        }
    )


def checkpoints(run_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run_dir / "checkpoints").glob("step_*"))


def digests(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every file that defines the result."""
    final = checkpoints(run_dir)[-1]
    files = [final / "state.safetensors", final / "meta.json", run_dir / "metrics.jsonl", run_dir / "evaluations.jsonl"]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


CELLS = [("dqn", CARTPOLE), ("pqn", BREAKOUT), ("reinforce", CARTPOLE)]

# A process for each run, that kills itself at its 120th step of the training environments.
KILL = """
import os, signal, sys
import graftwork as gw
from graftwork.envs import NativeEnvs
from graftwork.runs import RunConfig

settle, calls = NativeEnvs.settle, 0

def counted(self, found):
    global calls
    calls += self._env_key[0] == first
    if calls == 120:
        os.kill(os.getpid(), signal.SIGKILL)
    return settle(self, found)

for text, run_dir in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    child = os.fork()
    if not child:
        from graftwork.envs.native.draws import env_keys
        config = RunConfig.model_validate_json(text)
        first, NativeEnvs.settle = env_keys(config.seed, 0, 1)[0], counted
        gw.train(config, run_dir=run_dir)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_a_run_that_was_killed_resumes_to_identical_files(tmp_path: Path) -> None:
    configs = [config(*cell) for cell in CELLS]
    killed = [tmp_path / f"killed-{number}" for number in range(len(CELLS))]
    arguments = [
        part for pair in zip(configs, killed, strict=True) for part in (pair[0].model_dump_json(), str(pair[1]))
    ]
    subprocess.run([sys.executable, "-c", KILL, *arguments], check=True, timeout=240)
    for cell, conf, run_dir in zip(CELLS, configs, killed, strict=True):
        whole = gw.train(conf, run_dir=tmp_path / "-".join(cell).replace("/", "-")).run_dir
        assert checkpoints(run_dir)[-1].name < checkpoints(whole)[-1].name, cell
        gw.resume(run_dir)
        assert digests(run_dir) == digests(whole), cell


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("dqn/cartpole", ["agent.learning_starts=50"]),
        ("pqn/cartpole", []),
        ("reinforce/cartpole", []),
        ("dqn/cartpole-memory", ["agent.learning_starts=50"]),
    ],
)
def test_a_preset_takes_an_id(preset: str, fields: list[str], tmp_path: Path) -> None:
    small = ["steps=600", "evaluation.period=600", "evaluation.episodes=3", f"env.id={CARTPOLE}", "device=cpu"]
    run = gw.train(preset, *fields, *small, run_dir=tmp_path / "run")
    assert run.agent.spec.id == CARTPOLE
    result = gw.evaluate(run.run_dir, episodes=4)
    assert len(result.returns) == 4
    assert result.returns == gw.evaluate(run.run_dir, episodes=4).returns
    shape = run.agent.spec.observation_space.shape
    action = gw.load(run.run_dir).player()(np.zeros(shape, np.float32))
    assert action in (0, 1)


def test_rows_reach_the_agent_as_tensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("NumPy")

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(function)
            with monkeypatch.context() as patch:
                patch.setattr(torch, "from_numpy", refuse)
                patch.setattr(torch.Tensor, "numpy", refuse)
                patch.setattr(torch.Tensor, "__array__", refuse)
                return function(*arguments)

        return call

    calls: list[Callable[..., Any]] = []
    steps = NativeEnvs.next, NativeEnvs.settle
    for function in steps:
        monkeypatch.setattr(NativeEnvs, function.__name__, watched(function))
    gw.train(config("pqn", CARTPOLE, 100), run_dir=tmp_path / "run")
    assert set(calls) == set(steps)
