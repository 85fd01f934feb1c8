"""What the commands print and where, with which exit status; and that a signal loses nothing."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from importlib.metadata import entry_points, version
from pathlib import Path

import psutil
import pytest

import graftwork.runs
from graftwork.__main__ import main
from graftwork.configs import presets
from graftwork.envs import EnvironmentFailure
from graftwork.training.checkpoint import CheckpointError, load_newest

SMALL = [
    *("env.max_episode_steps=20", "agent.encoder.hidden=[8]", "agent.replay_capacity=200", "agent.learning_starts=50"),
    *("agent.batch_size=8", "agent.train_period=10", "agent.updates=1"),
    *("evaluation.period=0", "evaluation.episodes=3", "checkpoint.period=50", "log.period=50"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run of 100 steps; not to be changed."""
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):  # as with >&- 2>&-
        assert main(["train", "dqn/cartpole", *SMALL, "steps=100", f"run_dir={run_dir}"]) == 0
    return run_dir


def contents(run_dir: Path) -> dict[str, str]:
    """The hash of each file but the lock."""
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


# What needs no run.


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list"], ["train", "--help"]])
def test_instant_command_imports_nothing_slow(arguments):
    slow = ["torch", "numpy", "gymnasium", "matplotlib", "rich"]
    found = python(
        "import contextlib, sys; from graftwork.__main__ import main\n"
        f"with contextlib.redirect_stdout(None): assert main({arguments}) == 0\n"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    assert found.stdout == "[]\n", found.stderr


def test_list_has_one_line_for_each_preset(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [[p.name, p.description] for p in presets().values()]


def test_list_as_json_is_one_object(capsys):
    assert main(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [preset["name"] for preset in listed["presets"]] == list(presets())


def test_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == version("graftwork") + "\n"


def test_command_can_be_run_both_ways():
    (script,) = entry_points(group="console_scripts", name="graftwork")
    assert script.load() is main
    run = subprocess.run([sys.executable, "-m", "graftwork", "--version"], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, version("graftwork") + "\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Missing command; see `graftwork --help`"),
        (["trian"], "No such command 'trian'. Did you mean 'train'?; see `graftwork --help`"),
        (["train"], "Missing argument 'PRESET|FILE'; see `graftwork train --help`"),
        (["list", "--jsn"], "No such option: --jsn"),
        (
            ["train", "dqn/cartpole", "--seed", "3"],
            "No such option: --seed; a field is set without dashes, seed=VALUE; see `graftwork train --help`",
        ),
        (["evaluate", "run", "--episodes", "many"], "Invalid value for '--episodes'"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments, line, capsys):
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"graftwork: {line}")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list"], ["train", "--help"]])
def test_reader_that_leaves_early_is_no_error(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "graftwork", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(unbuffered):
    command = [sys.executable, "-m", "graftwork", "list"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert run.returncode == 1
    assert run.stderr.startswith("graftwork: ")
    assert run.stderr.count("\n") == 1


# What becomes of an exception.


def disk_full() -> CheckpointError:
    error = CheckpointError("checkpoint runs/x could not be saved: No space left on device")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ValueError("seed=-1: must be\n  at least 0"), 2, "graftwork: seed=-1: must be at least 0\n"),
        (EnvironmentFailure("the environment failed"), 1, "graftwork: the environment failed\n"),
        (disk_full(), 1, "graftwork: checkpoint runs/x could not be saved: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/x"), 1, "graftwork: runs/x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "graftwork: interrupted\n"),
    ],
)
def test_foreseen_error_is_one_line(error, status, line, monkeypatch, capsys):
    def fail(*arguments, profile):
        raise error

    monkeypatch.setattr(graftwork.runs, "train", fail)
    assert main(["train", "dqn/cartpole"]) == status
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), TypeError("a bug"), KeyError("another")])
def test_unforeseen_error_keeps_its_traceback(error, monkeypatch):
    def fail(*arguments, profile):
        raise error

    monkeypatch.setattr(graftwork.runs, "train", fail)
    with pytest.raises(type(error)):
        main(["train", "dqn/cartpole"])


@pytest.mark.filterwarnings("default")
def test_warning_is_one_line(monkeypatch, capsys):
    def warn(*arguments, profile):
        warnings.warn("\x1b[33mWARN: the bounds\nare odd\x1b[0m", stacklevel=1)
        raise ValueError("end")

    before = warnings.showwarning
    monkeypatch.setattr(graftwork.runs, "train", warn)
    main(["train", "dqn/cartpole"])
    assert capsys.readouterr().err == "graftwork: warning: WARN: the bounds are odd\ngraftwork: end\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_where_nothing_is_to_be_saved_ends_the_command(number, status, monkeypatch, capsys):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def wait(*arguments, profile):
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(graftwork.runs, "train", wait)
    assert main(["train", "dqn/cartpole"]) == status
    assert capsys.readouterr() == ("", "graftwork: interrupted\n")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


