"""Runs of several stages: each an ordinary run, resumed where they were stopped, and refused whole if one is wrong."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import graftwork as gw
from graftwork.__main__ import main
from graftwork.runs import Run, TaskRunConfig
from graftwork.tasks import Supervised
from graftwork.training import checkpoint

EPOCH = 36  # of 60 samples: less 9 for validation and 15 to test on


def task(**fields: Any) -> dict[str, Any]:
    encoder = {"kind": "mlp", "hidden": [6, 5], "norm": "batch", "dropout": 0.1}
    return {
        "data": {"name": "data.npz"},
        "task": {"encoder": encoder, "batch_size": 8},
        "epochs": 2,
        "checkpoint": {"period": 1},
    } | fields


def agent(**fields: Any) -> dict[str, Any]:
    return {
        "env": {"id": "CartPole-v1", "max_episode_steps": 20},
        "agent": {"kind": "dqn", "replay_capacity": 200, "learning_starts": 20, "batch_size": 8},
        "steps": 60,
        "evaluation": {"period": 0, "episodes": 1},
    } | fields


def stages() -> dict[str, Any]:
    """A task, an agent on its encoder, and the task again."""
    return {
        "source": task(),
        "player": agent(graft={"run": "source", "freeze": 1}),
        "back": task(epochs=3, graft={"run": "player", "freeze": "all"}, evaluation={"patience": 9}),
    }


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own, with data and a file of stages in it."""
    begin(tmp_path, monkeypatch)


def begin(directory: Path, patch: pytest.MonkeyPatch) -> None:
    patch.chdir(directory)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.savez("data.npz", inputs=x, kind=(x[:, 0] > 0).astype(np.int64))
    write(stages())


