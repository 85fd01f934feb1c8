"""Both sides of a comparison, run over seeds: what is run, kept, resumed, refused and said."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

import graftwork as gw
from graftwork.__main__ import main
from graftwork.training.lock import RunLock
from graftwork.validation import job as jobs
from graftwork.validation import ours, returns, summary
from graftwork.validation.commands import table
from graftwork.validation.comparison import Along, Comparison, DQNBaseline, ScoreRange
from graftwork.validation.job import Job
from graftwork.validation.record import read

PRESET = """
steps: 1000
env: {id: CartPole-v1, max_episode_steps: 25}
agent:
  kind: dqn
  encoder: {kind: mlp, hidden: [8]}
  learning_rate: RATE
  double: false
  batch_size: 4
  replay_capacity: 200
  learning_starts: 40
  train_period: 16
  target_period: 50
checkpoint: {period: 40}
"""

# In place of a process that trains: its returns follow from side and seed, and no one waits for them.
QUICK = """
import json, os, sys, time
from pathlib import Path
directory = Path(sys.argv[1])
job = json.loads((directory / "job.json").read_text())
script = Path(__file__).with_name("script.json")
asked = json.loads(script.read_text()) if script.is_file() else {}
todo = asked.get(f"{job['side']}-{job['seed']}", "")
(directory / "starts").open("a").write("x")
if todo == "fail":
    print("starting up")
    print("ValueError: the env exploded", file=sys.stderr)
    sys.exit(3)
if todo == "die":
    os.kill(os.getpid(), 9)
if todo == "hang":
    (directory / "hangs").touch()
    time.sleep(60)
final = {"equal": 10.0, "preset": 16.0, "sb3": 10.0}[job["side"]] + 0.1 * job["seed"]
trained = {"steps": 304, "curve": [[152, 8.0], [304, final]], "final": final, "seconds": 2.0,
           "steps_per_second": 152.0, "peak_megabytes": 300.0}
