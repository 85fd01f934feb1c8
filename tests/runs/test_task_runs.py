"""Runs of supervised tasks: every way to begin, resume, load and evaluate one, and that a stop leaves no trace."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import TensorDataset

import graftwork as gw
from graftwork.__main__ import main
from graftwork.configs import dump
from graftwork.networks import Encoder, MLPConfig
from graftwork.runs import Run, RunConfig, TaskRunConfig
from graftwork.runs.config import AnyRunConfig
from graftwork.tasks import from_arrays, splits
from graftwork.training import checkpoint
from graftwork.training.seeding import Seeds

N, SIDE, OTHERS = 90, 6, 41  # samples, pixels, samples of another source
TRAINED = 54  # of N: less 14 for validation (0.15) and 22 to test on (0.25)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own, with data in it."""
    monkeypatch.chdir(tmp_path)
    write_data()


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIDE, SIDE)).astype(np.float32)


def classes(inputs: np.ndarray) -> np.ndarray:
    """Of three kinds."""
    return (inputs[:, 0, 0] > 0).astype(np.int64) + (inputs[:, 1, 1] > 0.5)


def write_data() -> None:
    x, others = images(N), images(OTHERS, 1)
    np.savez("images.npz", inputs=x, kind=classes(x), amount=x[:, :2, 0])
    np.savez("others.npz", inputs=others, ink=others.mean((1, 2)))


def tree(**fields: Any) -> dict[str, Any]:
    """A small run, an epoch of which is 54 samples in 7 updates."""
    task = {"encoder": {"kind": "mlp", "hidden": [8]}, "batch_size": 8}
    return {"data": {"name": "images.npz"}, "task": task, "epochs": 2} | fields


def config(**fields: Any) -> TaskRunConfig:
    return TaskRunConfig.model_validate(tree(**fields))


def train(*overrides: str, run_dir: str = "run", **fields: Any) -> Run:
    return gw.train(config(**fields), *overrides, run_dir=run_dir, quiet=True)


