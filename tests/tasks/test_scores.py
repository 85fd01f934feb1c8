import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics

from graftwork.tasks.scores import ClassScores, NumberScores, Scores, class_scores, number_scores

# Rows are what samples are, columns what they were taken for. Nothing was ever taken for class 2, and none is class 3.
CONFUSION = ((4, 1, 0, 0), (2, 3, 0, 0), (1, 1, 0, 0), (0, 0, 0, 0))
BY_HAND = ClassScores(0.5, CONFUSION, ("a", "b", "c", "d"))


def test_class_scores_by_hand():
    assert BY_HAND.count == 12
    assert BY_HAND.accuracy == 7 / 12
    assert BY_HAND.precision == (4 / 7, 3 / 5, 0.0, 0.0)
    assert BY_HAND.recall == (4 / 5, 3 / 5, 0.0, 0.0)
    # Of 7 that are not a, 3 were taken for it; of 7 that are not b, 2; of 10 that are not c, none.
    assert BY_HAND.specificity == (4 / 7, 5 / 7, 1.0, 1.0)
    assert BY_HAND.f1 == pytest.approx((2 / 3, 3 / 5, 0.0, 0.0))
    assert BY_HAND.headline() == pytest.approx({"loss": 0.5, "accuracy": 7 / 12, "f1": (2 / 3 + 3 / 5) / 4})


def test_confusion_counts_the_likeliest_class():
    probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3], [0.1, 0.2, 0.7], [0.5, 0.4, 0.1]])
    scores = class_scores(probabilities, torch.tensor([1, 2, 2, 0]), 0.25, ("x", "y", "z"))
    assert scores.confusion == ((1, 0, 0), (0, 1, 0), (1, 0, 1))
    assert scores.loss == 0.25
    assert scores.classes == ("x", "y", "z")


@pytest.mark.parametrize("seed", range(20))
def test_class_scores_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(2, 8)), int(rng.integers(1, 60))
    target, logits = rng.integers(size, size=count), rng.normal(size=(count, size))
    scores = class_scores(torch.from_numpy(logits), torch.from_numpy(target), 0.0, tuple(map(str, range(size))))
    told, labels = logits.argmax(1), np.arange(size)
    theirs = metrics.precision_recall_fscore_support(target, told, labels=labels, zero_division=0)
    assert scores.precision == pytest.approx(tuple(theirs[0]))
    assert scores.recall == pytest.approx(tuple(theirs[1]))
    assert scores.f1 == pytest.approx(tuple(theirs[2]))
    assert scores.accuracy == pytest.approx(metrics.accuracy_score(target, told))
    assert np.array_equal(scores.confusion, metrics.confusion_matrix(target, told, labels=labels))
    # The specificity of a class is the recall of all others taken together.
    others = [metrics.recall_score(target != i, told != i, zero_division=0) for i in labels]
    assert scores.specificity == pytest.approx(tuple(others))


def test_number_scores_by_hand():
    prediction = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 33.0]])
    target = torch.tensor([[1.0, 10.0], [4.0, 20.0], [1.0, 30.0]])
    scores = number_scores(prediction, target, 0.75)
    # Errors 0 0, -2 0, 2 3; variances about the means 2 and 20: (1 + 4 + 1 + 100 + 0 + 100) / 6.
    assert scores.squared_error == pytest.approx(17 / 6)
    assert scores.absolute_error == pytest.approx(7 / 6)
    assert scores.r2 == pytest.approx(1 - 17 / 206)
    assert (scores.loss, scores.count) == (0.75, 3)
    assert scores.headline() == pytest.approx({"loss": 0.75, "rmse": (17 / 6) ** 0.5, "mae": 7 / 6, "r2": 1 - 17 / 206})


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_number_scores_are_those_of_scikit_learn(shape):
    rng = np.random.default_rng(len(shape))
    target = rng.normal(size=(31, *shape)) * np.arange(1, 1 + math.prod(shape)).reshape(shape) + 5
    prediction = target + rng.normal(size=target.shape)
    ours = number_scores(torch.from_numpy(prediction), torch.from_numpy(target), 0.0)
    flat = target.reshape(31, -1), prediction.reshape(31, -1)
    assert ours.r2 == pytest.approx(metrics.r2_score(*flat, multioutput="variance_weighted"))
    assert ours.squared_error == pytest.approx(metrics.mean_squared_error(*flat))
    assert ours.absolute_error == pytest.approx(metrics.mean_absolute_error(*flat))


def test_large_numbers_keep_their_digits():
    target = torch.tensor([1e6, 1e6 + 1, 1e6 + 2])
    assert number_scores(target + torch.tensor([1.0, 0.0, 0.0]), target, 0.0).r2 == pytest.approx(1 - 1 / 2)


@pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])
@pytest.mark.parametrize("count", [1, 3, 1001])
def test_telling_a_constant_has_no_variance_to_explain(value, count):
    target = torch.full((count, 2), value)
    assert number_scores(target + 1, target, 0.0).r2 == 0
    assert number_scores(target, target, 0.0).r2 == 0


def evaluation() -> Scores:
    numbers = NumberScores(0.1, 4.0, 1.5, 0.25, 12)
    return Scores("validation", 2.5, 0.75, {"kind": BY_HAND, "size": numbers})


def test_record_is_plain_and_complete():
    record = json.loads(json.dumps(evaluation().record()))
    assert (record["part"], record["epoch"], record["loss"]) == ("validation", 2.5, 0.75)
    kind = record["heads"]["kind"]
    assert kind["confusion"] == [list(row) for row in CONFUSION]
    assert kind["accuracy"] == 7 / 12
    assert list(kind["classes"]) == ["a", "b", "c", "d"]
    assert kind["classes"]["b"] == pytest.approx(
        {"precision": 0.6, "recall": 0.6, "specificity": 5 / 7, "f1": 0.6, "count": 5}
    )
    assert record["heads"]["size"] == {"loss": 0.1, "rmse": 2.0, "mae": 1.5, "r2": 0.25, "count": 12}


def test_metrics_are_named_by_part_and_head():
    found = evaluation().metrics()
    assert found["validation/loss"] == 0.75
    assert found["validation/kind/accuracy"] == 7 / 12
    assert found["validation/size/rmse"] == 2.0
    assert set(found) == {
        "validation/loss",
        *(f"validation/kind/{key}" for key in ("loss", "accuracy", "f1")),
        *(f"validation/size/{key}" for key in ("loss", "rmse", "mae", "r2")),
    }


def test_a_line_and_a_table_for_people():
    assert str(evaluation()) == "validation loss 0.7500, kind accuracy 0.583, size r2 0.250"
    lines = evaluation().table().splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["kind", "precision", "recall", "specificity", "f1", "count"],
        ["a", "0.571", "0.800", "0.571", "0.667", "5"],
        ["b", "0.600", "0.600", "0.714", "0.600", "5"],
    ]
    assert len({len(line) for line in lines[:5]}) == 1, "columns line up"
    assert lines[5] == "size: loss 0.1, rmse 2, mae 1.5, r2 0.25"
