"""A receipt tells of the first updates to the bit, whatever becomes of the run, and changes nothing of it."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import graftwork as gw
from graftwork.runs import RunConfig, TaskRunConfig, session
from graftwork.runs.config import AnyRunConfig
from graftwork.runs.machine import Machine, machine_of
from graftwork.runs.receipt import NUM_UPDATES, Receipt, Recorder, Row, Updates, digest, read_receipt
from graftwork.training import checkpoint

DEVICE = torch.device("cpu")


def agent(kind: str = "dqn", encoder: str = "mlp", **fields: Any) -> RunConfig:
    """A run of 600 steps; DQN's makes 2 updates in 8 steps, and so its hundredth in the 56th call to learn."""
    inner = {"kind": "mlp", "hidden": [8]}
    settings: dict[str, Any] = {"kind": kind, "encoder": inner}
    if encoder == "lstm":
        settings["encoder"] = {"kind": "lstm", "hidden_size": 8, "inner": inner}
    if kind == "dqn":
        settings |= {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4, "updates": 2}
        settings |= {"sequence_length": 6, "burn_in": 2} if encoder == "lstm" else {}
    if kind == "pqn":
        settings |= {"rollout_rows": 4, "epochs": 2, "minibatches": 3}
    tree = {
        "env": {"id": "CartPole-v1", "num_envs": 3 if kind == "pqn" else 2, "max_episode_steps": 25},
        "agent": settings,
        "steps": 600,
        "evaluation": {"period": 130, "episodes": 3, "num_envs": 2},
        "checkpoint": {"period": 100},
        "log": {"period": 70},
    }
    return RunConfig.model_validate(tree | fields)


def task(**fields: Any) -> TaskRunConfig:
    """An epoch is 60 samples in 4 updates."""
    tree = {
        "data": {"name": "transitions:CartPole-v1", "samples": 100},
        "task": {
            "encoder": {"kind": "mlp", "hidden": [8], "dropout": 0.2},
            "heads": {"terminated": {}},
            "batch_size": 15,
        },
        "epochs": 26,
    }
    return TaskRunConfig.model_validate(tree | fields)


def train(run_dir: Path, config: AnyRunConfig, *overrides: str) -> Receipt:
    return read_receipt(gw.train(config, *overrides, run_dir=run_dir, quiet=True).run_dir / "receipt.json")


def text(run_dir: Path) -> str:
    return (run_dir / "receipt.json").read_text()


def checkpoints(run_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run_dir / "checkpoints").glob("step_*"))


