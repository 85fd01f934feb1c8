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
    [
        ("dqn/cartpole", 100),
        ("reinforce/cartpole", 470),
        ("dqn/acrobot", -95),
        ("dqn/cartpole-memory", 160),
        ("dqn/mountaincar", -115),
        ("dqn/lunarlander", 170),
    ],
)
def test_preset_reaches_its_return(preset: str, threshold: float, seed: int, tmp_path: Path) -> None:
    gw.train(preset, seed=seed, run_dir=tmp_path / "run", quiet=True)
    evaluation = gw.evaluate(tmp_path / "run", episodes=100)
    assert evaluation.mean >= threshold


@pytest.mark.parametrize("seed", [20, 21])
def test_pqn_balances_the_pole(seed: int, tmp_path: Path) -> None:
    gw.train("pqn/cartpole", seed=seed, run_dir=tmp_path / "run", quiet=True)
    # Seeds 1000 to 1003, on which it was tuned, all end at 500, the most there is.
    assert gw.evaluate(tmp_path / "run", episodes=100).mean >= 475


@pytest.mark.parametrize("seed", [20, 21])
def test_a_memory_recalls_what_was_shown_20_rows_before(seed: int, tmp_path: Path) -> None:
    gw.train("dqn/recall", seed=seed, run_dir=tmp_path / "run", quiet=True)
    # 1.0 from 50k steps on with the seeds of its tuning; 0.25 is chance.
    assert gw.evaluate(tmp_path / "run", episodes=100).mean >= 0.99


def test_without_a_memory_recall_is_chance(tmp_path: Path) -> None:
    memoryless = ["agent.encoder.kind=mlp", "agent.sequence_length=1", "steps=50_000"]
    gw.train("dqn/recall", *memoryless, seed=20, run_dir=tmp_path / "run", quiet=True)
    # One of four symbols: of 400 episodes a mean of 0.35 is more than four standard deviations above 0.25.
    assert gw.evaluate(tmp_path / "run", episodes=400).mean < 0.35


@pytest.mark.parametrize("seed", [20, 21])
def test_breakout_on_minatar_is_played(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("minatar")
    gw.train("dqn/minatar-breakout", seed=seed, run_dir=tmp_path / "run", quiet=True)
    # Seeds 0 to 4 come to 12.1 to 16.6; a published DQN has about 10 at 5M steps (Young & Tian 2019).
    assert gw.evaluate(tmp_path / "run", episodes=100).mean >= 10


@pytest.mark.parametrize("seed", [20, 21, 22])
@pytest.mark.parametrize(
    ("preset", "threshold"),
    [("supervised/digits-mlp", 0.955), ("supervised/digits-resnet", 0.95), ("multitask/digits", 0.955)],
)
def test_preset_reaches_its_accuracy(preset: str, threshold: float, seed: int, tmp_path: Path) -> None:
    gw.train(preset, seed=seed, run_dir=tmp_path / "run", quiet=True)
    assert gw.evaluate(tmp_path / "run").heads["class"].accuracy >= threshold


def test_a_graft_is_ahead_of_scratch_at_first(tmp_path: Path) -> None:
    ahead = []
    for seed in (20, 21, 22):
        gw.train("transfer/digits", seed=seed, run_dir=tmp_path / str(seed), quiet=True)
        finetuned, scratch = (gw.evaluate(tmp_path / str(seed) / stage) for stage in ("finetuned", "scratch"))
        ahead.append(finetuned.heads["class"].accuracy - scratch.heads["class"].accuracy)
    assert sum(ahead) / len(ahead) > 0.05  # .14 over seeds 0 to 4


@pytest.mark.parametrize("seed", [20, 21])
def test_without_a_memory_hidden_velocities_stay_unsolved(seed: int, tmp_path: Path) -> None:
    memoryless = ["agent.encoder.kind=mlp", "agent.sequence_length=1", "agent.burn_in=0"]
    gw.train("dqn/cartpole-memory", *memoryless, seed=seed, run_dir=tmp_path / "run", quiet=True)
    evaluation = gw.evaluate(tmp_path / "run", episodes=100)
    assert evaluation.mean < 150