def rows(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def checkpoints(run_dir: Path | str) -> list[Path]:
    """Oldest first."""
    return sorted((Path(run_dir) / "checkpoints").glob("step_*"))


def digests(run_dir: Path | str) -> dict[str, str]:
    """The hash of every file that defines the result."""
    final = checkpoints(run_dir)[-1]
    logs = [Path(run_dir) / "metrics.jsonl", Path(run_dir) / "evaluations.jsonl"]
    files = [final / "state.safetensors", final / "meta.json", *logs]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def weights(run_dir: Path | str) -> dict[str, torch.Tensor]:
    return checkpoint.load_newest(Path(run_dir) / "checkpoints").state["learner"]["network"]


# How a run is named, and what it is given.


def test_a_preset_trains_saves_and_gives_its_model():
    run = gw.train("supervised/digits-mlp", "epochs=1", "task.encoder.hidden=[4]", seed=3, run_dir="run", quiet=True)
    assert sorted(path.name for path in run.run_dir.iterdir() if not path.name.startswith(".")) == [
        *("checkpoints", "config.yaml", "evaluations.jsonl", "metrics.jsonl", "receipt.json", "schema.json"),
        "timings.jsonl",
    ]
    assert run.model.predict(np.zeros((5, 8, 8))).shape == (5,)
    assert (run.signal, run.step, run.config.seed) == (None, 1078, 3)  # 1797 digits, less 270 and 449
    with pytest.raises(TypeError, match=r"run trained a model on labelled data: use run\.model"):
        _ = run.agent


def test_a_file_and_a_config_come_to_the_same_run():
    Path("mine.yaml").write_text(yaml.safe_dump(tree()))
    gw.train("mine.yaml", run_dir="file", quiet=True)
    train(run_dir="config")
    assert digests("file") == digests("config")


def test_a_run_is_called_after_its_file_or_its_data(monkeypatch):
    Path("mine.yaml").write_text(yaml.safe_dump(tree(epochs=1)))
    assert gw.train("mine.yaml", seed=2, quiet=True).run_dir == Path("runs/mine-2")
    assert gw.train(config(epochs=1), quiet=True).run_dir == Path("runs/supervised-images-0")


def test_data_may_be_given_in_any_form():
    x = images(N)
    pair = (x, classes(x))
    forms = {
        "arrays": pair,
        "tensors": tuple(map(torch.from_numpy, pair)),
        "torch": TensorDataset(*map(torch.from_numpy, pair)),
        "dataset": from_arrays(*pair),
    }
    for name, data in forms.items():
        run = gw.train(config(), data=data, run_dir=name, quiet=True)
        assert run.config.objects == ("data",)
        assert digests(name) == digests("arrays")


def test_given_data_are_named_as_such(capsys):
    gw.train(config(), data=(images(N), classes(images(N))), run_dir="run")
    said = capsys.readouterr().err
    assert "run: class from 54 samples of the data given, seed 0, 2 epochs" in said
    assert "built with data given in Python: the config alone cannot rebuild this run" in said


def test_classes_and_their_number_are_chosen_of_given_data_too():
    x = images(N)
    chosen = ("data.classes=[2, 0]", "data.per_class=3", "data.validation=0.2", "data.test=0.3")
    run = gw.train(config(), *chosen, data=(x, classes(x)), run_dir="run", quiet=True)
    assert run.model.schema.heads["class"].classes == ("2", "0")
    assert run.step == 2 * (3 + 3)
    scores = gw.evaluate("run", data=(x, classes(x))).heads["class"]
    assert scores.count == round(0.3 * (classes(x) != 1).sum())


def test_an_encoder_of_ones_own_is_trained_on_as_it_is_and_asked_for_again():
    class Own(Encoder):
        out_features = 5

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(SIDE * SIDE, 5)

        def encode(self, observation: torch.Tensor) -> torch.Tensor:
            assert observation.abs().max() < 10  # raw: its units are its own affair
            return self.linear(observation.flatten(1)).relu()

    encoder = Own()
    before = encoder.linear.weight.clone()
    run = gw.train(config(), encoder=encoder, run_dir="run", quiet=True)
    assert not torch.equal(encoder.linear.weight, before)
    assert set(run.model.network.encoder.state_dict()) == {"linear.weight", "linear.bias"}
    for function in (gw.load, gw.evaluate, gw.resume, gw.load_encoder):
        with pytest.raises(ValueError, match=r"^run was built with its own encoder: pass encoder=\.\.\. again$"):
            function("run")
    fresh = Own()
    model = gw.load("run", encoder=fresh)
    np.testing.assert_array_equal(model.predict(images(9)), run.model.predict(images(9)))
    assert gw.evaluate("run", encoder=Own()).heads["kind"].count == 22
    assert gw.resume("run", "epochs=3", encoder=Own(), quiet=True).step == 3 * TRAINED


def test_objects_that_a_task_has_no_use_for_are_refused_everywhere():
    train()
    for function in (gw.load, gw.evaluate, gw.resume):
        with pytest.raises(ValueError, match=r"^env: was given in Python, but a task has no use for it$"):
            function("run", env=lambda: None)
    with pytest.raises(ValueError, match=r"^env: was given in Python, but a task has no use for it$"):
        gw.train(config(), env=lambda: None, run_dir="other")
    with pytest.raises(ValueError, match=r"^data: was given in Python, but an agent's run has no use for it$"):
        gw.train("dqn/cartpole", data=(images(9), classes(images(9))), run_dir="other")
    assert not Path("other").exists()


# Loading and evaluating.


def test_a_loaded_model_is_the_trained_one():
    run = train()
    np.testing.assert_array_equal(gw.load("run").probabilities(images(9)), run.model.probabilities(images(9)))
    encoder = gw.load_encoder("run")
    assert not encoder.training
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    torch.testing.assert_close(encoder.state_dict(), run.model.network.encoder.state_dict(), rtol=0, atol=0)


def test_scores_are_of_the_test_part_alone():
    run = train()
    part = splits(run.config.data, Seeds(0)).test
    labels, told = part.targets["kind"].values.numpy(), run.model.predict(part.inputs)
    confusion = [[int(((labels == row) & (told == column)).sum()) for column in range(3)] for row in range(3)]
    scores = gw.evaluate("run")
    assert (scores.part, scores.epoch) == ("test", 2)
    assert [list(row) for row in scores.heads["kind"].confusion] == confusion


def test_a_model_needs_no_data_but_to_be_evaluated_or_trained_on(capsys):
    train()
    Path("images.npz").unlink()
    assert gw.load("run").predict(images(1)[0]) in (0, 1, 2)
    assert gw.load_encoder("run").out_features == 8
    capsys.readouterr()
    for command in ("evaluate", "resume"):
        assert main([command, "run"]) == 2
        assert capsys.readouterr().err == "graftwork: data.name=images.npz: no such file\n"


def test_a_model_of_given_data_needs_them_but_to_be_evaluated_or_trained_on():
    data = (images(N), classes(images(N)))
    gw.train(config(), data=data, run_dir="run", quiet=True)
    assert gw.load("run").predict(images(1)[0]) in (0, 1, 2)
    assert gw.load_encoder("run").out_features == 8
    for function in (gw.evaluate, gw.resume):
        with pytest.raises(ValueError, match=r"^run was built with its own data: pass data=\.\.\. again$"):
            function("run")
    assert gw.evaluate("run", data=data).heads["class"].count == 22


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (lambda x, y: (x[:, :4], y), r"inputs are \[4, 6\] float32, the model takes \[6, 6\] float32"),
        (lambda x, y: (x.astype(np.uint8), y), r"inputs are \[6, 6\] uint8, the model takes \[6, 6\] float32"),
        (lambda x, y: (x, y + 1), r"the classes of class are \('0', '1', '2', '3'\), those of the model .*"),
        (lambda x, y: (x, y.astype(np.float32)), "the target is value, the model tells class"),
    ],
    ids=["shape", "type", "classes", "target"],
)
def test_scoring_on_data_of_another_form_is_refused(data, line):
    x = images(N)
    gw.train(config(epochs=1), data=(x, classes(x)), run_dir="run", quiet=True)
    with pytest.raises(ValueError, match=f"^data: {line}$"):
        gw.evaluate("run", data=data(x, classes(x)))