def cut(run_dir: Path, step: int) -> None:
    """As if the run had been killed after its checkpoint of that step."""
    for path in checkpoints(run_dir):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DQN with all of its checkpoints; not to be changed."""
    config = agent(checkpoint={"period": 100, "keep": 100})
    return gw.train(config, run_dir=tmp_path_factory.mktemp("whole") / "run", quiet=True).run_dir


# What it tells.


def test_receipt_tells_of_a_hundred_updates_and_what_they_were_computed_with(whole):
    receipt = read_receipt(whole / "receipt.json")
    assert receipt.is_complete
    assert [row.updates for row in receipt.updates] == list(range(2, NUM_UPDATES + 1, 2))
    # Of two environments, each with a filler after an episode: the 50 steps to begin with take at least 50.
    assert receipt.updates[0].step >= 50
    assert receipt.step == receipt.updates[-1].step
    assert len({row.digest for row in receipt.updates}) == len(receipt.updates)
    assert receipt.weights_before != receipt.weights_after
    assert (receipt.machine.threads, receipt.machine.device, receipt.machine.gpu) == (1, "cpu", None)
    assert receipt.machine.versions["torch"] == torch.__version__
    assert {"python", "graftwork", "numpy", "gymnasium"} <= receipt.machine.versions.keys()
    assert receipt.run_config().agent == agent().agent
    assert not {"steps", "run_dir", "tracker", "evaluation", "checkpoint", "log"} & receipt.config.keys()


def test_call_to_learn_is_a_row_however_many_updates_it_makes(tmp_path):
    receipt = train(tmp_path / "run", agent("pqn"))
    assert [row.updates for row in receipt.updates] == list(range(6, NUM_UPDATES + 6, 6))  # 2 epochs of 3 minibatches


@pytest.mark.parametrize("config", [agent("reinforce", steps=200), task(epochs=3)], ids=["reinforce", "task"])
def test_short_run_has_a_row_for_each_of_its_updates(tmp_path, config):
    receipt = train(tmp_path / "run", config)
    rows = len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert not receipt.is_complete
    assert [row.updates for row in receipt.updates] == list(range(1, len(receipt.updates) + 1))
    assert len(receipt.updates) == 12 if isinstance(config, TaskRunConfig) else len(receipt.updates) >= rows // 2


def test_thawing_run_counts_its_updates(tmp_path):
    train(tmp_path / "source", agent("reinforce", steps=50))
    graft = {"run": str(tmp_path / "source"), "freeze": "all", "unfreeze_period": 100}
    receipt = train(tmp_path / "run", agent(graft=graft))
    assert receipt.updates[0].updates == 2


def test_first_weights_are_those_that_a_run_begins_with(whole):
    first = checkpoint.load(checkpoints(whole)[0])
    assert first.step == 0
    assert digest(first.state["learner"]["network"]) == read_receipt(whole / "receipt.json").weights_before


@pytest.mark.parametrize("kind", ["dqn", "reinforce", "task"])
def test_recording_changes_no_bit(tmp_path, monkeypatch, kind):
    config = task() if kind == "task" else agent(kind)
    train(tmp_path / "with", config)
    monkeypatch.setattr(session, "recorder", lambda *_: None)
    gw.train(config, run_dir=tmp_path / "without", quiet=True)
    assert not (tmp_path / "without" / "receipt.json").exists()

    def files(name: str) -> dict[str, str]:
        last = checkpoints(tmp_path / name)[-1]
        kept = [*last.iterdir(), tmp_path / name / "metrics.jsonl", tmp_path / name / "evaluations.jsonl"]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}

    assert files("with") == files("without")


def test_nothing_is_looked_at_once_the_receipt_is_complete(tmp_path, monkeypatch):
    note, said = Recorder.note, []

    def watched(self: Recorder, step: int, metrics: Any) -> bool:
        said.append(note(self, step, metrics))
        return said[-1]

    monkeypatch.setattr(Recorder, "note", watched)
    receipt = train(tmp_path / "run", agent(log={"period": 1}))
    assert said == [True] * (len(said) - 1) + [False]
    logged = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(said) - len(receipt.updates) < 10 < sum('"train/loss"' in line for line in logged) - len(said)


def test_what_no_update_depends_on_leaves_no_trace(whole, tmp_path):
    others = ["log.layers=true", "log.period=8", "evaluation.period=50", "evaluation.episodes=1"]
    train(tmp_path / "run", agent(), *others, "checkpoint.period=30", "steps=700", "tracker=tensorboard")
    assert text(tmp_path / "run") == text(whole)


@pytest.mark.parametrize("override", ["seed=1", "agent.learning_rate=0.002", "agent.batch_size=9"])
def test_what_updates_depend_on_makes_others(whole, tmp_path, override):
    receipt, other = read_receipt(whole / "receipt.json"), train(tmp_path / "run", agent(), override)
    assert [row.digest for row in other.updates] != [row.digest for row in receipt.updates]


def test_first_weights_do_not_depend_on_the_threads_of_the_process(tmp_path):
    config = agent("reinforce", steps=50, threads=1)  # orthogonal weights, by a QR decomposition
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(train(tmp_path / str(threads), config, "agent.encoder.hidden=[64,64]"))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1]


# What becomes of it when a run is stopped.


# The first text that a run writes is its config.
KILLS: dict[str, tuple[str, str, list[tuple[str, str, int]]]] = {
    "while it records": ("dqn", "mlp", [("call", "learn", 20)]),
    "while it records, with a memory": ("dqn", "lstm", [("call", "learn", 30)]),
    "while it records, of whole episodes": ("reinforce", "lstm", [("call", "learn", 9)]),
    "once it is complete": ("dqn", "mlp", [("call", "learn", 60)]),
    "before its first checkpoint": ("dqn", "mlp", [("return", "write_text", 2)]),
    "before it is written": ("dqn", "mlp", [("call", "write_text", 3)]),
    "before it is in place": ("dqn", "mlp", [("call", "write_text", 4), ("c_call", "replace", 1)]),
    "before the checkpoint that belongs to it": ("dqn", "mlp", [("call", "write_text", 4), ("c_return", "replace", 1)]),
}


@pytest.mark.parametrize("instant", KILLS)
def test_killed_run_resumes_to_the_same_receipt(processes, whole, tmp_path, instant):
    kind, encoder, at = KILLS[instant]
    config, reference = agent(kind, encoder), whole
    if (kind, encoder) != ("dqn", "mlp"):
        reference = gw.train(config, run_dir=tmp_path / "reference", quiet=True).run_dir
    processes.kill(tmp_path / "run", config, at)
    processes.run(tmp_path / "run", config)
    assert text(tmp_path / "run") == text(reference)


@pytest.mark.parametrize("step", [0, 300])
def test_rows_after_the_checkpoint_that_is_resumed_are_recorded_again(whole, tmp_path, step):
    shutil.copytree(whole, tmp_path / "run")
    cut(tmp_path / "run", step + 20)
    gw.resume(tmp_path / "run", quiet=True)
    assert text(tmp_path / "run") == text(whole)


def test_longer_run_goes_on_recording(whole, tmp_path):
    short = train(tmp_path / "run", agent(), "steps=200")
    gw.resume(tmp_path / "run", "steps=600", quiet=True)
    assert 0 < len(short.updates) < 50
    assert text(tmp_path / "run") == text(whole)


def test_complete_receipt_is_never_touched_again(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = (tmp_path / "run" / "receipt.json").stat().st_mtime_ns
    gw.resume(tmp_path / "run", "steps=700", "log.period=50", quiet=True)
    assert (tmp_path / "run" / "receipt.json").stat().st_mtime_ns == before
    assert text(tmp_path / "run") == text(whole)


def test_settings_of_a_later_part_leave_a_complete_receipt_as_it_was_but_for_a_word(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    gw.resume(tmp_path / "run", "steps=700", "agent.learning_rate=0.002", quiet=True)
    assert text(tmp_path / "run") == text(whole).replace('"is_overridden": false', '"is_overridden": true')


def test_receipt_ends_where_other_settings_go_on(tmp_path, capsys):
    receipt = train(tmp_path / "run", agent(), "steps=200")
    gw.resume(tmp_path / "run", "steps=600", "agent.learning_rate=0.002", quiet=True)
    assert read_receipt(tmp_path / "run" / "receipt.json") == receipt.model_copy(update={"is_overridden": True})
    assert re.search(r"^no more receipt: \S+ ends here, as other settings", capsys.readouterr().err, re.M)


def test_receipt_ends_where_another_machine_goes_on(tmp_path, monkeypatch):
    receipt = train(tmp_path / "run", agent(), "steps=200")

    def elsewhere(*arguments: Any) -> Machine:
        machine = machine_of(*arguments)
        return machine.model_copy(update={"versions": {**machine.versions, "torch": "2.99.0"}})

    monkeypatch.setattr(session, "machine_of", elsewhere)
    gw.resume(tmp_path / "run", "steps=400", quiet=True)
    assert read_receipt(tmp_path / "run" / "receipt.json") == receipt
    monkeypatch.undo()
    gw.resume(tmp_path / "run", "steps=600", quiet=True)  # back here, but what was done there is not known
    assert read_receipt(tmp_path / "run" / "receipt.json") == receipt


def test_run_without_a_receipt_resumes_without(tmp_path, capsys):
    train(tmp_path / "run", agent(), "steps=200")
    (tmp_path / "run" / "receipt.json").unlink()
    assert gw.resume(tmp_path / "run", "steps=300", quiet=True).step >= 300
    assert not (tmp_path / "run" / "receipt.json").exists()
    assert "no more receipt" not in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["{", "stale"])
def test_damaged_or_stale_receipt_stops_no_run_and_is_left_as_it_is(tmp_path, capsys, damage):
    train(tmp_path / "run", agent(), "steps=200")
    stale = text(tmp_path / "run")
    gw.resume(tmp_path / "run", "steps=300", quiet=True)
    (tmp_path / "run" / "receipt.json").write_text(stale if damage == "stale" else damage)
    assert gw.resume(tmp_path / "run", "steps=400", quiet=True).step >= 400
    assert text(tmp_path / "run") == (stale if damage == "stale" else damage)
    assert re.search(r"^no more receipt: ", capsys.readouterr().err, re.M)


# Its parts.


class Learner:
    """Counts as many updates as it is told to, or none."""

    def __init__(self) -> None:
        self.network, self.num_updates = torch.nn.Linear(2, 3), 0


def test_learner_that_does_not_count_is_taken_to_make_one_update_a_call():
    learner = Learner()
    updates = Updates(learner, [Row(5, 70, "0" * 16)])
    for step, metrics in ((80, {}), (90, {"loss": torch.zeros(())}), (95, {"loss": torch.ones(())})):
        updates.note(step, metrics)
    assert [(row.updates, row.step) for row in updates.rows] == [(5, 70), (6, 90), (7, 95)]


def test_updates_of_a_process_are_added_to_those_before():
    learner = Learner()
    learner.num_updates = 1_000  # those of whoever had it before
    updates = Updates(learner, [Row(5, 70, "0" * 16)])
    learner.num_updates += 3
    updates.note(80, {"loss": torch.zeros(())})
    assert updates.rows[-1][:2] == (8, 80)


def test_measurements_of_layers_are_none_of_an_update_s_metrics():
    told = {"loss": torch.ones(()), "gradient_norm": torch.ones(())}
    more = {name: torch.zeros(()) for name in ("activation_mean/0", "activation_zeros/0", "gradient_norm/0.weight")}
    found = []
    for metrics in (told, told | more, {"loss": torch.ones(())}):
        updates = Updates(Learner())
        updates.note(10, metrics)
        found.append(updates.rows[0].digest)
    assert found[0] == found[1] != found[2]


def test_digest_is_of_names_types_shapes_and_bits_alone():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor(3.0)
    same = digest({"b": b, "a": a})
    assert digest({"a": a.clone(), "b": b}) == same
    others = [
        *({"a": a}, {"a": a, "c": b}, {"a": a.double(), "b": b}, {"a": a.view(1, 2), "b": b}),
        {"a": a, "b": torch.nextafter(b, torch.tensor(4.0))},
        {"a": torch.tensor([0.0, 2.0]), "b": b},
    ]
    assert len({same, *map(digest, others)}) == 1 + len(others)
    assert digest({"a": torch.tensor(0.0)}) != digest({"a": torch.tensor(-0.0)})


def test_text_is_json_with_an_update_a_line_and_reads_back(whole, tmp_path):
    receipt = read_receipt(whole / "receipt.json")
    assert Receipt.model_validate_json(receipt.text()) == receipt
    assert text(whole) == receipt.text()
    assert receipt.text().count("\n  [") == len(receipt.updates)
    empty = receipt.model_copy(update={"updates": ()})
    assert Receipt.model_validate(json.loads(empty.text())) == empty


DAMAGES = {
    "{": "damaged, or of another version: it: Invalid JSON",
    '{"format": 1': "damaged, or of another version: it: Invalid JSON",
    "[]": "damaged, or of another version: it: Input should be an object",
    '"format": 1|"format": 2': "damaged, or of another version: format: Input should be 1",
    '"seed": 0,|"seed": 0, "sede": 1,': "damaged, or of another version: sede=1: unknown field",
    '"threads": 1\n|"threads": "many"\n': "damaged, or of another version: machine.threads: Input should be a valid",
    '"weights_before": "|"weights_before": "x': "damaged, or of another version: weights_before: String should match",
    "  [2, |  [-2, ": "damaged, or of another version: updates.0.0: Input should be greater than 0",
    "  [4, |  [2, ": "damaged, or of another version: it: Value error, updates are not in order",
    '"step": |"step": -': "damaged, or of another version: step: Input should be greater than or equal to 0",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_receipt_is_one_line(whole, tmp_path, damage):
    before, _, after = damage.partition("|")
    damaged = text(whole).replace(before, after, 1) if after else damage
    assert damaged != text(whole)
    path = tmp_path / "receipt.json"
    path.write_text(damaged)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} is {DAMAGES[damage]}')}") as caught:
        read_receipt(path)
    assert "\n" not in str(caught.value)


def test_missing_receipt_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"receipt\.json: no such file; the run began with a graftwork that wrote no"):
        read_receipt(tmp_path / "receipt.json")
    (tmp_path / "receipt.json").mkdir()
    with pytest.raises(ValueError, match=r"receipt\.json: Is a directory"):
        read_receipt(tmp_path / "receipt.json")


# The machine.


def machine(**fields: Any) -> Machine:
    plain = {"versions": {"torch": "2.12.0", "numpy": "2.1.0"}, "processor": "A", "capability": "AVX2"}
    return Machine.model_validate({**plain, "gpu": None, "device": "cpu", "threads": 1, **fields})


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        ({}, {}),
        ({"threads": 2}, {"threads": ("1", "2")}),
        ({"processor": "B"}, {"processor": ("A", "B")}),
        ({"device": "cuda", "gpu": "NVIDIA H100"}, {"gpu": ("none", "NVIDIA H100"), "device": ("cpu", "cuda")}),
        (
            {"versions": {"torch": "2.13.0", "ale-py": "0.12.1"}},
            {"torch": ("2.12.0", "2.13.0"), "numpy": ("2.1.0", "missing"), "ale-py": ("missing", "0.12.1")},
        ),
    ],
    ids=str,
)
def test_changes_name_whatever_is_not_as_it_was(now, changes):
    assert machine().changes(machine(**now)) == changes


@pytest.mark.parametrize(
    ("config", "distributions"),
    [
        (agent(), set()),
        (agent(env={"id": "ALE/Pong-v5"}), {"ale-py", "opencv-python-headless"}),
        (agent(env={"id": "ale_py:ALE/Pong-v5"}), {"ale-py", "opencv-python-headless"}),
        (agent(env={"id": "MinAtar/Breakout-v1"}), {"minatar"}),
        (agent(env={"id": "LunarLander-v3"}), {"box2d"}),
        (task(), set()),
        (task(data={"name": "transitions:MinAtar/Breakout-v1"}), {"minatar"}),
    ],
    ids=["cartpole", "ale", "ale by its module", "minatar", "box2d", "a task", "a task of transitions"],
)
def test_versions_are_those_that_the_run_depends_on(config, distributions):
    own = {"python", "graftwork", "torch", "numpy", "gymnasium", "glibc"}
    assert machine_of(config, DEVICE, 3).versions.keys() - own == distributions
    assert machine_of(config, DEVICE, 3).threads == 3
