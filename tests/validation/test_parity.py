import csv
import random

import numpy as np
import pytest
import torch

from graftwork.agents.action_values import ScalarConfig
from graftwork.agents.dqn import DQNConfig
from graftwork.validation import parity, parity_dqn, parity_reinforce
from graftwork.validation.parity_rows import ParityRow, largest_difference

STEPS = 1_536  # six rollouts of 256, of which two learn: 384 updates or more


@pytest.fixture
def small_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_dqn, "CAPACITY", 1_100)


def test_dqn_ends_with_the_same_bits_although_episodes_are_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_dqn, "MAX_EPISODE_STEPS", 30)
    (row,) = parity_dqn.learning(3, STEPS)
    assert row.updates >= 384
    assert row.truncations > 5
    assert (row.steps, row.difference, row.tolerance, row.verdict) == (STEPS, 0.0, 0.0, "equal")


@pytest.mark.usefixtures("small_replay")
def test_dqn_ends_with_the_same_bits_although_the_replay_wraps_around() -> None:
    (row,) = parity_dqn.learning(4, STEPS)
    assert row.difference == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [("discount", 0.98), ("target_period", 1_000), ("max_gradient_norm", 0.01), ("adam_epsilon", 1e-3)],
)
def test_a_setting_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    ours = parity_dqn.our_dqn

    def changed(config: DQNConfig, *others: object) -> parity_dqn.TheirDQN:
        return ours(config.model_copy(update={name: value}), *others)  # type: ignore[arg-type]

    monkeypatch.setattr(parity_dqn, "our_dqn", changed)
    (row,) = parity_dqn.learning(0, STEPS)
    assert row.difference > 1e-4
    assert row.verdict == "differs"


def test_one_update_of_dqn_is_the_same_to_the_bit() -> None:
    rows = parity_dqn.update_of_mlp(0, 1)
    assert {row.what: row.difference for row in rows} == {
        "loss": 0.0,
        "gradients": 0.0,
        "weights, gradient clipped": 0.0,
    }


def test_one_update_of_dqn_on_images_is_the_same_up_to_rounding() -> None:
    rows = parity_dqn.update_of_cnn(0, 1)
    assert all(row.is_equal and row.tolerance == 1e-6 for row in rows)


def test_another_loss_is_found_in_one_update(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = parity_dqn.our_dqn

    def squared(config: DQNConfig, *others: object) -> parity_dqn.TheirDQN:
        value = ScalarConfig(loss="squared")
        return ours(config.model_copy(update={"value": value}), *others)  # type: ignore[arg-type]

    monkeypatch.setattr(parity_dqn, "our_dqn", squared)
    assert [row.verdict for row in parity_dqn.update_of_mlp(0, 1)] == ["differs"] * 3


def test_reinforce_stays_within_rounding_of_a2c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_reinforce, "UPDATES", 10)
    (row,) = parity_reinforce.learning(2, 1)
    assert (row.steps, row.updates) == (2_560, 10)
    assert row.truncations >= 10  # one at the end of each rollout that no fall ends
    assert row.difference < 1e-6


def test_a_discount_that_differs_is_found_in_reinforce(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = parity_reinforce.our_reinforce
    monkeypatch.setattr(parity_reinforce, "UPDATES", 10)
    monkeypatch.setattr(
        parity_reinforce,
        "our_reinforce",
        lambda config, *others: ours(config.model_copy(update={"discount": 0.97}), *others),
    )
    (row,) = parity_reinforce.learning(2, 1)
    assert row.verdict == "differs"


def test_one_update_of_reinforce_is_the_same_up_to_rounding() -> None:
    for rows in (parity_reinforce.update_of_mlp(1, 1), parity_reinforce.update_of_cnn(1, 1)):
        assert [row.what for row in rows] == ["loss", "gradients", "weights, gradient clipped"]
        assert all(row.is_equal and row.tolerance == 1e-6 for row in rows)


def test_a_difference_that_is_no_number_is_a_difference() -> None:
    assert not row(float("nan")).is_equal


def test_the_report_is_written_and_the_global_streams_are_left_as_they_were(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)

    def check(seed: int, steps: int) -> list[ParityRow]:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        return [row(0.25 * seed)]

    monkeypatch.setattr(parity, "CHECKS", (parity.Check("a", check), parity.Check("b", check, every_seed=False)))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    said: list[str] = []
    report = parity.run(2, 1_024, tmp_path / "made", said.append)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    assert said == ["a, seed 0: equal", "a, seed 1: differs", "b, seed 0: equal"]
    assert not report.passed
    with (tmp_path / "made" / "parity.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [each["difference"] for each in found] == ["0.0", "0.25", "0.0"]
    assert [each["verdict"] for each in found] == ["equal", "differs", "equal"]
    names = "check env seed steps updates truncations what difference tolerance verdict"
    assert list(found[0]) == names.split()
    assert report.record()["passed"] is False
    assert "0.25" in str(report)
    assert "differs" in str(report)


@pytest.mark.parametrize(
    ("seeds", "steps", "text"),
    [(0, 5_000, "--seeds=0: must be at least 1$"), (1, 1_023, "--steps=1023: must be at least 1,024$")],
)
def test_nothing_to_compare_is_refused(seeds: int, steps: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parity.run(seeds, steps, None)


def test_a_nan_in_any_tensor_is_a_difference() -> None:
    same, other = {"a": torch.zeros(2), "b": torch.zeros(3)}, {"x": torch.zeros(2), "y": torch.tensor([0, np.nan, 0])}
    assert np.isnan(largest_difference(same, other, {"a": "x", "b": "y"}))
    assert largest_difference(same, same, {"a": "a", "b": "b"}) == 0.0


def row(difference: float) -> ParityRow:
    return ParityRow("a", "env", 0, 7, 5, 3, "weights", difference, 0.0)
