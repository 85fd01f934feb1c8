from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.envs import Episode
from graftwork.training.checkpoint import digest, load, save
from graftwork.training.evaluate import Evaluation, Interrupted
from graftwork.training.interrupt import Abandoned
from graftwork.training.trainer import Periods, Trainer

NEVER = 10**9


@dataclass
class Numbers:
    """A source whose batches are 1, 2, 3, ..., each of the next size, again and again; all its state is a counter."""

    sizes: tuple[int, ...] = (10,)
    episodes: dict[int, list[Episode]] = field(default_factory=dict)  # that end in a batch, by its number
    batch: int = 0

    @property
    def num_steps(self) -> int:
        rounds, rest = divmod(self.batch, len(self.sizes))
        return rounds * sum(self.sizes) + sum(self.sizes[:rest])

    def next(self) -> int:
        self.batch += 1
        return self.batch

    def finished(self) -> list[Episode]:
        return self.episodes.get(self.batch, [])

    def state_dict(self) -> dict[str, int]:
        return {"batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batch = state["batch"]


@dataclass
class Echo:
    """A learner whose metrics are a function of the batch; it counts its calls, and tells more when examined."""

    metrics: Callable[[int], Mapping[str, Tensor]] = lambda batch: {"loss": torch.tensor(float(batch))}
    calls: int = 0
    wanted: list[bool] = field(default_factory=list)  # what it was asked to tell, in order

    def learn(self, batch: int) -> Mapping[str, Tensor]:
        self.calls += 1
        told = {"layers/0/mean": torch.tensor(float(batch))} if self.wanted[-1:] == [True] else {}
        return {**self.metrics(batch), **told}

    def examine(self, wanted: bool) -> None:
        self.wanted.append(wanted)

    def state_dict(self) -> dict[str, int]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class Stop:
    """True once `step` reaches a number, and from then on; or during the evaluation of that step."""

    def __init__(self, at: int = NEVER, *, evaluating: bool = False) -> None:
        self.at, self.evaluating, self.harness = at, evaluating, None

    def __call__(self) -> bool:
        assert self.harness is not None
        return bool(self.harness.trainer.step >= self.at and (not self.evaluating or self.harness.is_evaluating))

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        yield


@dataclass
class Judge:
    """An evaluator that has seen enough after so many evaluations; then it has their number to remember."""

    harness: "Harness"
    enough: int | None
    calls: int = 0

    @property
    def is_over(self) -> bool:
        return self.enough is not None and self.calls >= self.enough

    def __call__(self, step: int, stop: Callable[[], bool]) -> Evaluation:
        assert step == self.harness.trainer.step
        self.harness.events.append(("evaluate", step))
        self.harness.is_evaluating = True
        if stop():
            raise Interrupted
        self.harness.is_evaluating = False
        self.calls += 1
        return self.harness.verdict()

    def state_dict(self) -> dict[str, int | bool]:
        return {} if self.enough is None else {"calls": self.calls, "is_over": self.is_over}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class Harness:
    """A trainer with what happened to it: `events` are (what, step), `rows` and `records` what a run would write."""

    def __init__(
        self,
        *,
        steps: int = 60,
        log: int = NEVER,
        evaluation: int = 0,
        checkpoint: int = 0,
        source: Numbers | None = None,
        learner: Echo | None = None,
        enough: int | None = None,
        examines: bool = False,
    ) -> None:
        """enough: evaluations until the evaluator says that the run is over."""
        self.source, self.learner = source or Numbers(), learner or Echo()
        self.events: list[tuple[str, int]] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.records: list[Mapping[str, object]] = []
        self.lines: list[str] = []
        self.saved: dict[int, dict[str, object]] = {}
        self.is_evaluating = False
        self.trainer = Trainer(
            self.source,
            self.learner,
            self,
            self,
            steps=steps,
            periods=Periods(log, evaluation, checkpoint),
            evaluator=Judge(self, enough),
            save=self.save,
            examines=examines,
        )

    def run(self, stop: Stop | None = None) -> "Harness":
        stop = stop or Stop()
        stop.harness = self
        self.trainer.run(stop)
        return self

    def verdict(self) -> Evaluation:
        return Evaluation((float(self.learner.calls), 4.0), (3, 5))

    def save(self, step: int, state: dict[str, object]) -> None:
        assert step == self.trainer.step
        self.events.append(("save", step))
        self.saved[step] = state

    # As trackers.

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        is_evaluation = "evaluation/return" in metrics
        self.events.append(("log evaluation" if is_evaluation else "log", step))
        self.rows.append((step, {key: value for key, value in metrics.items() if not key.startswith("time/")}))

    def log_evaluation(self, record: Mapping[str, object]) -> None:
        self.events.append(("record", self.trainer.step))
        self.records.append(record)

    def state_dict(self) -> dict[str, int]:
        return {"rows": len(self.rows), "records": len(self.records)}

    def load_state_dict(self, state: dict[str, int]) -> None: ...

    # As progress.

    def update(self, step: int, return_: float | None = None) -> None: ...

    def line(self, text: str) -> None:
        self.lines.append(text)

    def steps_of(self, event: str) -> list[int]:
        return [step for name, step in self.events if name == event]

    def train_rows(self) -> list[tuple[int, dict[str, float]]]:
        return [(step, row) for step, row in self.rows if "evaluation/return" not in row]


def test_a_step_logs_then_evaluates_then_saves():
    harness = Harness(steps=60, log=20, evaluation=30, checkpoint=60).run()
    evaluated = ["evaluate", "record", "log evaluation"]
    assert harness.events == [
        ("save", 0),
        ("log", 20),
        *((name, 30) for name in evaluated),
        ("log", 40),
        ("log", 60),
        *((name, 60) for name in evaluated),
        ("save", 60),
    ]


def test_period_that_falls_inside_a_batch_counts_after_it_and_once():
    # Batches end at 7, 57, 60, 67, 117 and 120. Multiples of 20 lie in those to 57 (two), 60, 117 (two) and 120.
    source = Numbers(sizes=(7, 50, 3))
    harness = Harness(steps=120, log=20, evaluation=20, checkpoint=20, source=source).run()
    for event in ("log", "evaluate"):
        assert harness.steps_of(event) == [57, 60, 117, 120]
    assert harness.steps_of("save") == [0, 57, 60, 117, 120]


def test_run_ends_with_the_first_batch_at_or_past_its_steps():
    assert Harness(steps=60).run().trainer.step == 60
    assert Harness(steps=61).run().trainer.step == 70


def test_end_is_evaluated_and_saved_whatever_the_periods():
    harness = Harness(steps=55, evaluation=0, checkpoint=0).run()
    assert harness.steps_of("evaluate") == [60]
    assert harness.steps_of("save") == [0, 60]
    harness = Harness(steps=55, evaluation=25, checkpoint=50).run()
    assert harness.steps_of("evaluate") == [30, 50, 60]
    assert harness.steps_of("save") == [0, 50, 60]


def test_end_that_is_due_anyway_is_evaluated_once():
    assert Harness(steps=60, evaluation=20).run().steps_of("evaluate") == [20, 40, 60]


def test_last_evaluation_is_kept():
    harness = Harness(steps=30, evaluation=10).run()
    assert harness.trainer.evaluation == Evaluation((3.0, 4.0), (3, 5))


def test_record_of_an_evaluation_says_its_step():
    harness = Harness(steps=30).run()
    assert harness.records == [
        {"step": 30, "mean": 3.5, "std": 0.5, "episodes": 2, "returns": [3.0, 4.0], "lengths": [3, 5]}
    ]
    assert harness.rows == [(30, {"evaluation/return": 3.5, "evaluation/std": 0.5})]
    assert harness.lines == ["step 30: greedy return 3.5 ± 0.5"]


class Accuracy:
    """A verdict of another kind."""

    def record(self) -> dict[str, object]:
        return {"heads": {"class": {"accuracy": 0.75}}}

    def metrics(self) -> dict[str, float]:
        return {"validation/class/accuracy": 0.75}

    def __str__(self) -> str:
        return "class accuracy 0.75"


def test_verdict_of_any_kind_is_recorded_tracked_told_and_kept():
    harness = Harness(steps=1_230, source=Numbers(sizes=(1_230,)))
    verdict = Accuracy()
    harness.verdict = lambda: verdict
    harness.run()
    assert harness.records == [{"step": 1_230, "heads": {"class": {"accuracy": 0.75}}}]
    assert harness.rows == [(1_230, {"validation/class/accuracy": 0.75})]
    assert harness.lines == ["step 1,230: class accuracy 0.75"]
    assert harness.trainer.evaluation is verdict


def test_metrics_are_means_over_the_calls_since_the_last_log():
    harness = Harness(steps=60, log=30).run()
    assert harness.train_rows() == [(30, {"train/loss": 2.0}), (60, {"train/loss": 5.0})]  # of 1, 2, 3 and of 4, 5, 6


def test_metric_that_only_some_calls_give_is_the_mean_over_those():
    def metrics(batch: int) -> dict[str, Tensor]:
        loss = {"loss": torch.tensor(float(batch))}
        return {} if batch == 1 else loss | ({"target": torch.tensor(10.0 * batch)} if batch % 2 else {})

    harness = Harness(steps=60, log=30, learner=Echo(metrics)).run()
    expected = [(30, {"train/loss": 2.5, "train/target": 30.0}), (60, {"train/loss": 5.0, "train/target": 50.0})]
    assert harness.train_rows() == expected


def test_learner_may_use_its_metric_tensors_again():
    shared = torch.zeros(())
    harness = Harness(steps=30, log=30, learner=Echo(lambda batch: {"loss": shared.fill_(batch)})).run()
    assert harness.train_rows() == [(30, {"train/loss": 2.0})]


def test_episodes_are_those_that_ended_since_the_last_log():
    ended = {1: [Episode(5.0, 3)], 3: [Episode(7.0, 11), Episode(0.0, 1)]}
    harness = Harness(steps=60, log=30, source=Numbers(episodes=ended), learner=Echo(lambda batch: {})).run()
    first = {"episode/return": 4.0, "episode/length": 5.0, "episode/count": 3}
    assert harness.train_rows() == [(30, first), (60, {})]


def test_metrics_stay_tensors_until_they_are_logged():
    class Reads(TorchDispatchMode):
        """Counts values that are fetched from their device."""

        count = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    learner = Echo(lambda batch: {"loss": torch.ones(()), "entropy": torch.ones(())})
    with Reads() as reads:
        Harness(steps=1_000, log=500, checkpoint=100, learner=learner).run()
    assert learner.calls == 100
    assert reads.count == 2 * 2  # logs times metrics


def test_stop_finishes_the_update_and_saves_without_evaluating():
    harness = Harness(steps=60, evaluation=30).run(Stop(30))
    assert harness.learner.calls == 3
    assert harness.events == [("save", 0), ("save", 30)]
    assert not harness.trainer.is_finished


def test_stop_during_an_evaluation_saves_and_records_nothing():
    harness = Harness(steps=60, evaluation=30).run(Stop(30, evaluating=True))
    assert harness.events == [("save", 0), ("evaluate", 30), ("save", 30)]
    assert harness.trainer.evaluation is None


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("step", [30, 60])
def test_evaluation_that_a_stop_prevented_comes_first_after_a_resume(step, evaluating):
    stopped = Harness(steps=60, evaluation=30).run(Stop(step, evaluating=evaluating))
    resumed = Harness(steps=60, evaluation=30)
    resumed.trainer.load_state_dict(stopped.saved[step])
    resumed.run()
    assert resumed.events[:3] == [("evaluate", step), ("record", step), ("log evaluation", step)]
    assert stopped.records + resumed.records == Harness(steps=60, evaluation=30).run().records


def harness_of_everything(enough: int | None) -> Harness:
    ended = {batch: [Episode(float(batch), batch)] * (batch % 3) for batch in range(40)}
    source = Numbers(sizes=(7, 50, 3, 11), episodes=ended)
    return Harness(steps=400, log=30, evaluation=70, checkpoint=1, source=source, enough=enough)


@pytest.mark.parametrize(
    ("enough", "num_saved"),
    # Five rounds of the sizes, 355, then 362 and 412; and the beginning. The third evaluation comes after three rounds,
    # at 213.
    [(None, 23), (9, 23), (3, 13)],
)
def test_trainer_restored_at_any_step_does_what_it_would_have_done(enough, num_saved):
    reference = harness_of_everything(enough).run()
    assert len(reference.saved) == num_saved
    for step, state in reference.saved.items():
        resumed = harness_of_everything(enough)
        resumed.trainer.load_state_dict(state)
        resumed.run()
        counts = state["trackers"]
        assert reference.rows[: counts["rows"]] + resumed.rows == reference.rows, step
        assert reference.records[: counts["records"]] + resumed.records == reference.records, step
        final = max(reference.saved)
        ours = resumed.saved[final] | {"trackers": reference.saved[final]["trackers"]}
        assert digest(ours) == digest(reference.saved[final]), step


def test_restored_trainer_saves_nothing_before_its_next_period():
    stopped = Harness(steps=60, checkpoint=30).run(Stop(30))
    resumed = Harness(steps=60, checkpoint=30)
    resumed.trainer.load_state_dict(stopped.saved[30])
    assert resumed.run().steps_of("save") == [60]


def test_saved_state_does_not_change_as_training_goes_on():
    harness = Harness(steps=60, checkpoint=10)
    kept: dict[int, str] = {}
    save = harness.save

    def noting(step: int, state: dict[str, object]) -> None:
        save(step, state)
        kept[step] = digest(state)

    harness.trainer._save = noting
    harness.run()
    assert {step: digest(state) for step, state in harness.saved.items()} == kept


def test_error_in_a_batch_leaves_the_last_checkpoint_as_it_is():
    def metrics(batch: int) -> dict[str, Tensor]:
        if batch == 5:
            raise ZeroDivisionError
        return {}

    harness = Harness(steps=60, checkpoint=20, learner=Echo(metrics))
    with pytest.raises(ZeroDivisionError):
        harness.run()
    assert harness.steps_of("save") == [0, 20, 40]


class Overdue(Stop):
    """A signal that comes, and is overdue, in the first batch or evaluation from step `at` on."""

    came = False

    def __call__(self) -> bool:
        return self.came

    @contextmanager
    def abandonable(self) -> Iterator[None]:
        if self.harness.trainer.step >= self.at:
            self.came = True
            raise Abandoned
        yield


def test_batch_that_does_not_end_is_given_up_and_the_last_checkpoint_stays():
    harness = Harness(steps=60, checkpoint=20).run(Overdue(50))
    assert harness.steps_of("save") == [0, 20, 40]
    assert harness.trainer.saved_step == 40
    assert not harness.trainer.is_finished


def test_evaluation_that_does_not_end_is_given_up_and_the_training_before_it_saved():
    harness = Harness(steps=60, evaluation=30).run(Overdue(30))
    assert harness.trainer.evaluation is None
    assert harness.steps_of("save") == [0, 30]
    assert harness.trainer.saved_step == 30


def test_finished_is_every_step_and_the_last_evaluation():
    finished = Harness(steps=60).run()
    assert finished.trainer.is_finished
    assert Trainer.would_be_finished(finished.saved[60], 60, 60)
    assert Trainer.would_be_finished(finished.saved[60], 60, 41)
    assert not Trainer.would_be_finished(finished.saved[60], 60, 61)
    unevaluated = Harness(steps=60).run(Stop(60))
    assert not unevaluated.trainer.is_finished
    assert not Trainer.would_be_finished(unevaluated.saved[60], 60, 60)


def test_state_without_a_part_is_refused_by_name():
    state = Harness(steps=60).run().saved[60]
    del state["source"]
    with pytest.raises(ValueError, match=r"state of trainer: missing \['source'\], unexpected nothing"):
        Harness().trainer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"missing \['source'\]"):
        Trainer.would_be_finished(state, 60, 60)