def test_a_config_that_was_built_with_data_asks_for_them(capsys):
    x = images(N)
    run = gw.train(config(epochs=1), data=(x, classes(x)), run_dir="run", quiet=True)
    with pytest.raises(ValueError, match=r"^config was built with its own data: pass data=\.\.\. again$"):
        gw.train(run.config, run_dir="again")  # else it would learn from images.npz, which the config names
    gw.train(run.config, data=(x, classes(x)), run_dir="again", quiet=True)
    assert digests("again") == digests("run")
    assert main(["train", "run/config.yaml", "run_dir=other"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "graftwork: run/config.yaml was built with its own data: pass data=... again"


def test_data_to_be_scored_may_have_fewer_classes():
    x = images(N)
    gw.train(config(epochs=1), data=(x, classes(x)), run_dir="run", quiet=True)
    scores = gw.evaluate("run", data=(x, classes(x).clip(max=1))).heads["class"]
    assert scores.classes == ("0", "1", "2")
    assert sum(scores.confusion[2]) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"float32"', '"load"'),  # a name of torch's, but no type
        ('"float32"', '"int64"'),  # numbers of how many choices?
        ('"sizes": []', '"sizes": [3]'),
        ('"characters": ""', '"characters": "ab"'),
        (f" {SIDE}", " 1000000"),  # 8 TB a row
        (f" {SIDE}", " -1"),
        ('"choices": 0', '"choices": 4'),
    ],
)
def test_a_schema_that_no_data_have_is_named(before, after):
    train(epochs=1)
    text = Path("run/schema.json").read_text()
    assert before in text
    Path("run/schema.json").write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=r"^run/schema\.json: tells no longer .*; the file was altered$"):
        gw.load("run")


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"{}"], ids=["cut", "binary", "empty"])
def test_a_schema_that_was_altered_is_named(text):
    train(epochs=1)
    Path("run/schema.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"^run/schema\.json: tells no longer .*; the file was altered$"):
        gw.load("run")
    Path("run/schema.json").unlink()
    with pytest.raises(ValueError, match=r"^run/schema\.json: No such file or directory; it says what the model"):
        gw.load("run")


# Several sources.

TWO = {"kind": {"batch_size": 8}, "ink": {"data": {"name": "others.npz"}, "batch_size": 5}}


def test_one_file_may_feed_heads_with_batches_of_different_sizes():
    path = str(Path("images.npz").resolve())
    heads = {"kind": {}, "amount": {"batch_size": 4}, "sum": {"target": "amount", "batch_size": 3}}
    run = train(data={"name": path}, task=tree()["task"] | {"heads": heads})
    prediction = run.model.predict(images(7))
    assert {name: value.shape for name, value in prediction.items()} == {"kind": (7,), "amount": (7, 2), "sum": (7, 2)}
    assert {"train/loss/kind", "train/loss/amount", "train/loss/sum"} <= rows("run/metrics.jsonl")[0].keys()


@pytest.mark.parametrize("order", [["kind", "ink"], ["ink", "kind"]], ids="-".join)
def test_steps_and_schedules_count_samples_of_the_largest_source_wherever_it_stands(order):
    run = train(task=tree()["task"] | {"heads": {name: TWO[name] for name in order}})
    state = checkpoint.load_newest(run.run_dir / "checkpoints").state
    assert run.step == state["learner"]["step"] == 2 * TRAINED


# On the command line.


def test_every_command_takes_a_task(capsys):
    Path("mine.yaml").write_text(yaml.safe_dump(tree()))
    assert main(["train", "mine.yaml", "run_dir=run"]) == 0
    out = capsys.readouterr().out
    assert "step    108\nresult  validation loss " in out
    # What it proposes can be typed.
    proposed = [line.split()[3:] for line in out.splitlines() if line.startswith("python -m graftwork")]
    assert proposed == [["evaluate", "run"], ["resume", "run", "epochs=4"], ["report", "run"]]
    assert main(["evaluate", "run"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("test loss ")
    assert "kind  precision  recall  specificity     f1  count\n0 " in table
    assert main(["evaluate", "run", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() == {"part", "epoch", "loss", "heads"}
    assert sum(each["count"] for each in scores["heads"]["kind"]["classes"].values()) == 22
    assert main(["resume", "run", "epochs=3"]) == 0
    assert "step    162\n" in capsys.readouterr().out
    assert main(["report", "run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all(Path(picture).stat().st_size > 1000 for picture in report["pictures"])
    assert main(["list", "--json"]) == 0
    names = {preset["name"] for preset in json.loads(capsys.readouterr().out)["presets"]}
    assert {"supervised/digits-mlp", "multitask/digits", "transfer/digits"} <= names


# Resuming.


def everything(**fields: Any) -> TaskRunConfig:
    """All that has a state of its own: norm statistics, dropout, augmentation, patience, a schedule, two sources."""
    task = {
        "encoder": {"kind": "mlp", "hidden": [8, 8], "norm": "batch", "dropout": 0.2},
        "heads": TWO,
        "learning_rate": {
            "kind": "warmup",
            "steps": 2,
            "then": {"kind": "cosine", "start": 0.05, "end": 0.001, "steps": 6},
        },
    }
    return config(
        **{
            "data": {"name": "images.npz", "augment": {"shift": 1, "flip": True}},
            "task": task | fields.pop("task", {}),
            "epochs": 8,
            "evaluation": {"patience": 2},
            "checkpoint": {"period": 1, "keep": 100},
            "log": {"layers": True},
        }
        | fields
    )


def ensemble() -> TaskRunConfig:
    return everything(task={"members": 3}, epochs=4, evaluation={}, log={})


def thawed(optimizer: dict[str, Any]) -> TaskRunConfig:
    graft = {"run": "source", "freeze": "all", "unfreeze_period": 2, "rate_decay": 0.5}
    return everything(task={"heads": {}, "optimizer": optimizer}, epochs=6, evaluation={}, graft=graft)


def agent() -> RunConfig:
    encoder = {"kind": "mlp", "hidden": [8, 6], "norm": "batch", "dropout": 0.2}
    dqn = {"kind": "dqn", "encoder": encoder, "replay_capacity": 400, "learning_starts": 40, "batch_size": 8}
    dqn |= {"updates": 3, "target_rate": 0.1, "auxiliary": {"reward": 0.5, "next_observation": 1.0}}
    tree = {
        "env": {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 20},
        "agent": dqn,
        "graft": {"freeze": "all", "unfreeze_period": 80, "rate_decay": 0.5},
        "steps": 240,
        "evaluation": {"period": 90, "episodes": 1},
        "checkpoint": {"period": 40, "keep": 100},
        "log": {"period": 30, "layers": True},
    }
    return RunConfig.model_validate(tree)


RUNS: dict[str, Callable[[], AnyRunConfig]] = {
    "everything": everything,
    "ensemble": ensemble,
    "thawed": lambda: thawed({"kind": "adam"}),
    "thawed with momentum": lambda: thawed({"kind": "sgd", "momentum": 0.9}),
    "agent": agent,
}


@pytest.mark.parametrize("name", RUNS)
def test_resume_from_every_checkpoint_ends_the_same(name):
    if name.startswith("thawed"):
        gw.train(everything(task={"heads": {}}, epochs=1), run_dir="source", quiet=True)
    reference = gw.train(RUNS[name](), run_dir="reference", quiet=True)
    expected, paths = digests("reference"), checkpoints("reference")
    assert len(paths) >= 5
    for path in paths[:-1]:
        run_dir = Path(f"resumed-{path.name}")
        shutil.copytree(path, run_dir / "checkpoints" / path.name)
        for file in Path("reference").glob("*.*"):
            shutil.copy(file, run_dir)
        assert gw.resume(run_dir, quiet=True).step == reference.step
        assert digests(run_dir) == expected, path.name


def test_the_runs_that_are_resumed_are_worth_it():
    run = gw.train(everything(), run_dir="run", quiet=True)
    last = rows("run/metrics.jsonl")[-2]
    assert {"train/loss/kind", "train/loss/ink"} <= last.keys()
    assert any(name.startswith("train/activation") for name in last)
    assert run.step < 8 * TRAINED  # stopped early
    gw.train(everything(task={"heads": {}}, epochs=1), run_dir="source", quiet=True)
    gw.train(thawed({"kind": "adam"}), run_dir="thawed", quiet=True)
    named = [set(checkpoint.load(path).state["learner"]["optimizer"]) for path in checkpoints("thawed")]
    assert not any(name.startswith("encoder") for name in named[2])
    assert any(name.startswith("encoder.inner.layers.4") for name in named[3])  # freed after the second epoch
    assert not any(name.startswith("encoder.inner.layers.0") for name in named[4])
    assert any(name.startswith("encoder.inner.layers.0") for name in named[5])


KILLED = """
import os, signal, sys
import graftwork as gw
from graftwork.tasks import Supervised

learn, calls = Supervised.learn, 0

def killed(self, batch):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, batch)

Supervised.learn = killed
gw.train(sys.argv[1], run_dir="run", quiet=True)
"""


def test_a_killed_run_resumes_to_identical_files():
    conf = everything(checkpoint={"period": 2})
    Path("config.yaml").write_text(yaml.safe_dump(conf.model_dump(mode="json"), sort_keys=False))
    died = subprocess.run([sys.executable, "-c", KILLED, "config.yaml", "25"], stderr=subprocess.DEVNULL, timeout=200)
    assert died.returncode == -9
    assert len(rows("run/evaluations.jsonl")) == 3  # in the middle of the fourth epoch
    gw.resume("run", quiet=True)
    gw.train(conf, run_dir="reference", quiet=True)
    assert digests("run") == digests("reference")


def test_a_run_killed_before_its_config_was_written_begins_again():
    Path("run").mkdir()
    Path("run/schema.json").write_text("{}")
    assert train().step == 2 * TRAINED


def test_a_longer_run_is_one_that_was_longer_from_the_start():
    train(run_dir="reference", epochs=3)
    train()
    gw.resume("run", "epochs=3", quiet=True)
    assert digests("run") == digests("reference")


@pytest.mark.parametrize(
    "override",
    [
        *("task.optimizer.kind=sgd", "data.split_seed=5", "data.test=0.1", "data.validation=0.3", "data.per_class=2"),
        *("data.classes=[0,1]", "evaluation.patience=2", "graft.run=run", "seed=3"),
    ],
)
def test_an_override_that_would_make_another_run_is_refused(override):
    train()
    before = digests("run")
    name = override.split("=")[0].removesuffix(".kind")
    with pytest.raises(ValueError, match=f"^{name}=.*: a run keeps its {name}, "):
        gw.resume("run", "epochs=4", override, quiet=True)
    assert digests("run") == before


# Stopping early.


def stopping(**fields: Any) -> TaskRunConfig:
    """Learns its 54 samples of noise by heart, so that validation is soon at its best."""
    task = tree()["task"] | {"encoder": MLPConfig(hidden=(64,)), "learning_rate": 0.02}
    return config(task=task, epochs=40, **({"evaluation": {"patience": 3}} | fields))


def test_a_run_ends_after_so_many_looks_without_a_lower_loss_and_gives_the_best_weights(capsys):
    run = gw.train(stopping(), run_dir="run", quiet=True)
    losses = [row["loss"] for row in rows("run/evaluations.jsonl")]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3
    assert run.step == len(losses) * TRAINED < 40 * TRAINED
    # The weights are those that a run has which was never longer.
    gw.train(stopping(evaluation={}), f"epochs={best + 1}", run_dir="short", quiet=True)
    for name, value in weights("short").items():
        assert torch.equal(gw.load("run").network.state_dict()[name], value)
        assert torch.equal(run.model.network.state_dict()[name], value)
    assert gw.evaluate("run").loss == gw.evaluate("short").loss
    assert not torch.equal(weights("run")["encoder.inner.layers.0.weight"], value)


def test_a_run_that_stopped_early_is_finished():
    stopped = gw.train(stopping(), run_dir="run", quiet=True)
    before = digests("run")
    for overrides in ((), ("epochs=60",)):
        again = gw.resume("run", *overrides, quiet=True)
        assert (again.step, again.signal) == (stopped.step, None)
        np.testing.assert_array_equal(again.model.predict(images(9)), stopped.model.predict(images(9)))
    assert digests("run") == before


def test_a_run_that_stopped_early_is_told_how_to_go_on(capsys):
    Path("stopping.yaml").write_text(dump(stopping()))
    assert main(["train", "stopping.yaml", "run_dir=run"]) == 0
    assert "resume run evaluation.patience=6" in capsys.readouterr().out
    assert main(["resume", "run"]) == 0
    out, err = capsys.readouterr()
    assert "; a larger evaluation.patience=... goes on" in err
    assert "resume run evaluation.patience=6" in out
    assert gw.resume("run", quiet=True).stopped_early
    assert not train(run_dir="whole", epochs=1).stopped_early


def test_more_patience_goes_on_as_if_it_had_been_there_from_the_start():
    stopped = gw.train(stopping(), run_dir="run", quiet=True)
    longer = gw.resume("run", "evaluation.patience=5", quiet=True)
    assert longer.step >= stopped.step + 2 * TRAINED
    gw.train(stopping(evaluation={"patience": 5}), run_dir="reference", quiet=True)
    assert digests("run") == digests("reference")


def test_patience_without_a_validation_part_is_refused():
    with pytest.raises(ValueError, match=r"^evaluation\.patience: .*; set data\.validation above 0$"):
        gw.train(stopping(), "data.validation=0", run_dir="run")
    assert not Path("run").exists()


def test_without_a_validation_part_the_training_part_is_looked_at():
    train("data.validation=0", "data.test=0")
    assert {row["part"] for row in rows("run/evaluations.jsonl")} == {"training"}
    with pytest.raises(ValueError, match=r"^data\.test=0: there is no test part of images\.npz$"):
        gw.evaluate("run")
