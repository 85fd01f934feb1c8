import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.networks import GRUConfig, MLPConfig
from graftwork.tasks import (
    Dataset,
    HeadConfig,
    Model,
    Part,
    PenaltyConfig,
    Scores,
    SupervisedConfig,
    Validation,
    chosen_weights,
    from_arrays,
    score,
)
from graftwork.tasks import validation as module
from graftwork.training import checkpoint
from graftwork.training.evaluate import Interrupted

N, IN = 11, 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(num: int = N, seed: int = 0) -> Dataset:
    generator = seeded(seed)
    return from_arrays(
        torch.randn(num, IN, generator=generator),
        {
            "class": torch.randint(4, (num,), generator=generator),
            "value": 10 + 3 * torch.randn(num, 2, generator=generator),
        },
        names={"class": "abcd"},
    )


def sequences() -> Dataset:
    generator = seeded(1)
    return from_arrays(
        torch.randn(N, 5, IN, generator=generator),
        {"rows": torch.randint(3, (N, 5), generator=generator), "value": torch.randn(N, generator=generator)},
        names={"rows": "xyz"},
        lengths=torch.tensor([5, 1, 2, 3, 4, 5, 5, 1, 2, 3, 4]),
    )


def config(**fields) -> SupervisedConfig:
    heads = {"class": HeadConfig(), "value": HeadConfig(weight=0.5)}
    return SupervisedConfig(**{"encoder": MLPConfig(hidden=(6,)), "heads": heads, "batch_size": 4, **fields})


def same(actual, expected, **tolerance):
    torch.testing.assert_close(actual, expected, **tolerance)


def test_scores_are_of_what_the_model_says(make_task):
    data = table()
    task = make_task(config(encoder=MLPConfig(hidden=(6,), dropout=0.5, norm="batch")), data)
    scores = score(task.learner, [task.part], "validation", 1.5)
    told, target = Model(task.network).predict(data.inputs), data.target("class").values
    value = data.target("value").values
    assert scores.heads["class"].accuracy == pytest.approx((torch.from_numpy(told["class"]) == target).float().mean())
    assert scores.heads["class"].classes == tuple("abcd")
    error = torch.from_numpy(told["value"]) - value
    assert scores.heads["value"].squared_error == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert scores.heads["value"].count == N
    assert (scores.part, scores.epoch) == ("validation", 1.5)


def test_loss_is_trainings_without_penalties(make_task):
    data = table()
    task = make_task(config(penalty=PenaltyConfig(l2=1.0, sparsity=1.0), batch_size=N), data)
    plain = make_task(config(batch_size=N), data)
    scores = score(task.learner, [task.part], "validation", 0.0)
    metrics = plain.learner.learn(plain.batches.next())  # without dropout and batch norm, as at rest
    assert scores.loss == pytest.approx(metrics["loss"].item(), rel=1e-5)
    for head in ("class", "value"):
        assert scores.heads[head].loss == pytest.approx(metrics[f"loss/{head}"].item(), rel=1e-5)
    assert scores.loss == pytest.approx(scores.heads["class"].loss + 0.5 * scores.heads["value"].loss)


def test_learnt_weights_count_as_in_training(make_task):
    data = table()
    each = config(heads={"class": HeadConfig(), "value": HeadConfig()}, weighting="uncertainty", batch_size=N)
    task = make_task(each, data)
    with torch.no_grad():
        task.network.log_variance.copy_(torch.tensor([0.4, -0.6]))
    scores = score(task.learner, [task.part], "validation", 0.0)
    weights = torch.tensor([-0.4, 0.6]).exp().tolist()
    by_hand = weights[0] * scores.heads["class"].loss + 0.2 + weights[1] * scores.heads["value"].loss - 0.3
    assert scores.loss == pytest.approx(by_hand)


@pytest.mark.parametrize("size", [1, 4, 11])
@pytest.mark.parametrize("members", [1, 3])
def test_in_how_many_batches_does_not_matter(make_task, monkeypatch, size, members):
    task = make_task(config(members=members), table())
    whole = score(task.learner, [task.part], "validation", 0.0)
    rows = {"rows": HeadConfig(), "value": HeadConfig()}
    sequential = make_task(config(encoder=GRUConfig(hidden_size=4), heads=rows, members=members), sequences())
    whole_rows = score(sequential.learner, [sequential.part], "validation", 0.0)
    monkeypatch.setattr(module, "BATCH", size)
    for each, expected in ((task, whole), (sequential, whole_rows)):
        parts = score(each.learner, [each.part], "validation", 0.0)
        assert parts.loss == pytest.approx(expected.loss, rel=1e-5)
        assert parts.metrics() == pytest.approx(expected.metrics(), rel=1e-5)


