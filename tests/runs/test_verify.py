"""What `verify` says: the same bits, or the first update that is another, and what may have made it so."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

import graftwork as gw
from graftwork.networks import MLPConfig
from graftwork.runs import RunConfig, TaskRunConfig
from graftwork.runs.config import AnyRunConfig
from graftwork.runs.machine import processor
from graftwork.tasks import from_arrays


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


def agent(kind: str = "dqn", **fields: Any) -> RunConfig:
    """A run of 300 steps; DQN's makes 2 updates in 8 steps."""
    settings: dict[str, Any] = {"kind": kind, "encoder": {"kind": "mlp", "hidden": [8]}}
    if kind == "dqn":
        settings |= {"replay_capacity": 200, "learning_starts": 50, "batch_size": 8, "train_period": 4, "updates": 2}
    if kind == "pqn":
        settings |= {"rollout_rows": 4, "epochs": 2, "minibatches": 2}
    tree = {
        "env": {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 25},
        "agent": settings | fields.pop("agent", {}),
        "steps": 300,
        "evaluation": {"period": 130, "episodes": 3, "num_envs": 2},
        "checkpoint": {"period": 100},
        "log": {"period": 70, "layers": True},
    }
    return RunConfig.model_validate(tree | fields)


def task(**fields: Any) -> TaskRunConfig:
    tree = {
        "data": {"name": "transitions:CartPole-v1", "samples": 100},
        "task": {
            "encoder": {"kind": "mlp", "hidden": [8], "norm": "batch", "dropout": 0.2},
            "heads": {"change": {"given": "action"}, "terminated": {"batch_size": 25}},
            "batch_size": 15,
        },
        "epochs": 4,
        "evaluation": {"patience": 1},
    }
    return TaskRunConfig.model_validate(tree | fields)


def train(config: AnyRunConfig, run_dir: str = "run", **objects: Any) -> Path:
    return gw.train(config, run_dir=run_dir, quiet=True, **objects).run_dir


def verify(run_dir: str | Path = "run", **objects: Any) -> gw.runs.Verification:
    return gw.verify(run_dir, quiet=True, **objects)


def edit(change: Callable[[dict[str, Any]], None], run_dir: str = "run") -> None:
    """Change the receipt."""
    path = Path(run_dir, "receipt.json")
    receipt = json.loads(path.read_text())
    change(receipt)
    path.write_text(json.dumps(receipt))


def rows(run_dir: str | Path = "run") -> list[list[Any]]:
    """Of the receipt: updates, step, digest."""
    found: list[list[Any]] = json.loads(Path(run_dir, "receipt.json").read_text())["updates"]
    return found