def write(stages: dict[str, Any]) -> None:
    Path("mine.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))


def train(*overrides: str, run_dir: str = "run") -> Run:
    return gw.train("mine.yaml", *overrides, run_dir=run_dir, quiet=True)


def digests(run_dir: str) -> dict[str, str]:
    """The hash of each file that defines the result of any stage."""
    files = [
        *Path(run_dir).glob("*/metrics.jsonl"),
        *Path(run_dir).glob("*/evaluations.jsonl"),
        *Path(run_dir).glob("*/checkpoints/*/state.safetensors"),
        *Path(run_dir).glob("*/checkpoints/*/meta.json"),
    ]
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        begin(directory, patch)
        train()
        return digests("run")


# What a run of stages is.


def test_stages_run_in_order_each_in_a_directory_of_its_own(reference):
    run = train()
    assert digests("run") == reference
    assert list(run.stages) == ["source", "player", "back"]
    assert sorted(path.name for path in Path("run").iterdir()) == ["back", "config.yaml", "player", "source"]
    assert (run.run_dir, run.signal) == (Path("run"), None)
    assert run.stages["player"].agent.step >= 60
    assert run.model is run.stages["back"].model
    np.testing.assert_array_equal(
        gw.load("run/back").predict(np.ones((3, 4))), run.model.predict(np.ones((3, 4), dtype=np.float32))
    )


def test_a_stage_begins_with_the_encoder_of_the_one_it_names():
    train()
    before, after = (gw.load_encoder(f"run/{name}").state_dict() for name in ("player", "back"))
    assert all(np.array_equal(before[name], after[name]) for name in before)
    source = gw.load_encoder("run/source").state_dict()
    same = {name for name in source if np.array_equal(source[name], before[name])}
    assert {"inner.layers.0.weight", "inner.layers.1.running_mean", "mean", "std"} <= same
    assert "inner.layers.4.weight" not in same


def test_stages_are_what_their_runs_are_by_hand(reference):
    own = stages()
    for name, tree in own.items():
        if "graft" in tree:
            tree["graft"]["run"] = f"run/{tree['graft']['run']}"
        Path("stage.yaml").write_text(yaml.safe_dump(tree))
        gw.train("stage.yaml", run_dir=f"run/{name}", quiet=True)
    assert digests("run") == reference


def test_what_is_shared_reaches_every_stage_that_does_not_say_otherwise():
    own = {"source": task(epochs=1), "other": task(epochs=1, seed=7)}
    write(own)
    run = train("seed=3", "threads=1")
    assert run.run_dir == Path("run")
    assert [stage.config.seed for stage in run.stages.values()] == [3, 7]
    assert [stage.config.threads for stage in run.stages.values()] == [1, 1]


def test_overrides_reach_into_stages():
    run = train("stages.source.epochs=1", "stages.player.agent.discount=0.5", "stages.back.graft.freeze=1")
    assert run.stages["source"].step == EPOCH
    assert run.stages["player"].config.agent.discount == 0.5
    assert run.stages["back"].config.graft.freeze == 1


def test_a_stage_may_graft_from_any_run(monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    gw.train(TaskRunConfig.model_validate(task()), run_dir="elsewhere", quiet=True)
    write({"only": task(graft={"run": "~/elsewhere", "freeze": "all"})})
    run = train()
    before, after = gw.load_encoder("elsewhere").state_dict(), gw.load_encoder("run/only").state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert run.stages["only"].config.graft.run == "~/elsewhere"


# Stopped, and resumed.


def test_a_finished_run_is_left_as_it_is(capsys):
    train()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["resume", "run"]) == 0
    assert "source: done before\nplayer: done before\nback: done before\n" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before


def signalled(monkeypatch: pytest.MonkeyPatch, calls: int, number: int = signal.SIGINT) -> None:
    """Let that signal come in that call to learn from labelled data, counted over all stages."""
    learn, seen = Supervised.learn, 0

    def learn_and_raise(self: Supervised, batch: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == calls:
            signal.raise_signal(number)
        return learn(self, batch)

    monkeypatch.setattr(Supervised, "learn", learn_and_raise)


@pytest.mark.parametrize(
    ("calls", "begun"), [(7, ["source"]), (17, ["back", "player", "source"])], ids=["first", "last"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_stops_a_stage_and_resume_goes_on(monkeypatch, capsys, reference, calls, begun, number):
    with monkeypatch.context() as patch:
        signalled(patch, calls, number)
        assert main(["train", "mine.yaml", "run_dir=run"]) == 128 + number
    last = capsys.readouterr().err.splitlines()[-1]
    # Five updates an epoch, of 8 samples but the last; ten are behind the first stage.
    saved, stage = EPOCH + 16, {7: "source", 17: "back"}[calls]
    said = f"saved at step {saved} of {stage}; `python -m graftwork resume run` continues"
    assert last == f"graftwork: {signal.Signals(number).name}: {said}"
    assert sorted(path.name for path in Path("run").iterdir() if path.is_dir()) == begun
    assert main(["resume", "run"]) == 0
    assert finals(digests("run")) == finals(reference)


def finals(files: dict[str, str]) -> dict[str, str]:
    """Less the checkpoint that a signal left between two others, and the oldest that went for it."""
    newest = {name.split("/")[0]: max(n for n in files if n.startswith(name.split("/")[0])) for name in files}
    return {name: digest for name, digest in files.items() if name in newest.values() or name.endswith(".jsonl")}


def test_a_signal_that_is_too_late_for_a_stage_still_stops_those_after_it(monkeypatch, reference):
    save = checkpoint.save

    def save_and_raise(directory: Path, step: int, *arguments: Any) -> Path:
        if directory.parent.name == "source" and step == 2 * EPOCH:
            signal.raise_signal(signal.SIGINT)
        return save(directory, step, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_raise)
        run = train()
    assert (run.signal, list(run.stages), run.stages["source"].signal) == (signal.SIGINT, ["source"], None)
    assert gw.resume("run", quiet=True).signal is None
    assert digests("run") == reference


def test_a_signal_in_the_very_last_save_has_stopped_nothing(monkeypatch, reference):
    save = checkpoint.save

    def save_and_raise(directory: Path, step: int, *arguments: Any) -> Path:
        if directory.parent.name == "back" and step == 3 * EPOCH:
            signal.raise_signal(signal.SIGINT)
        return save(directory, step, *arguments)

    monkeypatch.setattr(checkpoint, "save", save_and_raise)
    assert train().signal is None
    assert digests("run") == reference


KILLED = """
import os, signal, sys
import graftwork as gw
from graftwork.tasks import Supervised

learn, calls = Supervised.learn, 0

def killed(self, batch):
    global calls
    calls += 1
    if calls == 18:
        os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, batch)

Supervised.learn = killed
gw.train("mine.yaml", run_dir="run", quiet=True)
"""


def test_a_run_killed_in_a_later_stage_resumes_to_identical_files(reference):
    died = subprocess.run([sys.executable, "-c", KILLED], stderr=subprocess.DEVNULL, timeout=200)
    assert died.returncode == -9
    assert len(Path("run/back/evaluations.jsonl").read_text().splitlines()) == 1
    run = gw.resume("run", quiet=True)
    assert digests("run") == reference
    assert [stage.evaluation is None for stage in run.stages.values()] == [True, True, False]


@pytest.mark.parametrize("left", [[], ["config.yaml", "schema.json"], ["schema.json"]], ids=["none", "both", "schema"])
def test_a_run_killed_as_a_stage_began_resumes_to_identical_files(reference, left):
    train()
    for path in Path("run/back").iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in left:
            path.unlink()
    if not left:
        Path("run/back").rmdir()
    gw.resume("run", quiet=True)
    assert digests("run") == reference


def test_a_run_that_was_moved_goes_on(reference):
    train()
    shutil.rmtree("run/back")
    shutil.move("run", "moved")
    gw.resume("moved", quiet=True)
    assert digests("moved") == reference


def test_a_stage_is_a_run_that_may_be_made_longer():
    train()
    assert gw.resume("run/back", "epochs=4", quiet=True).step == 4 * EPOCH
    assert gw.resume("run", quiet=True).stages["back"].step == 4 * EPOCH


# What is wrong.


def refused(line: str, *overrides: str) -> None:
    """The run is refused with such a line, and nothing is written."""
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        train(*overrides)
    assert "\n" not in str(caught.value)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages.back.epochs=0", r"stages\.back\.epochs=0: must be greater than 0 \(in mine\.yaml\)$"),
        ("stages.back.epoch=3", r"stages\.back\.epoch=3: unknown field; did you mean epochs\? \(in mine\.yaml\)$"),
        ("stages.player.agent.discont=1", r"stages\.player\.agent\.discont=1: unknown field; did you mean agent\.dis"),
        ("stages.player.agent.burn_in=1", r"stages\.player\.agent\.sequence_length=1 must exceed agent\.burn_in"),
        ("stages.player.env.id=CartPol-v1", r"stages\.player\.env\.id=CartPol-v1: .*; did you mean CartPole-v1\?$"),
        ("stages.player.epochs=3", r"stages\.player\.epochs: an agent's run has env, agent, steps, a task's data,"),
        ("stages.back.data.name=gone.npz", r"stages\.back\.data\.name=gone\.npz: no such file$"),
        ("stages.back.data.per_class=30", r"stages\.back\.data\.name=data\.npz: per_class=30: kind '\d' has only "),
        (
            "stages.back.data={name: data.npz, validation: 0}",
            r"stages\.back\.evaluation\.patience: stopping early needs",
        ),
        ("stages.back.task.heads={a: {target: kid}}", r"stages\.back\.task\.heads\.a: target 'kid': .* mean kind\?$"),
        ("stages.back.task.members=2", r"stages\.back\.task\.members=2: an ensemble's encoders start apart"),
        ("stages.back.graft.freeze=3", r"stages\.back\.graft\.freeze=3: this Normalised has 2 blocks$"),
        (
            "stages.back.graft.freeze=[layers.0]",
            r"stages\.back\.graft\.freeze=layers\.0: .* did you mean inner\.layers",
        ),
        ("stages.player.env.id=Acrobot-v1", r"stages\.player\.graft\.run=run/source does not fit Box.*: "),
        ("stages.player.tracker=tensorbord", r"stages\.player\.tracker=tensorbord: must be .* mean tensorboard\?"),
        ("stages.player.run_dir=other", r"stages\.player\.run_dir: a stage's directory is inside that of all"),
        ("stages.bak.epochs=1", r"stages\.bak\.epochs=1: mine\.yaml has no stage bak; did you mean back\?$"),
        (
            "stages={fresh: {data: {name: digits}}}",
            r"stages\.fresh: mine\.yaml has no stage fresh; there are source",
        ),
        ("device=gpu", r"device: .gpu. must be "),
        ("epochs=3", r"epochs=3: unknown field; allowed: device, run_dir, seed, stages, "),
        ("seed=-1", r"seed=-1: must be greater than or equal to 0 \(in mine\.yaml\)$"),
    ],
)
def test_whatever_is_wrong_in_any_stage_is_named_before_anything_is_written(override, line):
    refused(line, override)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages.source.graft={run: back}", r"stages\.source\.graft\.run=back: must be an earlier stage or a run dir"),
        ("stages.player.graft.run=player", r"stages\.player\.graft\.run=player: .*; earlier stages: source$"),
        ("stages.player.graft.run=back", r"stages\.player\.graft\.run=back: .*; earlier stages: source$"),
        ("stages.player.graft.run=sorce", r"stages\.player\.graft\.run=sorce: .*; did you mean source\?$"),
        ("stages.player.graft=source", r"stages\.player\.graft=source: must be a mapping of fields"),
    ],
)
def test_a_stage_grafts_from_an_earlier_one(override, line):
    refused(line, override)


