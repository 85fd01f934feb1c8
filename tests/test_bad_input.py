"""Bad input gets one line on stderr that says what is wrong, exit status 2, and leaves nothing half-written."""

import contextlib
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from torch import Tensor

import graftwork as gw
from graftwork.__main__ import main
from graftwork.engine import NonFiniteError
from graftwork.envs import NonFiniteEnvError
from graftwork.networks import Encoder
from graftwork.training import checkpoint
from graftwork.training.durable import MANIFEST, Entry, seal
from graftwork.training.lock import RunLock

SMALL_DQN = [
    *("env.max_episode_steps=20", "agent.encoder.hidden=[8]", "agent.replay_capacity=200", "agent.learning_starts=50"),
    *("agent.batch_size=8", "agent.train_period=10", "agent.updates=1"),
    *("evaluation.period=0", "evaluation.episodes=1", "checkpoint.period=50", "log.period=50"),
]
SMALL_REINFORCE = [
    *("env.max_episode_steps=20", "env.num_envs=2", "agent.encoder.hidden=[8]"),
    *("evaluation.period=0", "evaluation.episodes=1", "checkpoint.period=50", "log.period=50"),
]
LSTM = "agent.encoder={kind: lstm, hidden_size: 8, inner: {kind: mlp, hidden: [8]}}"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with checkpoints near steps 100, 150 and 200."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        assert main(["train", "dqn/cartpole", *SMALL_DQN, "steps=200", f"run_dir={run_dir}"]) == 0
    return run_dir


@pytest.fixture
def run(trained: Path) -> Path:
    """A copy of it, in the working directory, to be damaged."""
    shutil.copytree(trained, "run")
    return Path("run")


def contents() -> dict[str, str]:
    """The hash of every file below the working directory, but for locks."""
    files = [path for path in Path().rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command failed with, the last that it printed."""
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line for line in lines if line.startswith("graftwork:")] == lines[-1:], err
    assert "Traceback" not in err
    return lines[-1].removeprefix("graftwork: ")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line with which a command is refused, once it is clear that it changed nothing."""
    capsys.readouterr()
    before, paths = contents(), sorted(Path().rglob("*"))
    assert main(arguments) == 2
    assert contents() == before
    assert [path for path in sorted(Path().rglob("*")) if path.name != ".lock"] == [
        path for path in paths if path.name != ".lock"
    ]
    return complaint(capsys)


def checkpoints(run_dir: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run_dir / "checkpoints").iterdir())


class Wide(gymnasium.Env[Any, Any]):
    """Observes 1 MB."""

    observation_space, action_space = Box(0, 255, (1_000, 1_000), np.uint8), Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros((1_000, 1_000), np.uint8), {}


class Branched(gymnasium.Env[Any, Any]):
    observation_space, action_space = Box(0, 1, (3,), np.float32), MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}


@pytest.fixture
def spaces_by_id() -> Iterator[None]:
    gymnasium.register("Wide-v0", Wide)
    gymnasium.register("Branched-v0", Branched)
    yield
    del gymnasium.registry["Wide-v0"], gymnasium.registry["Branched-v0"]