def contents(run_dir: str = "run") -> dict[str, str]:
    files = [path for path in Path(run_dir).rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DQN; not to be changed."""
    return train(agent(), str(tmp_path_factory.mktemp("trained") / "run"))


@pytest.fixture
def run(trained: Path, elsewhere: None) -> Path:
    """A copy of it."""
    shutil.copytree(trained, "run")
    return Path("run")


# The same bits.

MEMORY = {"kind": "lstm", "hidden_size": 6, "inner": {"kind": "mlp", "hidden": [8]}}
EVERYTHING = {
    "encoder": MEMORY,
    **{"sequence_length": 6, "burn_in": 2, "prioritised": {}, "n_step": 3, "value": {"kind": "quantile"}},
    **{"head": {"noise": 0.5, "dueling": True}, "munchausen": {}},
}
CONFIGS: dict[str, AnyRunConfig] = {
    "dqn": agent(),
    "dqn with everything": agent(agent=EVERYTHING),
    "pqn": agent("pqn"),
    "reinforce": agent("reinforce"),
    "reinforce with a memory": agent("reinforce", agent={"encoder": MEMORY}),
    "in processes": agent(env={"id": "CartPole-v1", "num_envs": 2, "asynchronous": True}),
    "task": task(),
    "ensemble": task(task={"encoder": {"kind": "mlp", "hidden": [8]}, "heads": {"terminated": {}}, "members": 3}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_same_machine_comes_to_the_same_bits(name):
    train(CONFIGS[name])
    before = contents()
    verification = verify()
    assert verification.reproduced, verification
    assert verification.updates == rows()[-1][0] > 1
    assert contents() == before


def test_text_says_how_far(run):
    updates, step, _ = rows(run)[-1]
    assert str(verify()) == f"reproduced: the first {updates} updates (to step {step}) came to the same bits"


def test_single_update_is_a_single_update():
    train(agent("reinforce", steps=1))
    assert re.fullmatch(r"reproduced: the first update \(to step \d+\) came to the same bits", str(verify()))


def test_record_is_what_the_text_says(run):
    updates, step, _ = rows(run)[-1]
    plain = {"updates": updates, "step": step, "changes": {}}
    assert verify().record() == {"reproduced": True, "difference": None, **plain}
    edit(lambda receipt: receipt["updates"][-1].__setitem__(2, "0" * 16))
    difference = f"one of updates {updates - 1} to {updates} of {updates}, at step {step}, came to something else"
    assert verify().record() == {"reproduced": False, "difference": difference, **plain}


def test_only_as_much_is_replayed_as_the_receipt_tells_of():
    train(agent(steps=900))
    assert rows()[-1][0] == 100
    assert verify().step == rows()[-1][1] < 600


def test_run_that_was_resumed_is_verified_from_its_beginning(run):
    before = rows()
    gw.resume("run", "steps=350", "evaluation.episodes=1", quiet=True)
    assert verify().reproduced
    assert verify().updates == rows()[-1][0] > before[-1][0]


def test_run_that_went_on_with_other_settings_is_verified_with_the_first(run):
    before = rows()
    gw.resume("run", "steps=350", "agent.learning_rate=0.003", quiet=True)
    assert verify().reproduced
    assert verify().updates == rows()[-1][0] == before[-1][0]


class Watching(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Sees the number of threads at each step."""

    seen: ClassVar[list[int]] = []

    def step(self, action: Any) -> Any:
        Watching.seen.append(torch.get_num_threads())
        return super().step(action)


def test_threads_are_those_of_the_run():
    train(agent(threads=3), wrapper=Watching)
    before = torch.get_num_threads()
    Watching.seen.clear()
    assert verify(wrapper=Watching).reproduced
    assert set(Watching.seen) == {3} != {before}
    assert torch.get_num_threads() == before


# Others.


@pytest.mark.parametrize(
    ("place", "difference"),
    [
        (("weights_before",), "the weights before the first update are others"),
        (("updates", 0, 2), "one of updates 1 to 2 of {total}, at step {steps[0]}, came to something else"),
        (("updates", 16, 2), "one of updates 33 to 34 of {total}, at step {steps[16]}, came to something else"),
        (("weights_after",), "the weights after update {total} of {total} are others"),
    ],
    ids=str,
)
def test_one_flipped_digit_is_told(run, place, difference):
    told = difference.format(steps=[row[1] for row in rows(run)], total=rows(run)[-1][0])

    def flip(receipt: dict[str, Any]) -> None:
        *path, last = place
        owner: Any = receipt
        for key in path:
            owner = owner[key]
        owner[last] = owner[last][:-1] + ("0" if owner[last][-1] != "0" else "1")

    edit(flip)
    hint = "same versions, processor and threads; is the environment determined by its seed?"
    assert str(verify()) == f"not reproduced: {told} ({hint})"


def test_lone_update_that_is_another_is_named():
    train(agent("reinforce"))
    edit(lambda receipt: receipt["updates"][2].__setitem__(2, "0" * 16))
    told = f"not reproduced: update 3 of {len(rows())}, at step {rows()[2][1]}, is another ("
    assert str(verify()).startswith(told)


def test_update_at_another_step_is_another(run):
    edit(lambda receipt: receipt["updates"][0].__setitem__(1, receipt["updates"][0][1] - 1))
    assert str(verify()).startswith("not reproduced: one of updates 1 to 2 of ")


def test_what_has_changed_is_named_in_either_case(run):
    edit(lambda receipt: receipt["machine"]["versions"].__setitem__("torch", "2.11.0"))
    edit(lambda receipt: receipt["machine"].__setitem__("processor", "Difference Engine"))
    told = f"torch was 2.11.0, is {torch.__version__}, processor was Difference Engine, is {processor()}"
    assert str(verify()).endswith(f" came to the same bits, though {told}")
    edit(lambda receipt: receipt.__setitem__("weights_after", "0" * 16))
    assert str(verify()).endswith(f" are others ({told})")


def test_device_that_is_not_there_is_told(run):
    edit(lambda receipt: receipt["machine"].update(device="cuda:7", gpu="NVIDIA H100"))
    if not torch.cuda.is_available():
        assert str(verify()).endswith("same bits, though gpu was NVIDIA H100, is none, device was cuda:7, is cpu")
        assert verify().changes == {"gpu": ("NVIDIA H100", "none"), "device": ("cuda:7", "cpu")}


class Counting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Rewards that depend on how many steps were ever taken, or a failure after so many."""

    steps, fails_at = 0, 10**9

    def step(self, action: Any) -> Any:
        observation, _, *rest = super().step(action)
        Counting.steps += 1
        if Counting.steps == Counting.fails_at:
            raise RuntimeError("out of paper")
        return (observation, Counting.steps / 100, *rest)


def test_environment_that_its_seed_does_not_determine_is_not_reproduced(monkeypatch):
    monkeypatch.setattr(Counting, "steps", 0)
    train(agent("reinforce"), wrapper=Counting)
    verification = verify(wrapper=Counting)
    assert re.match(r"not reproduced: update 1 of \d+, at step \d+, is another", str(verification))
    assert str(verification).endswith("; look at the wrapper given in Python)")


def test_environment_that_fails_is_not_reproduced(monkeypatch):
    monkeypatch.setattr(Counting, "steps", 0)
    train(agent("reinforce"), wrapper=Counting)
    monkeypatch.setattr(Counting, "fails_at", Counting.steps + 5)
    told = str(verify(wrapper=Counting))
    assert re.match(r"not reproduced: update 1 of \d+, at step \d+, failed: .*out of paper", told)
    assert "\n" not in told


# Objects and grafts.


def encoder(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return MLPConfig(hidden=(6,)).build(gymnasium.make("CartPole-v1").observation_space)


def test_encoder_that_is_given_again_is_left_as_it_is():
    train(agent(), encoder=encoder())
    given = encoder()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    assert verify(encoder=given).reproduced
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert all(parameter.grad is None for parameter in given.parameters())


def test_encoder_with_other_weights_is_told():
    train(agent(), encoder=encoder())
    told = "same versions, processor and threads; look at the encoder given in Python"
    assert str(verify(encoder=encoder(1))) == f"not reproduced: the weights before the first update are others ({told})"


def test_objects_that_are_missing_are_asked_for_as_resume_does():
    train(agent(), encoder=encoder())
    with pytest.raises(ValueError, match=r"^run was built with its own encoder: pass encoder=\.\.\. again$"):
        verify()


def test_data_that_are_given_again_reproduce_and_others_do_not():
    inputs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    config = task(data={}, task={"encoder": {"kind": "mlp", "hidden": [8]}, "batch_size": 15})
    train(config, data=from_arrays(inputs, {"sum": inputs.sum(1)}))
    assert verify(data=(inputs, {"sum": inputs.sum(1)})).reproduced
    assert not verify(data=(inputs, {"sum": inputs.sum(1) + 1})).reproduced


def test_file_of_data_that_has_changed_is_told():
    inputs = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    np.savez("mine.npz", inputs=inputs, total=inputs.sum(1))
    train(task(data={"name": "mine.npz"}, task={"encoder": {"kind": "mlp", "hidden": [8]}, "batch_size": 15}))
    assert verify().reproduced
    inputs[::2] += 1e-3
    np.savez("mine.npz", inputs=inputs, total=inputs.sum(1))
    assert str(verify()).endswith("; are the data the same?)")


def test_grafted_run_needs_its_source_as_it_was():
    train(agent("reinforce"), "source")
    train(agent(graft={"run": "source", "freeze": "all", "unfreeze_period": 100}))
    assert verify().reproduced
    gw.resume("source", "steps=400", quiet=True)
    told = "same versions, processor and threads; graft.run=source may have learnt since"
    assert str(verify()) == f"not reproduced: the weights before the first update are others ({told})"
    shutil.rmtree("source")
    with pytest.raises(ValueError, match=r"^graft\.run=source: run directory source does not exist$"):
        verify()


# What cannot be verified.


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        ("learning_rate:\n    kind: constant\n    value: 0.0005", "learning_rate: 0.002", "agent.learning_rate.value"),
        ("seed: 0", "seed: 1", "seed is 1, but the run began with 0"),
        ("threads: null", "threads: 2", "threads is 2, but the run began with null"),
        ("num_envs: 2\n  asynch", "num_envs: 3\n  asynch", "env.num_envs is 3, but the run began with 2"),
    ],
)
def test_config_that_was_altered_is_refused_by_name(run, before, after, line):
    path = run / "config.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(ValueError, match=rf"^run/config\.yaml was altered: {re.escape(line)}"):
        verify()


def test_config_that_says_only_how_long_and_where_may_be_altered(run):
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("steps: 300", "steps: 999").replace("layers: true", "layers: false"))
    assert verify().reproduced


def test_run_without_a_receipt_is_refused(run):
    (run / "receipt.json").unlink()
    line = r"^run/receipt\.json: no such file; the run began with a graftwork that wrote no receipts$"
    with pytest.raises(ValueError, match=line):
        verify()


def test_receipt_without_an_update_is_refused():
    step = gw.train(agent(steps=20), run_dir="run", quiet=True).step
    line = rf"^run/receipt\.json has no update yet: the run made none up to step {step}$"
    with pytest.raises(ValueError, match=line):
        verify()


def test_what_is_no_run_is_refused():
    with pytest.raises(ValueError, match=r"^run directory run does not exist$"):
        verify()


def test_stages_are_runs_of_their_own():
    stages = {"task": task().model_dump(mode="json"), "agent": agent("reinforce").model_dump(mode="json")}
    for stage in stages.values():
        del stage["run_dir"]
    Path("two.yaml").write_text(json.dumps({"stages": stages}))
    gw.train("two.yaml", run_dir="run", quiet=True)
    with pytest.raises(ValueError, match=r"^run has stages, each a run of its own: run/task, run/agent$"):
        verify()
    assert verify("run/task").reproduced
    assert verify("run/agent").reproduced