# An evaluator that has something to remember, and ends the run.


def test_run_ends_at_the_evaluation_that_says_it_is_over():
    harness = Harness(steps=600, evaluation=20, enough=3).run()
    assert harness.trainer.step == 60
    assert harness.steps_of("evaluate") == [20, 40, 60]
    assert harness.steps_of("save") == [0, 60]
    assert harness.trainer.is_finished
    assert Trainer.would_be_finished(harness.saved[60], 60, 600)


def test_run_that_was_over_stays_over_after_a_resume_with_however_many_steps():
    ended = Harness(steps=600, evaluation=20, enough=3).run()
    resumed = Harness(steps=6_000, evaluation=20, enough=3)
    resumed.trainer.load_state_dict(ended.saved[60])
    assert resumed.trainer.is_finished
    resumed.run()
    assert resumed.learner.calls == ended.learner.calls == 6
    assert resumed.steps_of("evaluate") == []
    assert Trainer.would_be_finished(ended.saved[60], 60, 6_000)


def test_evaluator_that_has_not_seen_enough_ends_nothing():
    harness = Harness(steps=60, evaluation=20, enough=4).run()
    assert harness.trainer.step == 60
    assert Trainer.would_be_finished(harness.saved[60], 60, 60)
    assert not Trainer.would_be_finished(harness.saved[60], 60, 61)