# A run.


def test_train_prints_result_on_stdout_and_progress_on_stderr(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", "dqn/cartpole", *SMALL, "steps=100", f"run_dir={run_dir}"]) == 0
    out, err = capsys.readouterr()
    step = load_newest(run_dir / "checkpoints").step
    evaluation = json.loads((run_dir / "evaluations.jsonl").read_text())
    lines = out.splitlines()
    assert lines[0].split() == ["run", str(run_dir)]
    assert lines[1].split() == ["step", str(step)]
    result = f"greedy return {evaluation['mean']:.1f} ± {evaluation['std']:.1f}"
    assert lines[2].split(maxsplit=1) == ["result", result]
    assert evaluation["episodes"] == 3
    commands = [line.partition("graftwork ")[2] for line in lines[4:]]
    assert commands == [f"evaluate {run_dir} --episodes 100", f"resume {run_dir} steps=200", f"report {run_dir}"]
    assert f"step {step}/100" in err
    assert "graftwork:" not in err


def test_train_says_where_the_time_went_and_where_its_profile_is(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", "dqn/cartpole", *SMALL, "steps=100", f"run_dir={run_dir}", "--profile"]) == 0
    time_line, profile_line = capsys.readouterr().err.splitlines()[-3:-1]  # the last is the progress
    assert time_line.startswith("time: ")
    assert profile_line == f"profile: {run_dir}/profile/trace.json, {run_dir}/profile/summary.txt"
    assert main(["resume", str(run_dir), "steps=150"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("time: ") for line in lines) == 1
    assert not any(line.startswith("profile: ") for line in lines)


def test_printed_command_can_be_pasted(finished, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/opt/my venv/bin/graftwork"])
    assert main(["resume", str(finished)]) == 0
    assert f"\n'/opt/my venv/bin/graftwork' report {finished}\n" in capsys.readouterr().out


def test_resume_of_a_finished_run_changes_nothing_and_says_so(finished, capsys):
    before = contents(finished)
    assert main(["resume", str(finished)]) == 0
    assert contents(finished) == before
    assert "nothing left to do" in capsys.readouterr().err


def test_resume_with_more_steps_trains_longer(tmp_path, capsys):
    run_dir = tmp_path / "run"
    assert main(["train", "dqn/cartpole", *SMALL, "steps=50", f"run_dir={run_dir}"]) == 0
    assert main(["resume", str(run_dir), "steps=100"]) == 0
    assert load_newest(run_dir / "checkpoints").step >= 100
    assert "steps: 100\n" in (run_dir / "config.yaml").read_text()


def test_evaluate_as_json_is_one_object(finished, capsys):
    assert main(["evaluate", str(finished), "--episodes", "5", "--seed", "7", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"mean", "std", "episodes", "returns", "lengths", "seed", "step"}
    assert (result["episodes"], result["seed"], len(result["returns"])) == (5, 7, 5)
    assert result["mean"] == pytest.approx(sum(result["returns"]) / 5)
    assert result["step"] == load_newest(finished / "checkpoints").step


def test_evaluate_plays_the_same_episodes_for_the_same_seed(finished, capsys):
    outputs = []
    for seed in ("7", "7", "8"):
        assert main(["evaluate", str(finished), "--episodes", "5", "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert outputs[0].startswith("return ")
    assert " over 5 episodes, from " in outputs[0]


def test_evaluate_changes_nothing(finished, capsys):
    before = contents(finished)
    assert main(["evaluate", str(finished), "--episodes", "2"]) == 0
    assert contents(finished) == before


def test_home_directory_may_be_written_with_a_tilde(finished, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(finished.parent))
    assert main(["evaluate", f"~/{finished.name}", "--episodes", "2"]) == 0


def test_terminal_that_knows_only_ascii_gets_a_question_mark(finished):
    command = [sys.executable, "-m", "graftwork", "evaluate", str(finished), "--episodes", "2"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    assert " ? " in done.stdout
    assert done.stdout.startswith("return ")


def test_report_of_one_run_is_its_curve(finished, capsys):
    assert main(["report", str(finished)]) == 0
    assert capsys.readouterr().out == f"{finished / 'curve.png'}\n"
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_report_as_json_is_one_object(finished, tmp_path, capsys):
    picture = tmp_path / "x.png"
    assert main(["report", str(finished), "--output", str(picture), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["picture"] == str(picture)
    (run,) = report["runs"]
    assert set(run) == {"run_dir", "env", "agent", "seed", "step", "mean", "std", "episodes"}
    assert picture.is_file()


def test_verify_says_that_the_run_is_reproduced(finished, capsys):
    before = contents(finished)
    assert main(["verify", str(finished)]) == 0
    updates, step, _ = json.loads((finished / "receipt.json").read_text())["updates"][-1]
    output = capsys.readouterr()
    assert output.out == f"reproduced: the first {updates} updates (to step {step}) came to the same bits\n"
    assert output.err.startswith("step ")
    assert contents(finished) == before


def test_verify_ends_with_status_1_where_bits_differ(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    receipt["updates"][1][2] = "0123456789abcdef"
    receipt["machine"]["versions"]["torch"] = "2.11.0"
    (tmp_path / "run" / "receipt.json").write_text(json.dumps(receipt))
    updates, (_, step, _) = receipt["updates"][-1][0], receipt["updates"][1]
    difference = f"update 2 of {updates}, at step {step}, is another"
    assert main(["verify", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().out == f"not reproduced: {difference} (torch was 2.11.0, is {torch_version()})\n"
    assert main(["verify", str(tmp_path / "run"), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == {
        **{"reproduced": False, "updates": updates, "step": receipt["updates"][-1][1], "difference": difference},
        "changes": {"torch": ["2.11.0", torch_version()]},
    }


def test_verify_of_what_cannot_be_verified_is_one_line_and_status_2(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("discount: 0.99", "discount: 0.9"))
    assert main(["verify", str(tmp_path / "run")]) == 2
    was = f"{config} was altered: agent.discount is 0.9, but the run began with 0.99; put it back"
    assert capsys.readouterr().err == f"graftwork: {was}\n"
    (tmp_path / "run" / "receipt.json").unlink()
    assert main(["verify", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def torch_version() -> str:
    import torch

    return str(torch.__version__)


# Signals, to real processes.


def started(run_dir: Path, *fields: str) -> subprocess.Popen[str]:
    """A process that trains, in a group of its own."""
    command = [sys.executable, "-m", "graftwork", "train", "dqn/cartpole", *SMALL, f"run_dir={run_dir}", *fields]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_saves_says_how_to_resume_and_ends_within_5_seconds(number, status, asynchronous, tmp_path, capsys):
    run_dir = tmp_path / "run"
    process = started(run_dir, "steps=10_000_000", "env.num_envs=2", f"env.asynchronous={asynchronous}")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step "):
            break
    os.killpg(process.pid, number)  # the group, as Ctrl-C and `timeout` do: the environments' processes get it too
    sent = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert process.returncode == status
    assert "Traceback" not in err
    saved = load_newest(run_dir / "checkpoints")
    assert saved.problems == ()
    last = err.splitlines()[-1]
    name = signal.Signals(number).name
    assert last.startswith(f"graftwork: {name}: saved at step {saved.step:,}; `")
    assert last.endswith(f"graftwork resume {run_dir}` continues")
    assert out == ""

    assert main(["resume", str(run_dir), f"steps={saved.step + 40}"]) == 0
    assert f"resuming {saved.path} at step {saved.step:,}" in capsys.readouterr().err
    assert load_newest(run_dir / "checkpoints").step >= saved.step + 40


HANGING_MODULE = """
import sys, time
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

class Hanging(CartPoleEnv):
    count = 0

    def step(self, action):
        self.count += 1
        if self.count > 120:
            print("hanging", file=sys.stderr, flush=True)
            time.sleep(60)
        return super().step(action)

gymnasium.register("Hanging-v0", Hanging)
"""


@pytest.mark.parametrize("asynchronous", ["false", "true"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_a_run_whose_environment_hangs_within_5_seconds(
    number, status, asynchronous, tmp_path, monkeypatch
):
    (tmp_path / "hanging_module.py").write_text(HANGING_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run_dir = tmp_path / "run"
    process = started(run_dir, "steps=10_000", "env.id=hanging_module:Hanging-v0", f"env.asynchronous={asynchronous}")
    assert process.stderr is not None
    for line in process.stderr:
        if line == "hanging\n":
            break
    os.kill(process.pid, number)
    sent = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 6  # 4 s of patience, and time to end the process on a busy machine
    assert process.returncode == status
    assert "Traceback" not in err
    saved = load_newest(run_dir / "checkpoints")
    assert 100 <= saved.step < 120
    assert f"saved at step {saved.step:,}; `" in err.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process cannot ask to end with its parent")
def test_no_process_outlives_a_trainer_that_is_killed_while_an_environment_hangs(tmp_path, monkeypatch):
    (tmp_path / "hanging_module.py").write_text(HANGING_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = started(tmp_path / "run", "steps=10_000", "env.id=hanging_module:Hanging-v0", "env.asynchronous=true")
    assert process.stderr is not None
    for line in process.stderr:
        if line == "hanging\n":
            break
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    assert children
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


SLOW_MODULE = """
import sys, time
print("making", file=sys.stderr, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_before_training_ends_it_without_a_trace(number, status, tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = started(tmp_path / "run", "steps=100", "env.id=slow_module:Slow-v0")
    assert process.stderr is not None
    assert process.stderr.readline() == "making\n"
    os.killpg(process.pid, number)
    sent = time.monotonic()
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert (process.returncode, out, err) == (status, "", "graftwork: interrupted\n")
    assert not (tmp_path / "run").exists()