def test_rows_that_are_padding_are_not_scored(make_task):
    data = sequences()
    task = make_task(config(encoder=GRUConfig(hidden_size=4), heads={"rows": HeadConfig()}), data)
    scores = score(task.learner, [task.part], "validation", 0.0).heads["rows"]
    probabilities = torch.from_numpy(Model(task.network).probabilities(data.inputs, data.lengths))
    inside = torch.arange(5) < data.lengths.unsqueeze(1)
    target = data.target("rows").values
    assert scores.count == data.lengths.sum() == 35
    assert scores.loss == pytest.approx(F.nll_loss(probabilities[inside].log(), target[inside]).item(), rel=1e-5)
    assert scores.accuracy == pytest.approx((probabilities.argmax(-1) == target)[inside].float().mean().item())


def test_given_heads_are_scored_by_the_prediction_for_the_given_class(make_task):
    data = table()
    task = make_task(config(heads={"value": HeadConfig(given="class")}), data)
    scores = score(task.learner, [task.part], "validation", 0.0).heads["value"]
    told = torch.from_numpy(Model(task.network).predict(data.inputs))
    assert told.shape == (N, 4, 2)
    error = told[torch.arange(N), data.target("class").values] - data.target("value").values
    assert scores.squared_error == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_an_ensembles_scores_are_of_its_average_and_its_loss_its_members(make_task):
    data = table()
    task = make_task(config(members=3, heads={"class": HeadConfig()}), data)
    scores = score(task.learner, [task.part], "validation", 0.0)
    each = [torch.from_numpy(Model(task.network.member(i)).probabilities(data.inputs)) for i in range(3)]
    target = data.target("class").values
    average = sum(each) / 3
    assert scores.heads["class"].accuracy == pytest.approx((average.argmax(1) == target).float().mean().item())
    losses = [F.nll_loss(probabilities.log(), target).item() for probabilities in each]
    assert scores.loss == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert scores.heads["class"].loss == pytest.approx(scores.loss)


def test_each_source_scores_its_own_heads(make_task):
    one, other = table(), table(7, seed=3)
    task = make_task(config(), one)
    scores = score(task.learner, [Part(one, ("class",)), Part(other, ("value",))], "test", 0.0)
    assert (scores.heads["class"].count, scores.heads["value"].count) == (N, 7)
    expected = score(task.learner, [Part(other, ("class", "value"))], "test", 0.0).heads["value"]
    assert scores.heads["value"] == expected


def test_scoring_changes_nothing(make_task):
    task = make_task(config(encoder=MLPConfig(hidden=(6,), dropout=0.5, norm="batch")), table())
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    random = torch.get_rng_state()
    assert score(task.learner, [task.part], "a", 0.0) == score(task.learner, [task.part], "a", 0.0)
    assert torch.equal(torch.get_rng_state(), random)
    same(dict(task.network.state_dict()), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in task.network.parameters())


def test_a_stop_interrupts_and_concludes_nothing(make_task):
    task = make_task(config(), table())
    validation = Validation(task.learner, [task.part], "validation", N, patience=1)
    with pytest.raises(Interrupted):
        validation(N, lambda: True)
    assert validation.state_dict() == {"best": {}, "lowest": float("inf"), "stale": 0, "is_over": False}


# Early stopping: losses are set by hand, and the first parameter says which evaluation it was.


def run(make_task, monkeypatch, losses: list[float], patience: int | None):
    task = make_task(config(), table())
    told = iter(losses)

    def scored(*args: object) -> Scores:
        return Scores("validation", 0.0, next(told), {})

    monkeypatch.setattr(module, "score", scored)
    validation = Validation(task.learner, [task.part], "validation", N, patience)
    overs = []
    for place in range(len(losses)):
        mark(task.network).fill_(float(place))
        validation((place + 1) * N, lambda: False)
        overs.append(validation.is_over)
    return task, validation, overs


@torch.no_grad()
def mark(network) -> Tensor:
    return next(network.parameters()).data


