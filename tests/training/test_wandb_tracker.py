"""The tracker against a fake `wandb` module, which misbehaves on demand."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graftwork.training import wandb_tracker
from graftwork.training.wandb_tracker import WandbTracker

# Appends what it is told to the file FAKE_WANDB_CALLS; FAKE_WANDB says what goes wrong.
FAKE_WANDB = """
import json, os, sys, time
fault = os.environ.get("FAKE_WANDB", "")
def note(*call):
    with open(os.environ["FAKE_WANDB_CALLS"], "a") as file:
        file.write(json.dumps(call) + "\\n")
class Settings:
    def __init__(self, **settings): self.__dict__.update(settings)
class Run:
    def define_metric(self, name, **options): note("define_metric", name, options)
    def log(self, metrics, step):
        note("log", metrics, step)
        if fault == "log raises": raise RuntimeError("cannot log\\nat all")
        if fault == "dies": os._exit(11)
    def finish(self, exit_code):
        if fault == "finish hangs": time.sleep(20)
        note("finish", exit_code)
def init(settings, config, **options):
    note("init", config, options, vars(settings))
    print("a banner"); print("a banner", file=sys.stderr); os.system("echo a banner")
    if fault == "init raises": raise ValueError("no key")
    while fault and os.path.exists(fault): time.sleep(0.01)
    return Run()
"""


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "home" / ".netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # wandb's own telemetry


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """Puts the fake module in wandb's place; returns a function for the calls that it got so far."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(FAKE_WANDB)
    calls = tmp_path / "calls.jsonl"
    calls.touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(calls))
    return lambda: [json.loads(line) for line in calls.read_text().splitlines()]


def wait_for(claim: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def of_kind(calls: list[Any], kind: str) -> list[Any]:
    return [call[1:] for call in calls if call[0] == kind]


def test_metrics_reach_wandb_by_environment_step_and_nothing_is_said(
    run_dir: Path, fake: Callable[[], list[Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = WandbTracker(
        {"agent": {"kind": "dqn"}}, run_dir, "p", "team", "offline", "name", warn=pytest.fail, patience=30.0
    )
    tracker.log({"train/loss": 0.5, "time/update": float("nan")}, 300)
    tracker.log({"train/loss": 0.25}, 500)
    tracker.close(3)
    (config, options, settings), *_ = of_kind(fake(), "init")
    assert config == {"agent": {"kind": "dqn"}}
    assert options == {
        "project": "p",
        "entity": "team",
        "mode": "offline",
        "name": "name",
        "dir": str(run_dir),
        "id": json.loads((run_dir / "wandb.json").read_text())["run_id"],
        "resume": "allow",
    }
    assert (settings["console"], settings["init_timeout"]) == ("off", 20)
    assert of_kind(fake(), "define_metric") == [
        ["environment_steps", {"hidden": True}],
        ["*", {"step_metric": "environment_steps"}],
    ]
    (first, first_step), second = of_kind(fake(), "log")
    assert second == [{"environment_steps": 500, "train/loss": 0.25}, 500]
    assert first_step == 300
    assert first["time/update"] != first["time/update"]
    assert of_kind(fake(), "finish") == [[3]]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_keeps_its_id_and_another_run_has_another(
    tmp_path: Path, run_dir: Path, fake: Callable[[], list[Any]]
) -> None:
    (tmp_path / "other").mkdir()
    for directory in (run_dir, run_dir, tmp_path / "other"):
        WandbTracker({}, directory, warn=pytest.fail, patience=30.0).close()
    first, again, other = [options["id"] for _, options, _ in of_kind(fake(), "init")]
    assert first == again != other
    assert [path.name for path in run_dir.iterdir()] == ["wandb.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"run_id": 3}', "[]"])
def test_a_damaged_run_id_is_one_line_that_names_the_file(run_dir: Path, text: str) -> None:
    (run_dir / "wandb.json").write_text(text)
    with pytest.raises(ValueError, match=r"wandb\.json: expected .* delete the file to start a new W&B run$") as caught:
        WandbTracker({}, run_dir, warn=pytest.fail)
    assert "\n" not in str(caught.value)


def test_the_user_may_set_the_time_to_wait_for_init(
    run_dir: Path, fake: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "90")
    WandbTracker({}, run_dir, warn=pytest.fail, patience=30.0).close()
    assert "init_timeout" not in of_kind(fake(), "init")[0][2]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("init raises", "ValueError: no key"),
        ("log raises", "RuntimeError: cannot log at all"),
        ("dies", "its process died"),
    ],
)
def test_a_failure_is_said_once_while_training_goes_on(
    run_dir: Path, fake: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    monkeypatch.setenv("FAKE_WANDB", fault)
    lines: list[str] = []
    tracker = WandbTracker({}, run_dir, warn=lines.append)

    def log() -> bool:
        tracker.log({"x": 1.0}, 3)
        return bool(lines)

    wait_for(log)  # so it is said long before the end
    tracker.close()
    assert lines == [f"W&B: {said}; training is not affected, the local files are complete"]


def test_a_wandb_that_never_starts_costs_neither_time_nor_memory(
    tmp_path: Path, run_dir: Path, fake: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_tracker, "_MAX_WAITING", 5)
    hold = tmp_path / "hold"
    hold.touch()
    monkeypatch.setenv("FAKE_WANDB", str(hold))  # init waits while the file is there
    lines: list[str] = []
    tracker = WandbTracker({}, run_dir, warn=lines.append, patience=30.0)
    start = time.monotonic()
    tracker.log({"x" * 100_000: 1.0}, 0)  # more than a pipe takes
    for step in range(1, 1001):
        tracker.log({"x": 1.0}, step)
    assert time.monotonic() - start < 2.0
    assert tracker._waiting.qsize() <= 5
    hold.unlink()
    tracker.close()
    assert len(lines) == 1
    assert lines[0].startswith("W&B: too slow, 5 rows wait and the oldest are being dropped;")
    steps = [step for _, step in of_kind(fake(), "log")]
    assert steps[-4:] == [997, 998, 999, 1000]
    assert steps == sorted(steps)
    assert of_kind(fake(), "finish") == [[0]]


def test_close_gives_up_after_its_patience_and_says_so(
    run_dir: Path, fake: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_WANDB", "finish hangs")
    lines: list[str] = []
    tracker = WandbTracker({}, run_dir, warn=lines.append, patience=0.5)
    tracker.log({"x": 1.0}, 3)
    start = time.monotonic()
    tracker.close()
    tracker.close()
    tracker.log({"x": 1.0}, 5)
    assert 0.4 < time.monotonic() - start < 2.0
    assert len(lines) == 1
    assert lines[0].startswith("W&B: still busy 0.5 s after the end")


def test_the_wandb_process_does_not_live_for_ever() -> None:
    code = (
        "import time\n"
        "from graftwork.training import wandb_tracker\n"
        "wandb_tracker._LINGER = 0.1\n"
        "wandb_tracker._limit_life()\n"
        "time.sleep(50)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=40, check=False).returncode == 1


def test_disabled_starts_nothing(run_dir: Path, fake: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    explicit = WandbTracker({}, run_dir, mode="disabled", warn=pytest.fail)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for tracker in (explicit, WandbTracker({}, run_dir, warn=pytest.fail)):
        tracker.log({"x": 1.0}, 3)
        tracker.close()
    assert list(run_dir.iterdir()) == []
    assert fake() == []
