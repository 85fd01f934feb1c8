"""A run of many seeds: what it takes, what it leaves, and that it goes on as if it had never stopped."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork.__main__ import main
from graftwork.engine import NonFiniteError, accelerate, recorded
from graftwork.envs import EVALUATION, FRESH, TRAINING, EnvConfig, native_envs
from graftwork.runs import RunConfig
from graftwork.runs.build import build_run
from graftwork.runs.parts import Objects
from graftwork.training.evaluate import evaluate

CARTPOLE = "graftwork/CartPole-v1"
S, SEED, STEPS = 3, 5, 600


def config(**fields: Any) -> RunConfig:
    """Of seeds 5 to 7. The replay wraps, periods fall apart, and episodes end, and are cut short, all the time."""
    agent: dict[str, Any] = {
        **{"kind": "dqn", "encoder": {"kind": "mlp", "hidden": [8]}, "replay_capacity": 200, "learning_starts": 50},
        **{"batch_size": 8, "train_period": 4, "updates": 2, "target_period": 50},
        "epsilon": {"kind": "linear", "start": 1.0, "end": 0.1, "steps": 300},
        "learning_rate": {"kind": "linear", "start": 0.003, "end": 0.001, "steps": STEPS},
    }
    tree = {
        "seed": SEED,
        "seeds": S,
        "env": {"id": CARTPOLE, "num_envs": 2, "max_episode_steps": 25},
        "agent": agent | fields.pop("agent", {}),
        "steps": STEPS,
        "evaluation": {"period": 130, "episodes": 3, "num_envs": 2},
        "checkpoint": {"period": 100},
        "log": {"period": 70},
    }
    return RunConfig.model_validate(tree | fields)


def lone(seed: int, **fields: Any) -> RunConfig:
    return config(seed=seed, seeds=1, **fields)


def digests(run_dir: Path) -> dict[str, str]:
    final = max((run_dir / "checkpoints").glob("step_*"))
    files = [final / "state.safetensors", final / "meta.json"]
    files += [run_dir / name for name in ("metrics.jsonl", "evaluations.jsonl", "receipt.json")]
    return {str(file.relative_to(run_dir)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    return gw.train(config(), run_dir=tmp_path_factory.mktemp("seeds") / "run", quiet=True).run_dir


def rows(run_dir: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def test_each_seed_begins_as_its_own_run_does() -> None:
    parts = build_run(config(), Objects(), None)
    observed = parts.source.next().observation[0]
    for place, seed in enumerate(range(SEED, SEED + S)):
        own = build_run(lone(seed), Objects(), None)
        ours, theirs = parts.learner.network.unstacked(place).state_dict(), own.learner.network.state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert torch.equal(observed[2 * place : 2 * place + 2], own.source.next().observation[0])


def test_steps_and_periods_are_of_each_seed(reference: Path) -> None:
    evaluations, metrics = rows(reference, "evaluations.jsonl"), rows(reference, "metrics.jsonl")
    steps = [row["step"] for row in evaluations]
    # Of 8 steps a batch, at most, some are fillers.
    assert len(steps) == 5
    assert all(0 <= step - period < 8 for step, period in zip(steps, (130, 260, 390, 520, STEPS), strict=True))
    assert sum("train/loss" in row for row in metrics) >= 7
    meta = json.loads((max((reference / "checkpoints").glob("step_*")) / "meta.json").read_text())
    assert meta["tree"]["source"]["num_steps"] // S == steps[-1]
    assert meta["tree"]["learner"]["replay"]["counters"]["num_envs"] == 2 * S


def test_evaluations_tell_of_all_and_of_each(reference: Path) -> None:
    for row in rows(reference, "evaluations.jsonl"):
        assert [*row["seeds"]] == [str(seed) for seed in range(SEED, SEED + S)]
        assert row["mean"] == pytest.approx(np.mean([*row["seeds"].values()]))
        assert row["seeds"]["6"] == pytest.approx(np.mean(row["returns"][3:6]))
        assert len(row["returns"]) == row["episodes"] == 3 * S


@pytest.mark.parametrize("count", [3, 40], ids=["before the first period", "past the middle"])
def test_killed_run_resumes_to_identical_files(processes: Any, reference: Path, tmp_path: Path, count: int) -> None:
    processes.kill(tmp_path / "run", config(), [("return", "learn", count)])
    processes.run(tmp_path / "run", config())
    assert digests(tmp_path / "run") == digests(reference)


def test_a_recorded_run_is_the_eager_one(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 3)
    assert digests(gw.train(config(), run_dir=tmp_path / "run", quiet=True).run_dir) == digests(reference)


def test_updates_of_a_stack_can_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    monkeypatch.setattr(recorded, "_EAGER_FIRST", 3)
    monkeypatch.setattr(accelerate.Accelerator, "submit", lambda self, text, *rest: texts.append(text))
    gw.train(config(), run_dir=tmp_path / "run", quiet=True)
    assert sum("aten.bmm.default" in text for text in texts) >= 3  # acting, the target's part, the update


def test_each_seed_can_be_loaded_and_plays_as_it_does_among_the_others(reference: Path) -> None:
    together = gw.evaluate(reference, episodes=7)
    assert together.seeds == (5, 6, 7)
    for seed in together.seeds:
        agent = gw.load(reference, seed=seed)
        envs = native_envs(EnvConfig(id=CARTPOLE, max_episode_steps=25), 2, seed, stream=FRESH, autoreset=False)
        assert evaluate(agent, envs, 7) == together.of_seeds[seed]
        assert agent.predict(np.zeros(4, np.float32)).shape == ()
        encoder = gw.load_encoder(reference, seed=seed)
        assert torch.equal(encoder.layers[0].weight, agent.network.encoder.layers[0].weight)


def test_a_seed_that_is_given_is_that_of_everyone_s_episodes(reference: Path) -> None:
    together = gw.evaluate(reference, episodes=4, seed=9)
    assert together.seed == 9
    for seed in together.seeds:
        envs = native_envs(EnvConfig(id=CARTPOLE, max_episode_steps=25), 2, 9, stream=FRESH, autoreset=False)
        assert evaluate(gw.load(reference, seed=seed), envs, 4) == together.of_seeds[seed]


@pytest.mark.parametrize("seed", [4, 8])
def test_a_seed_that_was_not_trained_is_named(reference: Path, seed: int) -> None:
    with pytest.raises(ValueError, match=rf"^seed={seed}: {reference} trained seeds 5 to 7$"):
        gw.load(reference, seed=seed)


def test_one_of_many_has_to_be_chosen(reference: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{reference} trained seeds 5 to 7 at once: load one of them, seed=5$"):
        gw.load(reference)


def test_streams_of_episodes_share_no_seed() -> None:
    envs = [native_envs(EnvConfig(id=CARTPOLE), 2, (5, 6), stream=each) for each in (TRAINING, EVALUATION, FRESH)]
    first = torch.cat([each.reset().observation for each in envs])
    assert len(first.unique(dim=0)) == 12


def test_command_line_tells_of_the_seeds(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(reference), "--episodes", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"return [\d.]+, of 3 seeds from [\d.]+ to [\d.]+, over 4 episodes each \(step 60\d\)", lines[0]
    )
    assert [re.sub(r"[\d.]+", "x", line) for line in lines[1:]] == ["seed x: x ± x"] * S
    assert main(["evaluate", str(reference), "--episodes", "4", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [*record["seeds"]] == ["5", "6", "7"]
    assert main(["report", str(reference)]) == 0
    assert (reference / "curve.png").exists()
    assert main(["verify", str(reference)]) == 0


def test_a_preset_of_many_seeds_has_a_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["steps=200", f"env.id={CARTPOLE}", "agent.replay_capacity=1000", "agent.learning_starts=100"]
    assert main(["train", "dqn/cartpole", "seed=2", "seeds=4", *overrides, "agent.batch_size=8"]) == 0
    assert "seeds 2 to 5, 200 steps each" in capsys.readouterr().err
    assert (tmp_path / "runs/dqn-cartpole-2-to-5/config.yaml").exists()


def test_a_seed_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = build_run(config(), Objects(), None)
    monkeypatch.setattr("graftwork.runs.session.build_run", lambda *arguments: parts)
    with torch.no_grad():
        parts.learner.network.head.inner.linear.bias[1, 0] = torch.inf
    with pytest.raises(NonFiniteError, match=r"^step \d+, seed 6: loss is nan; the last finite weights are kept"):
        gw.train(config(), run_dir=tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (
            {"env": {"id": "CartPole-v1"}},
            "seeds=3: env.id=CartPole-v1 with env.backend=gymnasium is no native environm",
        ),
        ({"agent": {"kind": "pqn"}}, "seeds=3: agent.kind=pqn trains one seed at a time; use seeds=1, or dqn"),
        ({"agent": {"prioritised": {}}}, "seeds=3: agent.prioritised draws for one seed at a time; use null"),
        ({"agent": {"sequence_length": 4}}, "seeds=3: agent.sequence_length=4 is drawn for one seed; use 1"),
        ({"graft": {"run": "runs/other"}}, "seeds=3: graft is for one seed at a time; leave it out"),
        ({"log": {"layers": True}}, "seeds=3: log.layers=true tells of one network; use false"),
        ({"agent": {"head": {"noise": 0.5}}}, "agent.head.noise: seeds above 1 take no noisy layers; use null"),
        ({"seeds": 0}, "seeds=0: must be greater than 0"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_many_seeds_cannot_have_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], reason: str
) -> None:
    tree = config().model_dump(mode="json")
    for name, value in fields.items():
        is_other_kind = isinstance(value, dict) and ("id" in value or "kind" in value)
        tree[name] = value if is_other_kind or not isinstance(value, dict) else tree[name] | value
    (tmp_path / "config.yaml").write_text(json.dumps(tree))
    assert main(["train", str(tmp_path / "config.yaml"), f"run_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_seeds_are_kept_and_take_nothing_from_python(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds=4: a run keeps its seeds, 3"):
        gw.resume(reference, "seeds=4")
    network = lone(0).agent.network(native_envs(EnvConfig(id=CARTPOLE), 1, 0).spec, gw.training.seeding.Seeds(0))
    with pytest.raises(ValueError, match="seeds=3: takes no network from Python; use seeds=1"):
        gw.train(config(), run_dir=tmp_path / "run", network=network)