# Configurations.


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["dqn/cartpol"], r"dqn/cartpol: no such preset or file; did you mean dqn/cartpole\?"),
        (["mine.yaml"], "mine.yaml: no such file"),
        (["dqn/cartpole", "env.id=CartPol-v1"], "env.id=CartPol-v1: .*did you mean.*CartPole"),
        (
            ["dqn/cartpole", "env.id=nomodule:X-v0"],
            "env.id=nomodule:X-v0 needs a package that is not installed: No module named 'nomodule'",
        ),
        (["dqn/cartpole", "agent.discont=0.9"], r"agent.discont=0.9: unknown field; did you mean agent.discount\?"),
        (["dqn/cartpole", "discount=0.9"], r"discount=0.9: unknown field; did you mean agent.discount\?"),
        (["dqn/cartpole", "agent.kind=dqm"], "agent.kind=dqm: must be one of 'dqn', 'pqn', .*; did you mean dqn"),
        (["dqn/cartpole", "seed"], "seed: an override is field=value"),
        (["dqn/cartpole", "seed=one"], "seed=one: must be an integer"),
        (
            ["dqn/cartpole", "agent.encoder.hidden=[10_000_000, 10_000_000]"],
            "agent.encoder: a network of this size does not fit into memory",
        ),
        (["dqn/cartpole", "threads=100000"], "threads=100000: must be less than or equal to 1024"),
        (["dqn/cartpole", "seed=true"], "seed=true: must be an integer"),
        (["dqn/cartpole", "seed=3.5"], "seed=3.5: must be an integer"),
        (["dqn/cartpole", "seed=-1"], "seed=-1: must be greater than or equal to 0"),
        (["dqn/cartpole", "steps=0"], "steps=0: must be greater than 0"),
        (["dqn/cartpole", "env.num_envs=true"], "env.num_envs=true: must be an integer"),
        (["dqn/cartpole", "agent.discount=true"], "agent.discount=true: must be a number"),
        (["dqn/cartpole", "agent.discount=1.5"], "agent.discount=1.5: must be less than or equal to 1"),
        (["dqn/cartpole", "agent.discount=nan"], "agent.discount=nan: must be a finite number"),
        (["dqn/cartpole", "agent.double=7"], "agent.double=7: must be true or false"),
        (["dqn/cartpole", "agent.encoder.hidden=8"], "agent.encoder.hidden=8: must be a list"),
        (["dqn/cartpole", "agent.encoder.hidden=[8, true]"], "agent.encoder.hidden.1=true: must be an integer"),
        (["dqn/cartpole", "env.observe=[0, 9]"], r"env.observe=\[0, 9\]: must name entries from 0 to 3"),
        (["dqn/cartpole", "tracker=wanbd"], "tracker=wanbd: must be .*; did you mean wandb"),
        (["dqn/cartpole", "device=gpu"], "device: .gpu. must be .*cuda"),
        (
            ["dqn/cartpole", LSTM, "agent.sequence_length=5", "agent.burn_in=5"],
            "agent.sequence_length=5 must exceed agent.burn_in=5",
        ),
        (
            ["dqn/cartpole", LSTM, "agent.sequence_length=5", "agent.burn_in=7"],
            "agent.sequence_length=5 must exceed agent.burn_in=7",
        ),
        (["dqn/cartpole", LSTM, "agent.sequence_length=1"], "agent.sequence_length=1: .*at least 2"),
        (["dqn/cartpole", "agent.sequence_length=5", "agent.burn_in=2"], "agent.burn_in=2: .*use 0"),
        (["dqn/cartpole", "agent.replay_capacity=10"], "agent.replay_capacity=10 must hold at least .*batch_size=64"),
        (
            ["dqn/cartpole", "agent.replay_capacity=900"],
            "agent.replay_capacity=900 must hold at least .*agent.learning_starts=1000 transitions",
        ),
        (
            ["dqn/cartpole-memory", "agent.replay_capacity=2_000", "agent.sequence_length=300"],
            "agent.replay_capacity=2000 keeps 250 rows of each environment, but a sequence of 300 rows .* need 308",
        ),
        (
            ["dqn/cartpole", "agent.replay_capacity=1_000_000_000_000"],
            r"agent.replay_capacity=1000000000000 needs 40000.0 GB of memory, this machine has [0-9.]+ GB",
        ),
        (
            # What is drawn by lies in memory, so little that the disk is asked for more than it has.
            ["dqn/cartpole", "agent.replay_capacity=10_000_000", "agent.replay_storage=mapped", "env.id=Wide-v0"],
            r"agent.replay_capacity=10000000 needs 10000.0 GB in .*, its disk has [0-9.]+ GB free",
        ),
        (
            ["dqn/cartpole", "agent.replay_storage=mapped", "agent.replay_directory=not/there"],
            "replay: no file of .* can be mapped in not/there: agent.replay_directory must be a directory that",
        ),
        (["dqn/cartpole", "agent.replay_storage=gpu"], "agent.replay_storage=gpu: must be 'device', 'pinned' or 'map"),
        (["dqn/cartpole", "agent.n_step=0"], "agent.n_step=0: must be greater than 0"),
        (["dqn/cartpole", "agent.head.noise=-0.5"], "agent.head.noise=-0.5: must be greater than 0"),
        (["dqn/cartpole", "agent.prioritised=true"], "agent.prioritised=true: must be a mapping of fields, {} for its"),
        (["dqn/cartpole", "agent.prioritised.exponent=1.5"], "agent.prioritised.exponent=1.5: must be less than or eq"),
        (["dqn/cartpole", "agent.munchausen.temperature=0"], "agent.munchausen.temperature=0: must be greater than 0"),
        (["dqn/cartpole", "agent.value.num_atoms=7"], "agent.value.num_atoms=7: .*agent.value.kind=categorical has it"),
        (["dqn/rainbow-atari", "agent.value.low=10"], "agent.value: low=10.0 must be below high=10.0"),
        (
            ["dqn/cartpole", "env.protocol=atari-machado"],
            "env.protocol=atari-machado needs .*ALE/Pong-v5, got CartPole",
        ),
        (
            ["reinforce/cartpole", "env.id=Branched-v0"],
            r"agent.kind=reinforce needs a Discrete action space, but env.id=Branched-v0 has MultiDiscrete\(\[2 3\]\)",
        ),
        (
            ["dqn/cartpole", "env.id=Pendulum-v1"],
            "agent.kind=dqn needs a Discrete or MultiDiscrete action space, .*Pendulum-v1 has Box",
        ),
        (
            ["reinforce/cartpole", "env.id=Pendulum-v1"],
            "agent.kind=reinforce needs a Discrete action space, .*Pendulum-v1 has Box",
        ),
        (
            ["dqn/cartpole", "agent.encoder={kind: combined, encoders: {image: {kind: con}}}"],
            r"agent\.encoder\.encoders\.image\.kind=con: must be one of .*; did you mean conv\?",
        ),
        (["dqn/cartpole", "agent.encoder.kind=conv"], r"encoder\.kind=conv can't take Box\(.*: it takes images"),
        (
            ["dqn/cartpole", "agent.encoder.kind=lstm", "agent.encoder.bidirectional=true", "agent.sequence_length=8"],
            r"agent\.encoder: an agent cannot act on the future, .* set bidirectional=false",
        ),
        (["supervised/digits-mlp", "task.encoder.hiden=[3]"], r"task\.encoder\.hiden=\[3\]: .*task\.encoder\.hidden\?"),
        (["multitask/digits", "task.heads.ink.los=huber"], r"task\.heads\.ink\.los=huber: .*task\.heads\.ink\.loss\?"),
        (["multitask/digits", "task.heads.ink.loss=hinge"], r"task\.heads\.ink\.loss=hinge: .*allowed: squared, huber"),
        (["supervised/digits-mlp", "task.optimizer.kind=adma"], "task.optimizer.kind=adma: .*did you mean adam"),
        (["supervised/digits-mlp", "data.name=digts"], "data.name: 'digts' must be one of .*did you mean digits"),
        (["supervised/digits-mlp", "data.name=mine.npz"], "data.name=mine.npz: no such file"),
        (["supervised/digits-mlp", "data.classes=[1, 77]"], r"data\.name=digits: .*77 is no class of 'class': 0 to 9"),
        (["supervised/digits-mlp", "data.validation=0"], "evaluation.patience: .*set data.validation above 0"),
        (["supervised/digits-mlp", "steps=100"], "steps: .*this one has data, task, epochs"),
        (["supervised/digits-mlp", "task.members=2", "graft.freeze=all"], "task.members=2: .*graft nothing on it"),
        (["dqn/cartpole", "graft.run=gone"], "graft.run=gone: run directory gone does not exist"),
        (["dqn/cartpole", "graft.freeze=9"], "graft.freeze=9: this MLP has 2 blocks"),
        (["dqn/cartpole", "graft.freeze=al"], r"graft\.freeze=al: must be .*did you mean all\?"),
        (["dqn/cartpole", "graft.freeze=[layer.0]"], r"graft\.freeze=layer\.0: matches no layer .*"),
        (["transfer/digits", "stages.scratch.epochs=0"], "stages.scratch.epochs=0: must be greater than 0"),
        (["transfer/digits", "stages.scratch.graft.run=sorce"], r"stages\.scratch\.graft\.run=sorce: .*mean source\?"),
        (["transfer/digits", "epochs=3"], "epochs=3: unknown field; allowed: .*stages"),
    ],
)
@pytest.mark.usefixtures("spaces_by_id")
def test_wrong_configuration_is_named_with_what_is_allowed(arguments, line, capsys):
    assert re.search(f"^(agent: )?{line}", refused(capsys, "train", *arguments))
    assert list(Path().iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_device_that_is_not_there_is_named(capsys):
    assert re.match(
        "device=cuda:3: .* sees no CUDA device; use cpu or auto",
        refused(capsys, "train", "dqn/cartpole", "device=cuda:3"),
    )


def test_tensorboard_that_is_not_installed_is_named_before_anything_is_written(capsys, monkeypatch):
    monkeypatch.setattr("graftwork.runs.session.find_spec", lambda name: None)
    line = refused(capsys, "train", "dqn/cartpole", "tracker=tensorboard")
    assert line == "tracker=tensorboard: not installed; pip install 'graftwork[tensorboard]'"


@pytest.mark.parametrize(
    ("package", "arguments", "line"),
    [
        ("ale_py", ["dqn/atari-machado"], r"env.id=ALE/Pong-v5 needs .*: ale-py; pip install 'graftwork\[atari\]'"),
        ("ale_py", ["dqn/atari-machado", "env.backend=ale"], r".*ale-py; pip install 'graftwork\[atari\]'"),
        ("ale_py", ["dqn/cartpole", "env.id=ALE/Pong-v5"], r".*ale-py; pip install 'graftwork\[atari\]'"),
        ("cv2", ["dqn/atari-noframeskip"], r".*opencv-python-headless; pip install 'graftwork\[atari\]'"),
        (
            "minatar",
            ["dqn/minatar-breakout"],
            r"env.id=MinAtar/Breakout-v1 needs .*: minatar; .*'graftwork\[minatar\]'",
        ),
    ],
)
def test_package_that_is_not_installed_is_named_with_what_to_install(package, arguments, line, capsys, monkeypatch):
    if package == "cv2":
        pytest.importorskip("ale_py")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not there
    assert re.match(line, refused(capsys, "train", *arguments))
    assert list(Path().iterdir()) == []


def test_rom_that_is_not_there_is_named(capsys):
    pytest.importorskip("ale_py")
    line = refused(capsys, "train", "dqn/atari-machado", "env.id=ALE/NoSuchGame-v5")
    assert line.startswith("env.id=ALE/NoSuchGame-v5: Environment `NoSuchGame` doesn't exist in namespace ALE")
    assert list(Path().iterdir()) == []


def test_float_that_is_an_integer_is_one(capsys):
    config = gw.RunConfig.model_validate({"env": {"id": "X-v0"}, "agent": {"kind": "dqn"}, "steps": 1e4, "seed": 3.0})
    assert (config.steps, config.seed) == (10_000, 3)


@pytest.mark.parametrize(
    "text", ["steps: [", "- 1\n- 2\n", "steps: 1\nsteps: 2\n", "\x00\xff", "steps: !!python/object:os.system 1"]
)
def test_file_that_is_no_configuration_is_named(text, capsys):
    Path("mine.yaml").write_bytes(text.encode("latin-1"))
    assert refused(capsys, "train", "mine.yaml").startswith("mine.yaml")


# Run directories.


def test_directory_that_holds_a_run_is_not_trained_in(run, capsys):
    line = refused(capsys, "train", "dqn/cartpole", *SMALL_DQN, "steps=50", "run_dir=run")
    assert line == "run_dir=run exists; `graftwork resume run` continues it, or name another"


def test_directory_that_holds_anything_else_is_not_trained_in(capsys):
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("...")
    assert refused(capsys, "train", "dqn/cartpole", "run_dir=thesis").startswith("run_dir=thesis exists")
    assert refused(capsys, "train", "dqn/cartpole", "run_dir=thesis/thesis.tex").startswith(
        "run_dir=thesis/thesis.tex exists"
    )


@pytest.mark.parametrize("command", ["resume", "evaluate", "report"])
def test_missing_run_is_named(command, capsys):
    assert refused(capsys, command, "gone") == "run directory gone does not exist"
    Path("empty").mkdir()
    assert refused(capsys, command, "empty") == "run directory empty has no config.yaml"


def test_run_in_use_is_left_alone(run, capsys):
    with RunLock(run):
        line = refused(capsys, "resume", "run", "steps=300")
    assert re.match(r"run directory run is in use by process \d+", line)


@pytest.mark.parametrize(
    ("field", "line"),
    [("agent.discont=1", "agent.discont=1: unknown field"), ("steps=many", "steps=many: must be an integer")],
)
def test_wrong_override_of_a_run_is_named(field, line, run, capsys):
    assert refused(capsys, "resume", "run", field).startswith(line)


@pytest.mark.parametrize("field", ["seed=5", "run_dir=other", "objects=[env]"])
def test_run_does_not_become_another(field, run, capsys):
    name = field.partition("=")[0]
    line = refused(capsys, "resume", "run", field)
    assert re.search(rf"^{name}=.*: a run keeps its {name}, |its own env: pass env=", line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("steps: [", "run/config.yaml"),
        ("", "env: required, but missing .in run/config.yaml"),
        ("\xff\xfe", "run/config.yaml: not a text file"),
    ],
)
@pytest.mark.parametrize("command", ["resume", "evaluate", "report"])
def test_damaged_configuration_of_a_run_is_named(command, text, line, run, capsys):
    (run / "config.yaml").write_bytes(text.encode("latin-1"))
    assert re.match(line, refused(capsys, command, "run"))


