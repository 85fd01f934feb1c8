"""A run is determined by its config: by its seed, and by nothing of the process that it runs in."""
# ruff: noqa: NPY002 (numpy's global stream is what some of these tests watch)

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork.envs import EVALUATION, FRESH, TRAINING, EnvironmentFailure, episode_seed
from graftwork.runs import RunConfig, TaskRunConfig


def config(kind: str = "dqn", encoder: str = "mlp", **fields: Any) -> RunConfig:
    inner = {"kind": "mlp", "hidden": [8]}
    agent: dict[str, Any] = {
        "kind": kind,
        "encoder": inner if encoder == "mlp" else {"kind": "lstm", "hidden_size": 8, "inner": inner},
    }
    if kind == "dqn":
        agent |= {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4}
        agent |= {"target_period": 50, "epsilon": {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 300}}
        if encoder == "lstm":
            agent |= {"sequence_length": 6, "burn_in": 2}
    tree = {
        "env": {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 25},
        "agent": agent,
        "steps": 300,
        "evaluation": {"period": 130, "episodes": 3, "num_envs": 2},
        "checkpoint": {"period": 100},
        "log": {"period": 70},
    }
    return RunConfig.model_validate(tree | fields)


def task_config() -> TaskRunConfig:
    """Two heads with batches of their own, batch norm and dropout."""
    tree = {
        "data": {"name": "transitions:CartPole-v1", "samples": 200},
        "task": {
            "encoder": {"kind": "mlp", "hidden": [8], "norm": "batch", "dropout": 0.2},
            "heads": {"change": {"given": "action"}, "terminated": {"batch_size": 25}},
            "batch_size": 32,
        },
        "epochs": 4,
        "checkpoint": {"period": 2},
        "evaluation": {"patience": 3},
    }
    return TaskRunConfig.model_validate(tree)


def digests(run_dir: Path) -> dict[str, str]:
    """SHA-256 of every file of a run but its clock's, its lock and its config, which names the directory."""
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    names = {str(path.relative_to(run_dir)): path for path in files}
    others = {"timings.jsonl", ".lock", "config.yaml"}
    return {name: hashlib.sha256(names[name].read_bytes()).hexdigest() for name in sorted(names.keys() - others)}


def weights(run: gw.Run) -> str:
    """SHA-256 of the parameters."""
    state = run.agent.network.state_dict()
    return hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> gw.Run:
    return gw.train(config(), run_dir=tmp_path_factory.mktemp("reference") / "run")


TRAIN_ALL = """
import json, sys, warnings
warnings.simplefilter("error")
import graftwork as gw
from graftwork.runs.config import run_config
for name, tree in json.load(sys.stdin).items():
    gw.train(run_config(tree), run_dir=f"{sys.argv[1]}/{name}", quiet=True)
"""


def test_processes_with_other_hash_seeds_write_identical_files(tmp_path):
    cells = [(kind, encoder) for kind in ("dqn", "reinforce") for encoder in ("mlp", "lstm")]
    trees = {"-".join(cell): config(*cell).model_dump(mode="json") for cell in cells}
    trees["task"] = task_config().model_dump(mode="json")
    processes = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", TRAIN_ALL, str(tmp_path / hash_seed)]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
    for process in processes:
        _, errors = process.communicate(json.dumps(trees), timeout=200)
        assert process.returncode == 0, errors
    for name in trees:
        first, second = (digests(tmp_path / hash_seed / name) for hash_seed in ("1", "2"))
        # Metrics, evaluations, receipt, the three files of three checkpoints, and what a task's model takes and tells.
        assert len(first) == 3 + 3 * 3 + (name == "task")
        assert first == second, name