def kept(task, validation) -> float:
    state = {"learner": task.learner.state_dict(), "evaluator": validation.state_dict()}
    return chosen_weights(state)["encoder.inner.layers.0.weight"].flatten()[0].item()


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "patience", "overs", "best"),
    [
        ([3.0, 2.0, 1.0], 1, [False, False, False], 2),
        ([3.0, 2.0, 2.5, 1.0], 2, [False, False, False, False], 3),
        ([3.0, 2.0, 2.5, 2.25], 2, [False, False, False, True], 1),
        ([2.0, 2.0], 1, [False, True], 0),  # ties go to the earlier
        ([2.0, 3.0, 2.0, 1.0], 3, [False, False, False, False], 3),
        ([2.0, NAN, NAN], 2, [False, False, True], 0),
        ([NAN, 2.0, 3.0], 2, [False, False, False], 1),
        ([NAN, NAN], 2, [False, True], 1),  # none was ever good: the last
        ([float("inf"), 5.0], 2, [False, False], 1),
        ([-1.0, -2.0, -1.5], 1, [False, False, True], 1),  # a learnt weighting can be below 0
        ([1.0, 2.0, 3.0], None, [False, False, False], 2),  # without patience, the last
    ],
)
def test_stops_after_so_many_evaluations_without_a_lower_loss(make_task, monkeypatch, losses, patience, overs, best):
    task, validation, found = run(make_task, monkeypatch, losses, patience)
    assert found == overs
    assert kept(task, validation) == best


def test_best_weights_are_copies(make_task, monkeypatch):
    task, validation, _ = run(make_task, monkeypatch, [1.0], 3)
    mark(task.network).fill_(9.0)
    assert kept(task, validation) == 0.0
    state = validation.state_dict()
    validation.load_state_dict(state)
    state["best"]["encoder.inner.layers.0.weight"].fill_(7.0)
    assert kept(task, validation) == 0.0


def test_without_patience_there_is_nothing_to_remember(make_task):
    task = make_task(config(), table())
    validation = Validation(task.learner, [task.part], "validation", N, patience=None)
    validation(N, lambda: False)
    assert validation.state_dict() == {}


@pytest.mark.parametrize("evaluations", [0, 1, 3])
def test_memory_survives_a_checkpoint(make_task, monkeypatch, tmp_path, evaluations):
    task, one, _ = run(make_task, monkeypatch, [1.0, 2.0, 3.0][:evaluations], 4)
    checkpoint.save(tmp_path, 1, {"evaluator": one.state_dict()}, keep=1, meta={})
    other = Validation(task.learner, [task.part], "validation", N, 4)
    other.load_state_dict(checkpoint.load_newest(tmp_path).state["evaluator"])
    monkeypatch.setattr(module, "score", lambda *args: Scores("validation", 0.0, 9.0, {}))
    for _ in range(5):
        for validation in (one, other):
            validation(N, lambda: False)
        assert one.is_over == other.is_over
    assert one.is_over
    ours, theirs = one.state_dict(), other.state_dict()
    same(dict(ours.pop("best")), dict(theirs.pop("best")), rtol=0, atol=0)
    assert ours == theirs


def test_model_of_the_lowest_loss_predicts_as_it_did_then(make_task):
    """Trained on labels that are noise, it soon gets worse on others."""
    data, other = table(), table(40, seed=7)
    task = make_task(config(learning_rate=0.05, heads={"class": HeadConfig()}), data)
    validation = Validation(task.learner, [Part(other, ("class",))], "validation", N, patience=5)
    losses, answers = [], []
    while not validation.is_over:
        for _ in range(3):
            task.learner.learn(task.batches.next())
        losses.append(validation(task.batches.num_steps, lambda: False).loss)
        answers.append(Model(task.network).probabilities(other.inputs))
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 6
    state = {"learner": task.learner.state_dict(), "evaluator": validation.state_dict()}
    task.network.load_state_dict(chosen_weights(state))
    assert (Model(task.network).probabilities(other.inputs) == answers[best]).all()


def test_scores_that_are_not_finite_can_be_recorded(make_task):
    data = table()
    far = replace(data, inputs=data.inputs * 1e38)
    task = make_task(config(normalise="none"), data)
    scores = score(task.learner, [Part(far, ("class", "value"))], "validation", 0.0)
    assert not torch.tensor(scores.loss).isfinite()
    json.dumps(scores.record())
    assert "validation loss" in str(scores)
    assert scores.table()