def test_what_an_evaluator_remembers_is_part_of_the_state_only_if_it_remembers_something():
    assert "evaluator" not in Harness(steps=60).run().saved[60]
    stopped = Harness(steps=600, evaluation=20, enough=3).run(Stop(50))
    assert stopped.saved[50]["evaluator"] == {"calls": 2, "is_over": False}
    resumed = Harness(steps=600, evaluation=20, enough=3)
    resumed.trainer.load_state_dict(stopped.saved[50])
    assert resumed.run().trainer.step == 60
    assert resumed.steps_of("evaluate") == [60]


def test_evaluation_that_a_stop_prevented_counts_for_nothing():
    stopped = Harness(steps=600, evaluation=20, enough=3).run(Stop(60, evaluating=True))
    assert stopped.saved[60]["evaluator"] == {"calls": 2, "is_over": False}
    assert not stopped.trainer.is_finished
    assert not Trainer.would_be_finished(stopped.saved[60], 60, 600)
    resumed = Harness(steps=600, evaluation=20, enough=3)
    resumed.trainer.load_state_dict(stopped.saved[60])
    assert resumed.run().events == [("evaluate", 60), ("record", 60), ("log evaluation", 60), ("save", 60)]


def test_evaluators_part_missing_or_in_the_way_is_refused_by_name():
    with_part, without = (Harness(steps=60, enough=enough).run().saved[60] for enough in (9, None))
    with pytest.raises(ValueError, match=r"state of trainer: missing \['evaluator'\], unexpected nothing"):
        Harness(enough=9).trainer.load_state_dict(without)
    with pytest.raises(ValueError, match=r"state of trainer: missing nothing, unexpected \['evaluator'\]"):
        Harness().trainer.load_state_dict(with_part)


