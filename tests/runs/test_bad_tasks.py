"""Bad input to a task gets one line that names it, exit status 2, and leaves nothing half-written."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from torch.utils.data import DataLoader

import graftwork as gw
from graftwork.__main__ import main
from graftwork.runs import RunConfig, TaskRunConfig
from graftwork.tasks import Dataset, Target

N = 60


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own, with data and configs in it."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    kind, tokens = np.arange(N) % 3, np.random.default_rng(1).integers(0, 6, (N, 4))
    np.savez("rows.npz", inputs=x, kind=kind, amount=x[:, :2])
    np.savez("images.npz", inputs=np.zeros((N, 8, 8), np.uint8), kind=kind)
    np.savez("tokens.npz", inputs=tokens, lengths=np.full(N, 4), kind=kind, tag=tokens % 3)
    task = {"encoder": {"kind": "mlp", "hidden": [8]}, "batch_size": 8}
    Path("task.yaml").write_text(yaml.safe_dump({"data": {"name": "rows.npz"}, "task": task, "epochs": 2}))
    agent = {"kind": "dqn", "encoder": {"kind": "mlp", "hidden": [8]}, "replay_capacity": 200, "learning_starts": 50}
    Path("agent.yaml").write_text(yaml.safe_dump({"env": {"id": "CartPole-v1"}, "agent": agent, "steps": 100}))


def refused(capsys: pytest.CaptureFixture[str], config: str, *overrides: str) -> str:
    """The one line with which a run is refused, once it is clear that it wrote nothing."""
    before = sorted(Path().rglob("*"))
    assert main(["train", config, *overrides, "run_dir=refused"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("graftwork: ")
    assert err.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    return err.removeprefix("graftwork: ").removesuffix("\n")


IMAGES, TOKENS = "data.name=images.npz", "data.name=tokens.npz"
NORMED = "task.encoder.norm=batch"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # What an encoder cannot take.
        ("task.encoder.kind=conv", r"encoder\.kind=conv can't take Box\(-inf, inf, \(5,\), float32\): it takes images"),
        ("task.encoder.kind=resnet", r"encoder\.kind=resnet can't take Box\(.*\(5,\).*: it takes images"),
        ("task.encoder.kind=impala", r"encoder\.kind=impala can't take Box\(.*\(5,\).*: it takes images"),
        (
            "task.encoder.kind=embedding",
            r"encoder\.kind=embedding can't take Box\(.*: it takes Discrete, MultiDiscrete",
        ),
        ("task.encoder.kind=combined", r"encoder\.kind=combined can't take Box\("),
        (f"{TOKENS} task.encoder.kind=conv", r"encoder\.kind=conv can't take Discrete\(6\): it takes images"),
        (f"{TOKENS} task.encoder={{kind: normalised}}", r"encoder\.kind=normalised can't take Discrete\(6\)"),
        # An image smaller than the receptive field.
        (f"{IMAGES} task.encoder.kind=conv", r"encoder\.kind=conv can't take .* it takes images of at least 36x36$"),
        (
            f"{IMAGES} task.encoder={{kind: conv, layers: [{{channels: 2, kernel: 9}}]}}",
            r"encoder\.kind=conv can't take .*8x8 pixels .*: layers\[0\], kernel 9, .* of at least 9x9$",
        ),
        # A batch of one under batch norm: 36 samples are trained on.
        (
            f"{NORMED} task.batch_size=35",
            r"task\.batch_size: an epoch's 36 samples of rows\.npz end with a batch of one",
        ),
        (
            f"{NORMED} task.batch_size=1",
            r"task\.batch_size: an epoch's 36 samples of rows\.npz end with a batch of one",
        ),
        (f"{NORMED} task.batch_size=35 task.members=2", r"task\.batch_size: .* end with a batch of one"),
        (f"{NORMED} task.heads={{kind: {{batch_size: 7}}}}", r"task\.batch_size: .* end with a batch of one"),
        (
            "data.per_class=1 data.classes=[0,1] task.encoder.norm=batch task.batch_size=1",
            r"task\.batch_size: an epoch's 2 samples of rows\.npz end with a batch of one",
        ),
        (f"{TOKENS} task.encoder={{kind: mlp, norm: batch}}", r"task\.encoder: batch norm would take the padding"),
        # Layers, optimizers, schedules.
        (
            "graft.freeze=[layers.0]",
            r"graft\.freeze=layers\.0: matches no layer of .*; did you mean inner\.layers\.0\?$",
        ),
        (
            "graft.freeze=[convolutions]",
            r"graft\.freeze=convolutions: matches no layer of .*; there are inner, inner\.l",
        ),
        ("graft.freeze=2", r"graft\.freeze=2: this Normalised has 1 blocks?$"),
        ("task.optimizer.kind=adm", r"task\.optimizer\.kind=adm: must be one of 'sgd', .*; did you mean adam\?"),
        ("task.optimizer={kind: sgd, nesterov: true}", r"task\.optimizer: nesterov=true: needs a momentum above 0"),
        ("task.optimizer={kind: sgd, betas: [0, 0]}", r"task\.optimizer\.betas=\[0, 0\]: unknown field"),
        ("task.learning_rate={kind: cosin}", r"task\.learning_rate\.kind=cosin: must be .*; did you mean cosine\?"),
        ("task.learning_rate=-1", r"task\.learning_rate: must not be negative, got -1\.0"),
        ("task.learning_rate=fast", r"task\.learning_rate: must be a number or a schedule with a kind, got 'fast'"),
        ("task.initialisation=xavir", r"task\.initialisation=xavir: must be .*; did you mean xavier\?"),
        ("task.normalise=entri", r"task\.normalise=entri: must be .*; did you mean entry\?"),
        ("task.kind=unsupervised", r"task\.kind=unsupervised: must be 'supervised'"),
        # Heads.
        ("task.heads={a: {target: kid}}", r"task\.heads\.a: target 'kid': .*; did you mean kind\?$"),
        ("task.heads={a: {target: weather}}", r"task\.heads\.a: target 'weather': .*; there are kind, amount$"),
        ("task.heads={amount: {given: knd}}", r"task\.heads\.amount: target 'knd': .*; did you mean kind\?$"),
        (
            "task.heads={kind: {}, amount: {given: amount}}",
            r"task\.heads\.amount\.given=amount: must be a target that is",
        ),
        ("task.heads={kind: {given: kind}}", r"task\.heads\.kind\.given=kind: only predictions of numbers are told"),
        (
            f"{TOKENS} task.heads={{kind: {{given: tag}}}}",
            r"task\.heads\.kind\.given=tag: must be a target that is one",
        ),
        (
            "task.heads={amount: {loss: hinge}}",
            r"task\.heads\.amount\.loss=hinge: .* numbers; allowed: squared, huber$",
        ),
        ("task.heads={kind: {loss: squared}}", r"task\.heads\.kind\.loss=squared: .* classes; allowed: cross_entropy"),
        ("task.heads={kind: {loss: binary}}", r"task\.heads\.kind\.loss=binary: the target kind has 3 classes, not 2$"),
        ("task.heads={kind: {loss: hing}}", r"task\.heads\.kind\.loss=hing: must be .*; did you mean hinge\?"),
        (
            "task.heads={kind: {loss: hinge, label_smoothing: 0.1}}",
            r"task\.heads\.kind\.label_smoothing=0\.1: is of loss",
        ),
        ("task.heads={kind: {wait: 1}}", r"task\.heads\.kind\.wait=1: unknown field; did you mean .*weight\?"),
        ("task.heads={a/b: {target: kind}}", r"task\.heads\.a/b: a head's name must not be empty or contain"),
        ("task.heads={a.b: {target: kind}}", r"task\.heads\.a\.b: a head's name must not be empty or contain"),
        ("task.heads={'': {target: kind}}", r"task\.heads\.: a head's name must not be empty or contain"),
        (
            "task.heads={kind: {}, other: {data: {name: images.npz}}}",
            r"task\.heads\.other\.data: inputs are \[8, 8\] uint8, but those of kind are \[5\] float32; one trunk",
        ),
        (
            "task.heads={kind: {}, other: {data: {name: tokens.npz}}}",
            r"task\.heads\.other\.data: inputs are sequences of \[\] int64 of 6 choices, but those of kind are \[5\]",
        ),
        (
            "task.heads={kind: {weight: 2}} task.weighting=uncertainty",
            r"task\.heads\.kind\.weight=2\.0: weights are learnt",
        ),
        (
            "task.members=2 task.max_gradient_norm=1",
            r"task\.max_gradient_norm=1\.0: one norm over all of task\.members=2",
        ),
        ("task.members=2 graft.rate_decay=0.5", r"task\.members=2: an ensemble's encoders start apart"),
        ("task.members=0", r"task\.members=0: must be greater than 0"),
        # Data.
        ("data.name=digit", r"data\.name: 'digit' must be one of digits, iris, .*; did you mean digits\?"),
        (
            "data.name=mine.csv",
            r"data\.name: 'mine\.csv' must be one of .*, a path that ends in \.npz, torchvision:NAME",
        ),
        ("data.name=gone.npz", r"data\.name=gone\.npz: no such file$"),
        ("data.name=transitions:CartPol-v1", r"data\.name=transitions:CartPol-v1: .*CartPole-v1"),
        ("data.name=transitions:Pendulum-v1", r"data\.name=transitions:Pendulum-v1: .*allowed: a Box of floats, and"),
        ("data.per_class=15", r"data\.name=rows\.npz: per_class=15: kind '\d' has only 1[0-4] samples$"),
        ("data.classes=[0, 3]", r"data\.name=rows\.npz: classes=\[0, 3\]: 3 is no class of 'kind': 0 to 2$"),
        ("data.classes=[1]", r"data\.classes=\[1\]: must have at least 2 items"),
        ("data.classes=[1, 1]", r"data\.name=rows\.npz: classes=\[1, 1\]: 1 is given twice$"),
        ("data.validation=0.5 data.test=0.5", r"data: validation=0\.5 and test=0\.5: their sum must be less than 1"),
        ("data.validation=0.5 data.test=0.499", r"data\.name=rows\.npz: .* of 60 samples none is left to train on$"),
        ("data.test=1", r"data\.test=1: must be less than 1"),
        ("data.augment.flip=true", r"data\.augment: takes images .*, got the shape \[5\]; leave shift, flip and crop"),
        (f"{IMAGES} data.augment.shift=8", r"data\.augment\.shift=8: must be less than height and width, 8 x 8$"),
        # The run.
        ("evaluation.patience=2 data.validation=0", r"evaluation\.patience: .*; set data\.validation above 0$"),
        ("evaluation.episodes=3", r"evaluation\.episodes=3: unknown field; allowed: patience, period"),
        ("epochs=0", r"epochs=0: must be greater than 0"),
        (
            "steps=100",
            r"steps: an agent's run has env, agent, steps, a task's data, task, epochs, and this one has data",
        ),
        ("env.id=CartPole-v1", r"env: an agent's run has env, .* and this one has data, task, epochs"),
        (
            "task.encoder.hidden=[10_000_000, 10_000_000]",
            r"task\.encoder: a network of this size does not fit into mem",
        ),
        ("task.encoder.hiden=[4]", r"task\.encoder\.hiden=\[4\]: unknown field; did you mean task\.encoder\.hidden\?"),
    ],
)
def test_a_wrong_task_is_refused_in_one_line_that_names_it(capsys, overrides, line):
    # Overrides are parted by blanks that no field's value follows.
    assert re.match(line, refused(capsys, "task.yaml", *re.split(r" (?=[a-z_.]+=)", overrides)))


RECURRENT = "agent.sequence_length=6 agent.burn_in=2"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("agent.encoder.kind=conv", r"encoder\.kind=conv can't take Box\(.*\(4,\), float32\): it takes images"),
        ("agent.encoder.kind=embedding", r"encoder\.kind=embedding can't take Box\("),
        (
            f"agent.encoder={{kind: lstm, hidden_size: 4, bidirectional: true}} {RECURRENT}",
            r"agent\.encoder: an agent cannot act on the future, and this LSTM reads it",
        ),
        (
            f"agent.encoder={{kind: gru, hidden_size: 4, bidirectional: true}} {RECURRENT}",
            r"agent\.encoder: an agent cannot act on the future, and this GRU reads it",
        ),
        (
            "agent={kind: reinforce, encoder: {kind: lstm, hidden_size: 4, bidirectional: true}}",
            r"agent\.encoder: an agent cannot act on the future",
        ),
        (
            "agent.batch_size=1 agent.double=false agent.encoder.norm=batch",
            r"agent\.batch_size=1: batch norm can tell no deviation of one row; use at least 2, or another norm$",
        ),
        (
            "graft.freeze=[layer.0]",
            r"graft\.freeze=layer\.0: matches no layer of this MLP .*; did you mean layers\.0\?$",
        ),
        (
            "agent.auxiliary.rewards=1",
            r"agent\.auxiliary\.rewards=1: unknown field; did you mean .*auxiliary\.reward\?",
        ),
        ("agent.auxiliary.reward=-1", r"agent\.auxiliary\.reward=-1: must be greater than or equal to 0"),
        (
            "env.id=FrozenLake-v1 agent.auxiliary.next_observation=1 agent.encoder.kind=auto",
            r"agent\.auxiliary\.next_observation: FrozenLake-v1 observes Discrete\(16\); allowed: a Box$",
        ),
        ("agent={kind: reinforce, auxiliary: {reward: 1}}", r"agent\.auxiliary=.*: unknown field"),
        ("data.name=rows.npz", r"data: an agent's run has env, agent, steps, .* and this one has env, agent, steps"),
        ("epochs=3", r"epochs: an agent's run has env, agent, steps, .* and this one has env, agent, steps"),
        ("task.members=2", r"task: an agent's run has env, agent, steps, .* and this one has env, agent, steps"),
    ],
)
def test_a_wrong_agent_is_refused_in_one_line_that_names_it(capsys, overrides, line):
    assert re.match(line, refused(capsys, "agent.yaml", *re.split(r" (?=[a-z_.]+=)", overrides)))


# Files and arrays.


def rows(**changed: Any) -> dict[str, Any]:
    return {"inputs": np.zeros((N, 3), np.float32), "kind": np.arange(N) % 2} | changed


def with_entry(array: np.ndarray, value: float, *place: int) -> np.ndarray:
    array = array.copy()
    array[place] = value
    return array


ARRAYS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "nan": (
        lambda: rows(inputs=with_entry(np.zeros((N, 3)), np.nan, 7, 1)),
        r"inputs: sample 7, entry \[1\] is nan; must",
    ),
    "infinite": (
        lambda: rows(inputs=with_entry(np.zeros((N, 3)), 1e39, 7, 1)),
        r"inputs: sample 7, entry \[1\] is 1e\+39",
    ),
    "label": (lambda: rows(kind=np.arange(N) % 2 - 1), r"target 'kind': sample 0 is -1; allowed: 0 to 0$"),
    "wild label": (lambda: rows(kind=np.arange(N) * 10**6), r"target 'kind': the number 59000000 occurs; classes and"),
    "number": (
        lambda: rows(kind=with_entry(np.zeros(N), np.nan, 5)),
        r"target 'kind': sample 5 is nan; must be finite",
    ),
    "counts": (
        lambda: rows(kind=np.zeros(9, np.int64)),
        r"target 'kind': the shape is \[9\], but there are 60 inputs$",
    ),
    "no target": (lambda: {"inputs": np.zeros((N, 3))}, "has no target"),
    "no inputs": (
        lambda: {"input": np.zeros((N, 3)), "kind": np.zeros(N)},
        "has no array 'inputs'.*should input be called inputs",
    ),
    "text": (lambda: rows(kind=np.array(["a"] * N)), r"target 'kind': must be numbers, got <U1"),
    "objects": (lambda: rows(kind=np.array([{}] * N)), "holds Python objects, which could run code when read"),
    "complex": (lambda: rows(inputs=np.zeros((N, 3), complex)), "inputs: must be numbers, got complex128"),
    "lengths": (
        lambda: {"inputs": np.zeros((N, 4, 2)), "lengths": np.full(N, 5), "kind": np.arange(N) % 2},
        r"lengths: sample 0 is 5; allowed: 1 to 4$",
    ),
    "token": (
        lambda: {"inputs": np.full((N, 4), -1), "lengths": np.full(N, 4), "kind": np.arange(N) % 2},
        r"inputs: sample 0, entry \[0\] is -1; allowed: 0 to 0$",
    ),
    "nothing": (
        lambda: rows(inputs=np.zeros((0, 3)), kind=np.zeros(0, np.int64)),
        r"inputs: the shape is \[0, 3\]; there",
    ),
    "one": (
        lambda: rows(inputs=np.zeros((1, 3)), kind=np.zeros(1, np.int64)),
        r".* of 1 samples none is left to train",
    ),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_wrong_numbers_in_a_file_are_named(capsys, name):
    make, line = ARRAYS[name]
    np.savez("mine.npz", **make())
    assert re.match(rf"data\.name=mine\.npz: {line}", refused(capsys, "task.yaml", "data.name=mine.npz"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not at all"])
def test_a_file_that_is_no_data_is_named(capsys, content):
    Path("mine.npz").write_bytes(content)
    line = refused(capsys, "task.yaml", "data.name=mine.npz")
    assert line == "data.name=mine.npz: is damaged, or was not written by numpy.savez"


@pytest.mark.parametrize("name", ["nan", "label", "counts", "complex", "nothing", "text"])
def test_wrong_numbers_given_in_python_are_named(name):
    make, line = ARRAYS[name]
    arrays = make()
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        gw.train("task.yaml", data=(arrays["inputs"], {"kind": arrays["kind"]}), run_dir="refused")
    assert "\n" not in str(caught.value)
    assert not Path("refused").exists()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ((np.zeros((N, 3)),), r"data: must be a pair \(inputs, targets\), got 1 values"),
        ([], "data set list: must have a length, of at least 1"),
        (
            "images.npz",
            r"data=images\.npz: must be arrays or a data set; a file goes by its name, data\.name=images\.npz",
        ),
        (
            DataLoader([(1.0, 0)]),
            r"data set DataLoader: must give the sample at an index, as data\[0\] \(no DataLoader\)",
        ),
        ([1, 2, 3], r"sample 0: must be a pair \(input, label\), got int"),
        ([(np.zeros(3), 0), (np.zeros(4), 1)], r"sample 1: its input is float64\[4\], that of sample 0 float64\[3\]"),
    ],
    ids=["lone", "empty", "file", "loader", "no pairs", "shapes"],
)
def test_data_of_no_known_form_are_refused(data, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        gw.train("task.yaml", data=data, run_dir="refused")
    assert not Path("refused").exists()


def test_a_label_beyond_the_classes_is_named():
    import torch
    from gymnasium.spaces import Box

    labels = torch.tensor([0, 1, 4])
    with pytest.raises(ValueError, match=r"^target 'kind': sample 2 is 4; allowed: 0 to 2$"):
        Dataset(torch.zeros(3, 2), {"kind": Target(labels, 3)}, Box(-1, 1, (2,)))


# What is not installed.


@pytest.mark.parametrize(
    ("data", "module", "line"),
    [
        ("digits", "sklearn", r"data\.name=digits needs scikit-learn: pip install 'graftwork\[data\]'$"),
        (
            "torchvision:MNIST",
            "torchvision",
            r"data\.name=torchvision:MNIST needs torchvision: pip install torchvision$",
        ),
    ],
)
def test_a_package_that_is_missing_is_named_with_what_to_type(capsys, monkeypatch, data, module, line):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert re.match(line, refused(capsys, "task.yaml", f"data.name={data}"))


# What a run cannot be asked.


def test_a_run_is_asked_only_for_what_it_has(capsys):
    gw.train("task.yaml", "data.test=0", run_dir="run", quiet=True)
    capsys.readouterr()
    for arguments, line in (
        (["evaluate", "run"], "data.test=0: there is no test part of rows.npz"),
        (["resume", "run", "epochs=many"], "epochs=many: must be an integer"),
        (
            ["resume", "run", "epochs=3", "task.encoder.hiden=[4]"],
            "task.encoder.hiden=[4]: unknown field; did you mean",
        ),
        (["resume", "run", "epochs=3", "task.encoder.hidden=[4]"], "checkpoint run/checkpoints/step_"),
        (["resume", "run", "epochs=3", "data.name=images.npz"], "checkpoint run/checkpoints/step_"),
        (["resume", "run", "epochs=3", "data.name=digits"], "data.name=digits: a run keeps its data.name, rows.npz"),
        (["resume", "run", "data.classes=[1]"], "data.classes=[1]: must have at least 2 items, not 1 (in"),
        (["resume", "run", "epochs=3", "task.normalise=none"], "task.normalise=none: a run keeps its task.normalise"),
    ):
        before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
        assert main(arguments) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith(f"graftwork: {line}")
        assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def test_a_model_is_told_from_an_agent():
    run = gw.train("task.yaml", run_dir="run", quiet=True)
    assert isinstance(run.config, TaskRunConfig)
    with pytest.raises(TypeError, match=r"^run trained a model on labelled data: use run\.model$"):
        _ = run.agent
    agent = gw.train("agent.yaml", "evaluation.episodes=1", "env.max_episode_steps=10", run_dir="agent", quiet=True)
    assert isinstance(agent.config, RunConfig)
    with pytest.raises(TypeError, match=r"^agent trained an agent: use run\.agent$"):
        _ = agent.model