@pytest.mark.parametrize(("episodes", "seed", "line"), [("0", "1", "episodes=0: must"), ("1", "-1", "seed=-1: must")])
def test_evaluation_that_cannot_be_is_refused(episodes, seed, line, run, capsys):
    assert refused(capsys, "evaluate", "run", "--episodes", episodes, "--seed", seed).startswith(line)


# Checkpoints.


def alter(path: Path) -> None:
    data = bytearray((path / "state.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "state.safetensors").write_bytes(data)


def truncate(path: Path) -> None:
    data = (path / "state.safetensors").read_bytes()
    (path / "state.safetensors").write_bytes(data[: len(data) // 2])


def lose_a_file(path: Path) -> None:
    (path / "meta.json").unlink()


def rewrite_format(path: Path) -> None:
    """As another version would have written it, hashes and all."""
    text = (path / "meta.json").read_text()
    changed = re.sub(r'"format": ?2\b', '"format":99', text)
    assert changed != text
    (path / "meta.json").write_text(changed)
    (path / MANIFEST).unlink()
    files = [path / name for name in ("meta.json", "state.safetensors")]
    entries = [Entry(hashlib.sha256(f.read_bytes()).hexdigest(), f.stat().st_size, f.name) for f in files]
    seal(path, entries)


DAMAGE = [
    (alter, "state.safetensors is altered"),
    (truncate, "state.safetensors is truncated"),
    (lose_a_file, "meta.json is missing"),
    (rewrite_format, "meta.json has format version 99, this graftwork reads 2"),
]


@pytest.mark.filterwarnings("always:passed over")
@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_damaged_checkpoint_is_named_and_kept_and_the_one_before_is_used(damage, reason, run, capsys):
    *_, good, bad = checkpoints(run)
    damage(bad)
    damaged = sorted(path.read_bytes() for path in bad.iterdir())
    capsys.readouterr()

    assert main(["evaluate", "run", "--episodes", "2"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(f"graftwork: warning: passed over: checkpoint {bad}: {reason}.*\n", err)
    assert f"(step {int(good.name[5:])}" in out.replace(",", "")

    assert main(["resume", "run"]) == 0
    err = capsys.readouterr().err
    assert len([line for line in err.splitlines() if f"passed over: checkpoint {bad}: {reason}" in line]) == 1
    assert f"resuming {good} at step" in err
    aside = [path for path in checkpoints(run) if path.name.startswith(bad.name)]
    assert damaged in [sorted(file.read_bytes() for file in path.iterdir()) for path in aside]
    # What was lost is trained again, to the same end.
    assert checkpoint.load(bad).step == int(bad.name[5:])


def test_missing_newest_checkpoint_is_trained_again(run, trained, capsys):
    newest = checkpoints(run)[-1]
    shutil.rmtree(newest)
    assert main(["resume", "run"]) == 0
    digests = [checkpoint.digest(checkpoint.load(path).state) for path in (newest, trained / newest.relative_to(run))]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(("damage", "reason"), DAMAGE)
def test_run_with_no_good_checkpoint_names_each(command, damage, reason, run, capsys):
    for path in checkpoints(run):
        damage(path)
    line = refused(capsys, command, "run")
    assert line.startswith("no good checkpoint in run/checkpoints")
    assert all(str(path) in line for path in checkpoints(run))
    assert line.count(reason) == len(checkpoints(run))


@pytest.mark.parametrize("command", ["resume", "evaluate"])
def test_run_whose_checkpoints_are_gone_is_not_begun_again(command, run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert refused(capsys, command, "run").startswith("no checkpoint in run/checkpoints")


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("hidden: [8]", "hidden: [16]", r"does not fit this run: state of network: .* is \[8, 4\], this one \[16, 4\]"),
        ("hidden: [8]", "hidden: [8, 8]", r"does not fit this run: state of network: missing"),
    ],
)
def test_checkpoint_of_another_network_is_named(command, old, new, line, run, capsys):
    text = (run / "config.yaml").read_text()
    assert old in text
    (run / "config.yaml").write_text(text.replace(old, new))
    assert re.match(f"checkpoint {checkpoints(run)[-1]} {line}", refused(capsys, command, "run"))


@pytest.mark.parametrize("field", ["agent.encoder.hidden=[16]", "env.num_envs=2", "agent.replay_capacity=100"])
def test_override_that_does_not_fit_the_checkpoint_leaves_the_run_as_it_was(field, run, capsys):
    line = refused(capsys, "resume", "run", "steps=300", field)
    assert line.startswith(f"checkpoint {checkpoints(run)[-1]} does not fit this run: ")
    assert main(["resume", "run", "steps=210"]) == 0


def test_metrics_that_were_cut_are_named(run, capsys):
    (run / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes().splitlines(keepends=True)[0])
    assert re.search(r"metrics.jsonl: \d+ bytes, but the checkpoint", refused(capsys, "resume", "run", "steps=300"))


# Numbers that are none, and environments that fail.


class Faulty(gymnasium.Env[Any, Any]):
    """Goes wrong at its 60th step over all episodes of ten steps each."""

    observation_space = Box(-1, 1, (3,), np.float32)
    action_space = Discrete(2)
    steps = 0

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 10
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.left -= 1
        is_faulty = self.steps == 60
        if is_faulty and self.fault == "exception":
            raise ZeroDivisionError("the cart\nis gone")
        observation = np.zeros(3, np.float32)
        observation[1] = np.nan if is_faulty and self.fault == "observation" else 0.0
        reward = float("inf") if is_faulty and self.fault == "reward" else 1.0
        return observation, reward, self.left == 0, False, {}


@pytest.fixture
def faulty_id() -> Any:
    gymnasium.register("Faulty-v0", Faulty)
    yield "Faulty-v0"
    del gymnasium.registry["Faulty-v0"]


class Inconstant(gymnasium.Env[Any, Any]):
    """Observes small images and says what is legal, at its 60th step in another form."""

    observation_space, action_space = Box(0, 255, (3, 2), np.uint8), Discrete(2)
    steps = 0

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def row(self) -> tuple[Any, dict[str, Any]]:
        is_faulty = self.steps == 60
        fault = self.fault if is_faulty else ""
        shape, dtype = (2, 3) if fault == "shape" else (3, 2), np.float32 if fault == "type" else np.uint8
        mask = {"forbidden": [0, 0], "mask size": [1, 1, 1], "mask value": [1, 7]}.get(fault, [0, 1])
        return np.zeros(shape, dtype), {} if fault == "no mask" else {"action_mask": np.array(mask, np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 7
        return self.row()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action == 1  # the one that is legal
        self.steps, self.left = self.steps + 1, self.left - 1
        observation, info = self.row()
        reward = 1e38 if self.steps >= 60 and self.fault == "reward" else 1.0
        return observation, reward, self.left == 0, False, info


@pytest.fixture
def inconstant_id() -> Iterator[str]:
    gymnasium.register("Inconstant-v0", Inconstant)
    yield "Inconstant-v0"
    del gymnasium.registry["Inconstant-v0"]


def weights_are_finite(path: Path) -> bool:
    network: dict[str, Tensor] = checkpoint.load(path).state["learner"]["network"]
    return bool(network) and all(bool(tensor.isfinite().all()) for tensor in network.values())


def failed(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    """The line with which training in `run` ends, once it is clear that it left finite weights and a run to resume."""
    assert main(["train", *arguments, "steps=1000", "run_dir=run"]) == status
    line = complaint(capsys)
    (saved,) = Path("run/failure").iterdir()
    assert line.endswith(f"(last finite weights: {saved})")
    assert weights_are_finite(saved)
    newest = checkpoint.load_newest(Path("run/checkpoints"))
    assert newest.problems == ()
    assert newest.step <= checkpoint.load(saved).step
    return line


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize("small", [SMALL_DQN, SMALL_REINFORCE], ids=["dqn", "reinforce"])
@pytest.mark.parametrize(
    ("fault", "status", "what"),
    [
        ("observation", 2, r"observation of env 0 is nan at entry \[1\]"),
        ("reward", 2, "reward of env 0 is inf"),
        ("exception", 1, r"environment failed at env [01], .*ZeroDivisionError: the cart is gone"),
    ],
)
def test_faulty_environment_is_named_with_the_step(fault, status, what, small, asynchronous, faulty_id, capsys):
    kind = "dqn" if small is SMALL_DQN else "reinforce"
    env = [f"env.id={faulty_id}", f"env.kwargs={{fault: {fault}}}", f"env.asynchronous={asynchronous}"]
    line = failed(capsys, status, f"{kind}/cartpole", *small, *env)
    assert re.match(f"step [0-9,]+: {what}", line)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("forbidden", "the action mask forbids every action"),
        ("mask size", r"the action mask has shape \(3,\), the action space says \(2,\)"),
        ("mask value", "the action mask holds 7; allowed: 0 and 1"),
        ("no mask", "the info has no action mask, but that of the first reset had one"),
        ("shape", r"observation has shape \(2, 3\), its space says \(3, 2\)"),
        ("type", "observation is of type float32, its space says uint8"),
    ],
)
def test_environment_that_changes_its_form_is_named_with_the_step(fault, what, asynchronous, inconstant_id, capsys):
    env = [f"env.id={inconstant_id}", f"env.kwargs={{fault: {fault}}}", f"env.asynchronous={asynchronous}"]
    line = failed(capsys, 1, "dqn/cartpole", *SMALL_DQN, *env)
    assert re.match(rf"step [0-9,]+: environment failed at env 0, episode 8, step 4 .*: ValueError: {what}", line)


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("{kind: scalar, loss: squared}", "loss is inf"),
        (
            "{kind: scalar, loss: huber}",
            r"replay: a priority is \S+e\+3[78], 200 slots can hold at most .*scale the re",
        ),
    ],
)
def test_rewards_too_large_to_learn_from_or_to_draw_by_are_named(value, what, inconstant_id, capsys):
    env = [f"env.id={inconstant_id}", "env.kwargs={fault: reward}"]
    line = failed(capsys, 2, "dqn/cartpole", *SMALL_DQN, *env, "agent.prioritised={}", f"agent.value={value}")
    assert re.match(f"step [0-9,]+: {what}", line)


@pytest.mark.parametrize(
    ("preset", "small"),
    [("dqn/cartpole", SMALL_DQN), ("reinforce/cartpole", SMALL_REINFORCE)],
    ids=["dqn", "reinforce"],
)
def test_diverging_training_is_named(preset, small, capsys):
    line = failed(capsys, 2, preset, *small, "agent.learning_rate=1e30")
    assert re.match(r"step [0-9,]+: \w+ is -?(nan|inf); ", line)


class GoesBad(Encoder):
    """Gives NaN from its n-th call with gradients on, or has a gradient of NaN from then on."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.out_features = torch.nn.Linear(4, 5), 5
        self.how, self.left = how, 7

    def encode(self, observation: Tensor) -> Tensor:
        features: Tensor = self.layer(observation)
        self.left -= torch.is_grad_enabled()
        if self.left > 0:
            return features
        # The derivative of the root is infinite at 0, and 0 * inf is NaN.
        return features * torch.nan if self.how == "loss" else features + (features * 0).abs().sqrt()


@pytest.mark.parametrize(("preset", "small"), [("dqn/cartpole", SMALL_DQN), ("reinforce/cartpole", SMALL_REINFORCE)])
@pytest.mark.parametrize(
    ("how", "what"), [("loss", r"loss is nan"), ("gradient", r"gradient of encoder\.layer\.weight is not finite")]
)
def test_bad_tensor_is_named_and_the_weights_before_it_saved(how, what, preset, small, capsys):
    overrides = [field for field in small if "encoder" not in field]
    with pytest.raises(NonFiniteError, match=rf"^step [0-9,]+: {what}") as error:
        gw.train(preset, *overrides, "steps=1000", run_dir="run", encoder=GoesBad(how), quiet=True)
    assert "\n" not in str(error.value)
    (saved,) = Path("run/failure").iterdir()
    assert weights_are_finite(saved)


def test_faulty_environment_given_in_python_is_named():
    overrides = [*SMALL_DQN, "steps=1000"]
    with pytest.raises(NonFiniteEnvError, match=r"^step [0-9,]+: observation of env 0 is nan at entry \[1\] ") as error:
        gw.train("dqn/cartpole", *overrides, run_dir="run", env=lambda: Faulty("observation"), quiet=True)
    assert "\n" not in str(error.value)
    (saved,) = Path("run/failure").iterdir()
    assert weights_are_finite(saved)


def test_run_with_own_parts_says_what_it_needs_again(capsys):
    gw.train(
        "dqn/cartpole", *SMALL_DQN, "steps=50", run_dir="run", env=lambda: gymnasium.make("CartPole-v1"), quiet=True
    )
    for command in ("resume", "evaluate"):
        assert refused(capsys, command, "run") == "run was built with its own env: pass env=... again"
