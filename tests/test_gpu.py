"""On a CUDA device a run is as exact as elsewhere, and its agent plays anywhere (make test-gpu)."""

from pathlib import Path

import pytest
import torch

import graftwork as gw
from graftwork.training.checkpoint import load_newest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SMALL = ["device=cuda", "env.num_envs=3", "evaluation.period=100", "evaluation.episodes=3", "checkpoint.period=60"]
LSTM = ["agent.encoder.hidden_size=8", "agent.replay_capacity=3000"]
DQN = ["agent.learning_starts=50", "agent.batch_size=8", "agent.train_period=10", "agent.updates=2"]
CELLS = {
    "dqn-mlp": ["dqn/cartpole", *DQN, "agent.encoder.hidden=[8]"],
    "dqn-lstm": ["dqn/cartpole-memory", *DQN, *LSTM, "agent.sequence_length=14", "agent.burn_in=4"],
    "reinforce-mlp": ["reinforce/cartpole"],
    "reinforce-lstm": ["reinforce/cartpole-memory"],
}


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_run_in_two_parts_ends_like_one_in_one(cell: list[str], tmp_path: Path) -> None:
    preset, *fields = cell
    whole = gw.train(preset, *SMALL, *fields, "steps=600", run_dir=tmp_path / "whole", quiet=True)
    gw.train(preset, *SMALL, *fields, "steps=300", run_dir=tmp_path / "parts", quiet=True)
    parts = gw.resume(tmp_path / "parts", "steps=600", quiet=True)
    assert parts.step == whole.step
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [(tmp_path / run / name).read_text().splitlines() for run in ("whole", "parts")]
        # The end of the first part is evaluated, which the whole run was not.
        assert set(rows[0]) <= set(rows[1])
    ours, theirs = (
        load_newest(tmp_path / run / "checkpoints").state["learner"]["network"] for run in ("whole", "parts")
    )
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def test_an_agent_that_was_trained_on_cuda_plays_on_cuda(tmp_path: Path) -> None:
    preset, *fields = CELLS["dqn-mlp"]
    run = gw.train(preset, *SMALL, *fields, "steps=100", run_dir=tmp_path / "run", quiet=True)
    assert next(run.agent.network.parameters()).is_cuda
    observation = torch.randn(5, 4).numpy()
    assert run.agent.predict(observation).shape == (5,)
    assert (gw.load(tmp_path / "run").predict(observation) == run.agent.predict(observation)).all()
