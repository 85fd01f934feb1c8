"""Where the time of a run went: said at its end, recorded, and traced on demand, none of which changes the run."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.configs import load, override
from graftwork.runs import RunConfig
from graftwork.runs.config import AnyRunConfig, run_config

SMALL: dict[str, tuple[str, ...]] = {
    "dqn/cartpole": (
        *("steps=400", "agent.encoder.hidden=[8]", "agent.learning_starts=60", "agent.train_period=4"),
        *("agent.updates=1", "agent.batch_size=8"),
    ),
    "pqn/cartpole": ("steps=400", "env.num_envs=4", "agent.rollout_rows=5", "agent.encoder.hidden=[8]"),
    "reinforce/cartpole": ("steps=800", "env.num_envs=2", "agent.encoder.hidden=[8]"),
    "supervised/digits-mlp": ("epochs=3", "task.encoder.hidden=[8]"),
}
PHASES = {"learning", "batches", "evaluation", "tracking", "checkpoints", "other"}
OF_AGENTS = {"acting", "environment"}


def config(preset: str, *more: str) -> AnyRunConfig:
    tree = override(load(preset), [*SMALL[preset], "threads=1", *more])
    if "agent" in tree:
        tree = override(tree, ["env.max_episode_steps=20", "evaluation.period=150", "evaluation.episodes=2"])
    return run_config(tree, preset)


def recorded(run_dir: Path) -> list[dict[str, Any]]:
    """What is said at the end of each process of a run."""
    rows = [json.loads(line) for line in (run_dir / "timings.jsonl").read_text().splitlines()]
    return [row for row in rows if "time/run/seconds" in row]


def digests(run_dir: Path) -> dict[str, str]:
    """Of every file that identical runs share."""
    files = {str(path.relative_to(run_dir)): path for path in run_dir.rglob("*") if path.is_file()}
    own = {"timings.jsonl", ".lock", "config.yaml"}
    shared = {name: path for name, path in files.items() if name not in own and not name.startswith("profile/")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in shared.items()}


@pytest.mark.parametrize("preset", SMALL)
def test_a_run_says_where_the_time_went(tmp_path, capsys, preset):
    run = gw.train(config(preset), run_dir=tmp_path / "run", quiet=True)
    (row,) = recorded(run.run_dir)
    seconds = {name.removeprefix("time/run/"): each for name, each in row.items() if name.startswith("time/run/")}
    total, speed = seconds.pop("seconds"), seconds.pop("steps_per_second")
    more = (OF_AGENTS if isinstance(run.config, RunConfig) else set()) | ({"sampling"} if "dqn" in preset else set())
    assert seconds.keys() == PHASES | more
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) == pytest.approx(total)
    assert row["step"] == run.step
    assert speed == pytest.approx(run.step / total)
    line = re.search(r"^time: (.*) of (.*) s; (.*) steps/s$", capsys.readouterr().err, re.M)
    assert line is not None
    assert (line[2], line[3]) == (f"{total:.1f}", f"{speed:,.0f}")
    shares = dict(re.findall(r"(\w+) (\d+)%", line[1]))
    assert shares.keys() <= seconds.keys()
    assert int(shares["learning"]) == pytest.approx(100 * seconds["learning"] / total, abs=0.51)


@pytest.mark.parametrize("preset", SMALL)
def test_a_profile_changes_no_result(tmp_path, preset):
    plain = gw.train(config(preset), run_dir=tmp_path / "plain", quiet=True)
    profiled = gw.train(config(preset), run_dir=tmp_path / "profiled", quiet=True, profile=True)
    assert digests(plain.run_dir) == digests(profiled.run_dir)
    assert not (plain.run_dir / "profile").exists()
    assert {path.name for path in (profiled.run_dir / "profile").iterdir()} == {"trace.json", "summary.txt"}
    settings = (profiled.run_dir / "config.yaml").read_text()
    assert settings.replace("profiled", "plain") == (plain.run_dir / "config.yaml").read_text()
    names = {
        event["name"] for event in json.loads((profiled.run_dir / "profile" / "trace.json").read_text())["traceEvents"]
    }
    assert {"learning", "batches", "tracking"} <= names
    assert (names & OF_AGENTS == OF_AGENTS) == isinstance(profiled.config, RunConfig)


def test_a_resumed_run_tells_of_its_own_part_and_writes_beside(tmp_path):
    preset = "dqn/cartpole"
    run = gw.train(config(preset), run_dir=tmp_path / "run", quiet=True, profile=True)
    first = {path.name: path.read_bytes() for path in (run.run_dir / "profile").iterdir()}
    gw.resume(run.run_dir, quiet=True, profile=True)  # with nothing left to do
    assert {path.name: path.read_bytes() for path in (run.run_dir / "profile").iterdir()} == first
    resumed = gw.resume(run.run_dir, "steps=600", quiet=True, profile=True)
    names = {path.name for path in (run.run_dir / "profile").iterdir()}
    assert names == {"trace.json", "summary.txt", "trace-2.json", "summary-2.txt"}
    assert all((run.run_dir / "profile" / name).read_bytes() == content for name, content in first.items())
    early, late = recorded(run.run_dir)
    assert (early["step"], late["step"]) == (run.step, resumed.step)
    taken = late["time/run/steps_per_second"] * late["time/run/seconds"]
    assert taken == pytest.approx(resumed.step - run.step)


def test_each_stage_has_a_profile_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = config("supervised/digits-mlp").model_dump(mode="json", exclude={"run_dir", "seed", "device", "threads"})
    tree = {"stages": {"one": stage, "two": stage}}
    Path("two.yaml").write_text(json.dumps(tree))
    gw.train("two.yaml", run_dir="run", quiet=True, profile=True)
    assert all((Path("run") / name / "profile" / "trace.json").is_file() for name in ("one", "two"))
    assert not (Path("run") / "profile").exists()