@pytest.mark.parametrize(
    ("stages", "line"),
    [
        ({}, r"stages=\{\}: must have at least 1 item"),
        (["a"], r"stages=\[a\]: must be a mapping of fields"),
        ({"a": {"epochs": 1}}, r"stages\.a: has neither env, as an agent's run, nor data, as a task$"),
        ({"a": None}, r"stages\.a=null: must be a mapping of fields"),
        ({"a/b": {"epochs": 1}}, r"stages\.a/b: a stage's name is that of its directory"),
        ({"config.yaml": {"epochs": 1}}, r"stages\.config\.yaml: a stage's name is that of its directory"),
        ({"": {"epochs": 1}}, r"stages\.: a stage's name is that of its directory"),
    ],
)
def test_stages_are_configs_by_names_that_directories_can_have(stages, line):
    write(stages)
    refused(line)


def test_the_command_fails_in_one_line_with_status_2(capsys):
    assert main(["train", "mine.yaml", "run_dir=run", "stages.back.graft.freeze=[layers.0]"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("graftwork: stages.back.graft.freeze=layers.0: matches no layer")
    assert err.count("\n") == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "function",
    [gw.load, gw.load_encoder, gw.evaluate, lambda run: gw.train("dqn/cartpole", f"graft.run={run}", run_dir="other")],
    ids=["load", "load_encoder", "evaluate", "graft"],
)
def test_a_stage_is_asked_for_where_one_run_is_wanted(function: Callable[[str], object]):
    train()
    with pytest.raises(ValueError, match=r"run has stages, each a run of its own: run/source, run/player, run/back$"):
        function("run")
    assert not Path("other").exists()


def test_what_stages_cannot_take_is_refused():
    with pytest.raises(ValueError, match=r"^mine\.yaml has stages, which take no env from Python$"):
        gw.train("mine.yaml", run_dir="run", env=lambda: None)
    assert not Path("run").exists()
    train()
    with pytest.raises(ValueError, match=r"^run has stages: resume one of them, such as run/source$"):
        gw.resume("run", "seed=2")
    with pytest.raises(ValueError, match=r"^run_dir=run exists; `graftwork resume run` continues it"):
        train()


def test_a_report_tells_of_every_stage(capsys):
    train()
    assert main(["report", "run", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["runs"]
    assert list(told["stages"]) == ["source", "player", "back"]
    assert told["stages"]["back"]["graft"]["run"] == "run/player"


@pytest.mark.parametrize("preset", ["transfer/digits", "transfer/cartpole", "supervised/depth"])
def test_presets_of_stages_resolve(preset):
    from graftwork.configs import load, validate
    from graftwork.runs.stages import StagesConfig

    resolved = validate(StagesConfig, load(preset), preset).resolved(Path("run"), preset)
    assert len(resolved) >= 4