class RecordedSeeds(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes the seed of each episode."""

    def __init__(self, env: gymnasium.Env[Any, Any], seeds: list[int]) -> None:
        super().__init__(env)
        self._seeds = seeds

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert seed is not None
        self._seeds.append(seed)
        return self.env.reset(seed=seed, options=options)


def seeds_used(tmp_path: Path, seed: int, kind: str) -> tuple[list[int], gw.Run]:
    """Seed of every episode of a run, training's and evaluation's and of a fresh evaluation afterwards, in order."""
    seeds: list[int] = []

    def make() -> gymnasium.Env[Any, Any]:
        return RecordedSeeds(gymnasium.make("CartPole-v1", max_episode_steps=25), seeds)

    run = gw.train(config(kind), run_dir=tmp_path / f"{kind}-{seed}", seed=seed, env=make)
    gw.evaluate(run.run_dir, episodes=7, env=make)
    return seeds, run


@pytest.mark.parametrize("kind", ["dqn", "reinforce"])
def test_neighbouring_seeds_share_no_episode(tmp_path, kind):
    (first, run), (second, other) = (seeds_used(tmp_path, seed, kind) for seed in (0, 1))
    assert min(len(set(first)), len(set(second))) > 20
    assert not set(first) & set(second)
    assert weights(run) != weights(other)


@pytest.mark.parametrize("kind", ["dqn", "reinforce"])
def test_training_evaluation_and_fresh_episodes_are_three_sets(tmp_path, kind):
    seeds = seeds_used(tmp_path, 0, kind)[0]
    addresses = {
        stream: {episode_seed(0, stream, env, episode) for env in range(7) for episode in range(100)}
        for stream in (TRAINING, EVALUATION, FRESH)
    }
    used = {stream: addresses[stream] & set(seeds) for stream in addresses}
    assert set(seeds) == set().union(*used.values())
    assert len(used[EVALUATION]) == 4  # two rounds of two environments give the three episodes
    assert len(used[FRESH]) == 8  # four rounds of two give the seven
    assert seeds.count(episode_seed(0, TRAINING, 0, 0)) == 1


@pytest.fixture
def global_state() -> Iterator[None]:
    """Global random numbers and torch's settings, put back after a test that changes them."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])
    torch.set_num_threads(before[3])
    torch.set_flush_denormal(False)


def flushes_denormals() -> bool:
    return float(torch.tensor(2e-40) * torch.tensor(0.5)) == 0.0


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
@pytest.mark.parametrize("kind", ["dqn", "reinforce"])
def test_a_run_leaves_global_random_numbers_alone(tmp_path, kind, encoder):
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def begin() -> None:
        random.seed(3)
        np.random.seed(5)
        torch.manual_seed(7)

    begin()
    expected = draw()
    begin()
    run = gw.train(config(kind, encoder, steps=60), run_dir=tmp_path / "run")
    gw.resume(run.run_dir, "steps=90")
    gw.load(run.run_dir)
    gw.evaluate(run.run_dir, episodes=3)
    assert draw() == expected


@pytest.mark.usefixtures("global_state")
def test_global_random_numbers_do_not_reach_a_run(tmp_path, reference):
    random.seed(11)
    np.random.seed(13)
    torch.manual_seed(17)
    run = gw.train(config(), run_dir=tmp_path / "run")
    assert digests(run.run_dir) == digests(reference.run_dir)


@pytest.mark.usefixtures("global_state")
@pytest.mark.parametrize("flush", [False, True])
def test_a_run_gives_torch_settings_back(tmp_path, flush):
    during = []

    class Watched(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            during.append((torch.get_num_threads(), flushes_denormals()))
            return self.env.step(action)

    torch.set_num_threads(2)
    torch.set_flush_denormal(flush)
    run = gw.train(config(steps=60), run_dir=tmp_path / "run", wrapper=Watched)
    assert set(during) == {(1, True)}
    assert (torch.get_num_threads(), flushes_denormals()) == (2, flush)
    gw.evaluate(run.run_dir, episodes=3, wrapper=Watched)
    assert (torch.get_num_threads(), flushes_denormals()) == (2, flush)

    class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise ZeroDivisionError

    with pytest.raises(EnvironmentFailure):
        gw.train(config(), run_dir=tmp_path / "broken", wrapper=Broken)
    assert (torch.get_num_threads(), flushes_denormals()) == (2, flush)


@pytest.mark.parametrize(
    "change",
    [
        {"evaluation": {"period": 0}},
        {"evaluation": {"period": 40, "episodes": 5, "num_envs": 5}},
        {"checkpoint": {"period": 0}},
        {"checkpoint": {"period": 10, "keep": 1}},
        {"log": {"period": 15}},
        {"tracker": "tensorboard"},
        {"tracker": "wandb", "wandb": {"mode": "disabled"}},
        {"env": {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 25, "asynchronous": True}},
    ],
    ids=lambda change: json.dumps(change).replace('"', ""),
)
def test_watching_a_run_does_not_change_what_it_learns(tmp_path, reference, change):
    assert weights(gw.train(config(**change), run_dir=tmp_path / "run")) == weights(reference)


def test_runs_in_one_process_do_not_disturb_each_other(tmp_path, reference):
    gw.train(config("reinforce", "lstm", steps=60), run_dir=tmp_path / "other")
    run = gw.train(config(), run_dir=tmp_path / "run")
    assert digests(run.run_dir) == digests(reference.run_dir)