# Names of metrics, and layers.


def test_metric_names_with_slashes_survive_a_checkpoint(tmp_path):
    names = ["loss/class", "loss~1class", "layers/0/weight~0", "~", "/"]

    def harness() -> Harness:
        def metrics(batch: int) -> dict[str, Tensor]:
            return {name: torch.tensor(float(batch * (1 + place))) for place, name in enumerate(names)}

        return Harness(steps=60, log=60, checkpoint=20, learner=Echo(metrics))

    reference = harness().run()
    # The mean of batches 1 to 6 is 3.5.
    assert reference.train_rows() == [(60, {f"train/{name}": 3.5 * (1 + i) for i, name in enumerate(names)})]
    resumed = harness()
    resumed.trainer.load_state_dict(load(save(tmp_path, 40, reference.saved[40], 1, {})).state)
    assert resumed.run().train_rows() == reference.train_rows()
    assert resumed.learner.calls == 6


def test_learner_is_examined_in_the_batch_before_each_log_if_the_run_wants_it():
    harness = Harness(steps=80, log=30, examines=True).run()
    assert harness.learner.wanted == [False, False, True, False, False, True, False, False]
    means = [
        (30, {"train/loss": 2.0, "train/layers/0/mean": 3.0}),
        (60, {"train/loss": 5.0, "train/layers/0/mean": 6.0}),
    ]
    assert harness.train_rows() == means


def test_learner_is_not_examined_unless_the_run_wants_it():
    harness = Harness(steps=60, log=30).run()
    assert not any(harness.learner.wanted)
    assert harness.train_rows() == [(30, {"train/loss": 2.0}), (60, {"train/loss": 5.0})]
