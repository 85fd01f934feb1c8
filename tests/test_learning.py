"""Learning runs: each preset reaches what docs/results.md says, on seeds that it was not tuned on.

Thresholds are just below the lowest of all seeds reported there, so that a failure means a change and not bad luck.
"""

from pathlib import Path

import pytest

import graftwork as gw

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]


@pytest.mark.parametrize("seed", [20, 21, 22])
@pytest.mark.parametrize(
    ("preset", "threshold"),
    [("dqn/cartpole", 100), ("reinforce/cartpole", 470), ("dqn/acrobot", -95), ("dqn/cartpole-memory", 160)],
)
def test_preset_reaches_its_return(preset: str, threshold: float, seed: int, tmp_path: Path) -> None:
    gw.train(preset, seed=seed, run_dir=tmp_path / "run", quiet=True)
    evaluation = gw.evaluate(tmp_path / "run", episodes=100)
    assert evaluation.mean >= threshold


@pytest.mark.parametrize("seed", [20, 21])
def test_without_a_memory_hidden_velocities_stay_unsolved(seed: int, tmp_path: Path) -> None:
    memoryless = ["agent.encoder.kind=mlp", "agent.sequence_length=1", "agent.burn_in=0"]
    gw.train("dqn/cartpole-memory", *memoryless, seed=seed, run_dir=tmp_path / "run", quiet=True)
    evaluation = gw.evaluate(tmp_path / "run", episodes=100)
    assert evaluation.mean < 150