versions, machine = {"torch": "2.13.0"}, {"processor": "a chip", "cores": 2, "threads": 1}
result = {"job": job, "trained": trained, "versions": versions, "machine": machine}
(directory / "result.json").write_text(json.dumps(result))
"""


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    equal, preset = tmp_path / "equal.yaml", tmp_path / "preset.yaml"
    equal.write_text(PRESET.replace("RATE", "1e-3"))
    preset.write_text(PRESET.replace("RATE", "2e-3"))
    return Comparison(
        name="dqn-toy",
        preset=str(preset),
        equal=str(equal),
        baseline=DQNBaseline(),
        range=ScoreRange(random=9, best=24),
        steps=300,
        evaluation=Along(period=150, episodes=2),
    )


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    script = tmp_path / "quick.py"
    script.write_text(QUICK)
    monkeypatch.setattr(returns, "COMMAND", (sys.executable, "-S", str(script)))
    for name in ("interval", "difference"):  # what they come to is tested elsewhere
        monkeypatch.setattr(summary, name, partial(getattr(summary, name), replicates=200))
    return script.with_name("script.json")


def run(comparison: Comparison, seeds: int, tmp_path: Path, lines: list[str] | None = None, **options: Any) -> Any:
    said = [] if lines is None else lines
    where = {"runs": tmp_path / "runs", "out": tmp_path / "out", **options}
    return returns.run(comparison, seeds, command="graftwork validate", say=said.append, **where)


def starts(tmp_path: Path) -> dict[str, int]:
    """How often each run was begun."""
    return {path.parent.name: len(path.read_text()) for path in (tmp_path / "runs").rglob("starts")}


def test_all_sides_are_run_and_compared(comparison, quick, tmp_path):
    lines: list[str] = []
    record = run(comparison, 5, tmp_path, lines)
    assert record == read(tmp_path / "out", "dqn-toy")
    assert [(row.side, row.seed) for row in record.rows] == [
        (s, i) for s in ("equal", "preset", "sb3") for i in range(5)
    ]
    row = record.rows[6]
    assert (row.final, row.area, row.steps, row.failed) == (16.1, pytest.approx(12.05), 304, True)
    assert [(point.step, point.return_) for point in record.points[:2]] == [(152, 8.0), (304, 10.0)]
    assert record.results["sb3"].iqm[0] == pytest.approx(10.2)  # mean of 10.1 to 10.3, the middle half
    assert record.results["preset"].mean == pytest.approx(16.2)
    assert record.results["preset"].failure_rate == 1.0  # 16.4 is below 16.5, the middle of 9 and 24
    assert record.against_sb3["equal"].difference[0] == 0.0
    assert record.against_sb3["equal"].probability_of_improvement[0] == 0.5
    assert record.against_sb3["preset"].difference[0] == pytest.approx(6.0 / 15)
    assert record.against_sb3["preset"].verdict == "better"
    assert record.versions == {"torch": "2.13.0"}
    assert record.declared_seeds == 20
    assert record.command == "graftwork validate --seeds 5"
    assert lines[0] == f"dqn-toy: 0 of 15 runs are done, {jobs.cores()} at a time"
    assert len(lines) == 16
    assert lines[-1].endswith("; none left")


def test_what_is_done_is_not_done_again(comparison, quick, tmp_path):
    three = run(comparison, 3, tmp_path)
    five = run(comparison, 5, tmp_path)
    assert set(starts(tmp_path).values()) == {1}
    assert len(five.rows) == 15
    assert [row for row in five.rows if row.seed < 3] == list(three.rows)
    again = run(comparison, 3, tmp_path)
    assert again == five
    assert again.command.endswith("--seeds 5")  # that makes all the rows


def test_seeds_count_from_the_declared_first(comparison, quick, tmp_path):
    later = comparison.model_copy(update={"first_seed": 7})
    assert run(later, 3, tmp_path).seeds == [7, 8, 9]
    four = run(later, 4, tmp_path)
    assert four.seeds == [7, 8, 9, 10]
    assert set(starts(tmp_path).values()) == {1}
    assert four.command.endswith("--seeds 4")
    assert run(later, 3, tmp_path).command.endswith("--seeds 4")


def test_rows_that_are_written_count_as_done_without_their_runs(comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    whole = run(comparison, 5, tmp_path, runs=tmp_path / "elsewhere")
    assert {path.parent.name for path in (tmp_path / "elsewhere").rglob("starts")} == {
        f"{side}-{seed}" for side in ("equal", "preset", "sb3") for seed in (3, 4)
    }
    assert whole.seeds == [0, 1, 2, 3, 4]


def test_failed_run_is_named_and_what_is_done_is_kept(comparison, quick, tmp_path):
    quick.write_text(json.dumps({"sb3-3": "fail"}))
    with pytest.raises(ChildProcessError) as error:
        run(comparison, 5, tmp_path, jobs=1)
    log = tmp_path / "runs/dqn-toy/sb3-3/log.txt"
    expected = f"sb3, seed 3, failed: ValueError: the env exploded (exit status 3; all of it in {log})"
    assert str(error.value) == expected
    assert read(tmp_path / "out", "dqn-toy").seeds == [0, 1, 2]
    quick.unlink()
    assert run(comparison, 5, tmp_path).seeds == [0, 1, 2, 3, 4]
    assert starts(tmp_path)["sb3-3"] == 2
    assert starts(tmp_path)["preset-2"] == 1


def test_partial_result_has_equal_seeds_on_all_sides_and_intervals_from_three_on(comparison, quick, tmp_path):
    quick.write_text(json.dumps({"preset-2": "fail"}))
    with pytest.raises(ChildProcessError):
        run(comparison, 3, tmp_path, jobs=1)
    partial = read(tmp_path / "out", "dqn-toy")
    assert {(row.side, row.seed) for row in partial.rows} == {(s, i) for s in partial.sides for i in range(2)}
    assert partial.results == partial.against_sb3 == {}
    assert table(partial).startswith("CartPole-v1, 300 steps, range 9 to 24, margin 5% of it")


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Also where a shell has started the tests in its background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_interrupt_ends_the_processes_and_keeps_what_is_done(comparison, quick, tmp_path):
    quick.write_text(json.dumps({"equal-2": "hang"}))
    hangs = tmp_path / "runs/dqn-toy/equal-2/hangs"

    def interrupt() -> None:
        table = tmp_path / "out/dqn-toy.csv"
        while not (hangs.exists() and table.exists() and "sb3,1," in table.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(comparison, 3, tmp_path)
    thread.join()
    left = [child for child in psutil.Process().children(recursive=True) if "quick.py" in " ".join(child.cmdline())]
    assert left == []
    assert read(tmp_path / "out", "dqn-toy").seeds == [0, 1]


@pytest.mark.parametrize("removed", [None, "runs", "out"], ids=["both there", "without runs", "without out"])
def test_other_settings_are_refused_by_their_first_field(removed, comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    if removed is not None:
        (tmp_path / removed).rename(tmp_path / "gone")
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*")}
    changed = comparison.model_copy(update={"overrides": ("agent.discount=0.5",)})
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        run(changed, 3, tmp_path)
    changed_field = "was run with agent.discount=0.99, now 0.5: delete it, or give another"
    if removed == "out":
        assert str(error.value) == f"{tmp_path}/runs/dqn-toy/preset-0 {changed_field} --runs"
    else:
        assert str(error.value) == f"{tmp_path}/out/dqn-toy.json: side preset {changed_field} --out"
    assert {path: path.read_bytes() for path in (tmp_path / "out").glob("*")} == before


def test_margin_seeds_and_range_cannot_change_afterwards(comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    with pytest.raises(ValueError, match=r"dqn-toy.json: was declared with margin=0.05, now 0.1: delete it"):
        run(comparison.model_copy(update={"margin": 0.1}), 3, tmp_path)
    with pytest.raises(ValueError, match=r"dqn-toy.json: was declared with seeds=20, now 5: delete it"):
        run(comparison.model_copy(update={"seeds": 5}), 3, tmp_path)
    wider = ScoreRange(random=9, best=25)
    with pytest.raises(ValueError, match=r"was declared with range=\[9.0, 24.0\], now \[9.0, 25.0\]"):
        run(comparison.model_copy(update={"range": wider}), 3, tmp_path)


def test_two_machines_are_both_named(comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    script = tmp_path / "quick.py"
    script.write_text(QUICK.replace("a chip", "another").replace("2.13.0", "2.14.0"))
    record = run(comparison, 4, tmp_path)
    assert record.machine.processor == "a chip; another"
    assert record.versions == {"torch": "2.13.0, 2.14.0"}


@pytest.mark.parametrize(
    ("seeds", "options", "text"),
    [
        (2, {}, "an interval needs at least 3 seeds, got 2"),
        (3, {"jobs": 0}, "--jobs 0: must be from 1 to "),
        (3, {"jobs": 99}, "--jobs 99: must be from 1 to "),
    ],
)
def test_impossible_request_is_refused_before_anything_is_run(seeds, options, text, comparison, quick, tmp_path):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        run(comparison, seeds, tmp_path, **options)
    assert str(error.value).startswith(text)
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["runs", "out"])
def test_directory_that_cannot_be_made_is_refused_before_anything_is_run(option, comparison, quick, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"^--{option}: {tmp_path}/file/x[^\n]*: Not a directory$"):
        run(comparison, 3, tmp_path, **{option: tmp_path / "file/x"})
    assert starts(tmp_path) == {}


def test_second_call_is_told_that_the_first_is_at_work(comparison, quick, tmp_path):
    (tmp_path / "runs/dqn-toy").mkdir(parents=True)
    with RunLock(tmp_path / "runs/dqn-toy"), pytest.raises(ValueError, match=rf"in use by process {os.getpid()}; "):
        run(comparison, 3, tmp_path)
    assert starts(tmp_path) == {}
    assert run(comparison, 3, tmp_path).seeds == [0, 1, 2]


def test_log_of_an_earlier_process_is_kept_and_is_not_the_reason_of_a_later_one(comparison, quick, tmp_path):
    log = tmp_path / "runs/dqn-toy/sb3-0/log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("as it was\n")
    quick.write_text(json.dumps({"sb3-0": "die"}))
    with pytest.raises(
        ChildProcessError, match=r"^sb3, seed 0, failed: no word of it \(ended by signal 9; all of it in "
    ):
        run(comparison, 3, tmp_path)
    assert log.read_text() == "as it was\n"


@pytest.mark.parametrize("copied", ["result.json", "job.json"])
def test_copied_run_is_not_another_seed(copied, comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    folder = tmp_path / "runs/dqn-toy"
    (folder / f"sb3-1/{copied}").write_bytes((folder / f"sb3-0/{copied}").read_bytes())
    expected = rf"^{folder}/sb3-1: is of sb3, seed 0; delete it, and that seed is run again$"
    with pytest.raises(ValueError, match=expected):
        run(comparison, 3, tmp_path)


def test_damaged_result_is_named(comparison, quick, tmp_path):
    run(comparison, 3, tmp_path)
    path = tmp_path / "runs/dqn-toy/sb3-1/result.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"sb3-1/result.json: is no JSON; delete it, and that seed is run again$"):
        run(comparison, 3, tmp_path)


# By the command line.


@pytest.fixture
def declared(comparison: Comparison, quick: Path, monkeypatch: pytest.MonkeyPatch) -> Comparison:
    found = dict.fromkeys(["dqn-toy"], comparison)
    monkeypatch.setattr("graftwork.validation.comparison.declared", lambda: found)
    return comparison


def command(tmp_path: Path, *arguments: str) -> int:
    return main(["validate", "returns", *arguments, "--runs", f"{tmp_path}/runs", "--out", f"{tmp_path}/out"])


def test_table_is_printed_and_what_happens_told_apart(declared, tmp_path, capsys):
    assert command(tmp_path, "dqn-toy", "--seeds", "5") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "CartPole-v1, 300 steps, range 9 to 24, margin 5% of it"
    assert len(lines) == 5
    assert "5 of 20  16.2 [" in lines[3]
    assert lines[3].endswith("better +40.0% [+38.9, +41.1]")
    assert lines[4].startswith("SB3 DQN")
    assert err.splitlines()[0].startswith("dqn-toy: 0 of 15 runs are done")
    assert sorted(path.name for path in (tmp_path / "out/returns").iterdir()) == [
        *("dqn-toy-curves.csv", "dqn-toy.csv", "dqn-toy.json")
    ]
    assert (
        read(tmp_path / "out/returns", "dqn-toy").command
        == "graftwork validate returns dqn-toy --against sb3 --seeds 5"
    )


def test_json_is_one_object(declared, tmp_path, capsys):
    assert command(tmp_path, "dqn-toy", "--seeds", "3", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out/returns/dqn-toy.json").read_text())


def test_worse_is_exit_status_1(declared, tmp_path, capsys):
    script = tmp_path / "quick.py"
    script.write_text(QUICK.replace('"preset": 16.0', '"preset": 6.0'))
    assert command(tmp_path, "dqn-toy", "--seeds", "3") == 0
    assert "undecided, a verdict needs 5 seeds -26.7%" in capsys.readouterr().out
    assert command(tmp_path, "dqn-toy", "--seeds", "5") == 1
    assert "worse -26.7%" in capsys.readouterr().out


def test_seeds_are_as_many_as_were_declared(declared, tmp_path, monkeypatch, capsys):
    asked: list[int] = []

    def refuse(comparison: Comparison, num_seeds: int, **_: object) -> None:
        asked.append(num_seeds)
        raise ValueError("enough")

    monkeypatch.setattr(returns, "run", refuse)
    assert command(tmp_path, "dqn-toy") == 2
    assert asked == [20]


def test_failed_run_is_one_line_and_exit_status_1(declared, quick, tmp_path, capsys):
    quick.write_text(json.dumps({"preset-1": "fail"}))
    assert command(tmp_path, "dqn-toy", "--seeds", "3", "--jobs", "1") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("graftwork: preset, seed 1, failed: ValueError: the env exploded")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["dqn-toi"], "graftwork: dqn-toi: no such preset; did you mean dqn-toy?"),
        (["dqn-toy", "--seeds", "2"], "graftwork: an interval needs at least 3 seeds, got 2"),
        (["dqn-toy", "--against", "rllib"], "graftwork: Invalid value for '--against'"),
        (["dqn-toy", "--range", "1", "0"], "graftwork: range.best=0 must be above range.random=1 (in --range)"),
        (["dqn/atari-machado"], "graftwork: dqn/atari-machado: no comparison is declared; give --range RANDOM BEST"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(arguments, text, declared, tmp_path, capsys):
    assert command(tmp_path, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert err.count("\n") == 1


def test_missing_sb3_is_one_line_that_names_the_extra(declared, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    assert command(tmp_path, "dqn-toy") == 2
    assert capsys.readouterr().err == ("graftwork: stable-baselines3 is not installed: pip install 'graftwork[sb3]'\n")


# With processes that train.


def test_processes_train_both_sides(comparison, tmp_path):
    """Each run of ours is an ordinary one; and so is its result that of the command line."""
    plain = comparison.model_copy(update={"preset": comparison.equal})
    lines: list[str] = []
    record = run(plain, 3, tmp_path, lines)
    assert {(row.side, row.steps) for row in record.rows} >= {("sb3", 304)}
    assert {point.step for point in record.points if point.side == "sb3"} == {160, 304}
    assert all(row.peak_megabytes > 50 and row.seconds > 0 for row in record.rows)
    assert record.versions["torch"] == version("torch")
    own = gw.evaluate(tmp_path / "runs/dqn-toy/equal-1/run", episodes=100)
    (row,) = (row for row in record.rows if (row.side, row.seed) == ("equal", 1))
    assert row.final == pytest.approx(own.mean, abs=1e-4)
    assert "SB3 DQN" in table(record)


def test_a_run_of_ours_that_was_stopped_goes_on(comparison, tmp_path):
    """To the same curve and the same end as one that was not, each step's time counted once."""
    longer = comparison.model_copy(update={"steps": 2_000, "overrides": ("checkpoint.period=300",)})
    side = longer.sides()["preset"]
    config = side.config.model_copy(update={"seed": 5})
    asked = Job(side="preset", seed=5, config=config, arguments=None, settings={}, episodes=4)
    whole = ours.train(asked, tmp_path / "whole")

    def stop() -> None:
        while not list((tmp_path / "halves").glob("run/checkpoints/step_000000000[3-9]*")):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(ours.Signalled) as error:
        ours.train(asked, tmp_path / "halves")
    thread.join()
    assert error.value.number == signal.SIGTERM
    halves = ours.train(asked, tmp_path / "halves")
    assert (halves.curve, halves.final, halves.steps) == (whole.curve, whole.final, whole.steps)
    assert sum(steps for steps, _ in json.loads((tmp_path / "halves/times.json").read_text())) == whole.steps
    assert halves.seconds == pytest.approx(halves.steps / halves.steps_per_second)


def test_damaged_times_are_named(comparison, tmp_path):
    (tmp_path / "times.json").write_text("[[304, 1.5]")
    side = comparison.sides()["equal"]
    asked = Job(side="equal", seed=0, config=side.config, arguments=None, settings={}, episodes=4)
    with pytest.raises(
        ValueError, match=r"^\S*/times.json: is damaged; delete it, and that seed's time is taken again$"
    ):
        ours.train(asked, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no one tells a process that its parent has died")
def test_process_without_its_parent_ends_before_it_trains(tmp_path):
    found = subprocess.run([*returns.COMMAND, str(tmp_path), str(os.getppid())], capture_output=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (128 + signal.SIGTERM, b"", b"")


def test_run_that_ended_before_its_time_was_noted_is_trained_again(comparison, tmp_path):
    side = comparison.sides()["equal"]
    asked = Job(side="equal", seed=0, config=side.config, arguments=None, settings={}, episodes=4)
    before = ours.train(asked, tmp_path)
    (tmp_path / "times.json").unlink()
    again = ours.train(asked, tmp_path)
    assert (again.curve, again.final) == (before.curve, before.final)
    assert again.seconds > 0
