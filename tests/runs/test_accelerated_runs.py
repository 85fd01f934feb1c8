"""Every agent, and the supervised learner, comes to the same bits compiled and not."""

import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.engine import accelerate, recorded
from graftwork.runs import RunConfig, TaskRunConfig
from graftwork.runs import session as session_module

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
MLP = {"kind": "mlp", "hidden": [8]}


def run(agent: dict[str, Any], env_id: str, steps: int) -> RunConfig:
    tree = {
        # No pole falls within 8 steps: so whole episodes, too, are of one form.
        "env": {"id": env_id, "num_envs": 3, "max_episode_steps": 8},
        "agent": {"encoder": MLP, **agent},
        "steps": steps,
        "evaluation": {"period": 0},
        "log": {"period": steps // 20},
    }
    return RunConfig.model_validate(tree)


def task(epochs: int) -> TaskRunConfig:
    tree = {
        "data": {"name": "digits"},
        "task": {"encoder": MLP, "batch_size": 96},  # divides neither 1,078 nor what is left
        "epochs": epochs,
        "log": {"period": 1},
    }
    return TaskRunConfig.model_validate(tree)


CONFIGS: dict[str, RunConfig | TaskRunConfig] = {
    "dqn": run({"kind": "dqn", "learning_starts": 30, "batch_size": 16, "replay_capacity": 500}, "CartPole-v1", 900),
    "reinforce": run({"kind": "reinforce"}, "CartPole-v1", 2_900),
    "pqn": run({"kind": "pqn", "rollout_rows": 8, "epochs": 3, "minibatches": 3}, "graftwork/CartPole-v1", 600),
    "supervised": task(epochs=8),
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("kind", CONFIGS)
def test_compiled_updates_are_the_eager_ones(
    kind: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    load, poll = accelerate._load, accelerate.Accelerator.poll

    def loaded(path: Path) -> accelerate.Function:
        compiled = load(path)

        def counted(*tensors: torch.Tensor) -> list[torch.Tensor]:
            calls[path.parent.name] += 1
            return compiled(*tensors)

        return counted

    def patient(self: accelerate.Accelerator, remaining: float) -> None:
        """Whatever was recorded is compiled before the run goes on."""
        poll(self, 1e9)
        while self._under_way is not None:
            time.sleep(0.05)
            poll(self, 1e9)

    monkeypatch.setattr(accelerate, "_load", loaded)
    monkeypatch.setattr(accelerate.Accelerator, "poll", patient)
    monkeypatch.setattr(session_module, "cache_directory", lambda: cache)
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 5)
    compiled = gw.train(CONFIGS[kind], run_dir=tmp_path / "compiled", quiet=True)
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 10**9)
    eager = gw.train(CONFIGS[kind].model_copy(update={"accelerate": False}), run_dir=tmp_path / "eager", quiet=True)
    # Updates, and what acts, where anything does; all calls but the first few were compiled.
    assert sum(number >= 50 for number in calls.values()) >= (1 if kind == "supervised" else 2), calls
    ours, theirs = compiled.learner.network.state_dict(), eager.learner.network.state_dict()
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
