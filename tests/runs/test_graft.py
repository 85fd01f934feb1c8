"""Encoders that move from run to run: what is frozen stays to the bit, and the source is needed to begin with only."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

import graftwork as gw
from graftwork.networks import Encoder, MLPConfig
from graftwork.runs import Run, RunConfig, TaskRunConfig
from graftwork.runs.config import GraftConfig
from graftwork.runs.graft import prepare
from graftwork.training import checkpoint

EPOCH = 60  # of 100 transitions: less 15 for validation and 25 to test on


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in a directory of its own."""
    monkeypatch.chdir(tmp_path)


def dqn(**encoder: Any) -> RunConfig:
    """An agent, by default of two blocks with norm statistics."""
    agent = {
        "kind": "dqn",
        "encoder": encoder or {"kind": "mlp", "hidden": [8, 6], "norm": "batch"},
        "replay_capacity": 400,
        "learning_starts": 40,
        "batch_size": 8,
        "target_period": 20,
    }
    env = {"id": "CartPole-v1", "num_envs": 2, "max_episode_steps": 20}
    rest = {"steps": 160, "evaluation": {"period": 0, "episodes": 1}, "checkpoint": {"period": 40, "keep": 100}}
    return RunConfig.model_validate({"env": env, "agent": agent, **rest})


def reinforce() -> RunConfig:
    agent = {"kind": "reinforce", "encoder": {"kind": "mlp", "hidden": [5]}}
    return dqn().model_copy(update={"agent": RunConfig.model_validate(dqn().model_dump() | {"agent": agent}).agent})


def task(**fields: Any) -> TaskRunConfig:
    """On what an action does to CartPole; an epoch is 60 samples in 4 updates."""
    tree = {
        "data": {"name": "transitions:CartPole-v1", "samples": 100},
        "task": {"encoder": {"kind": "mlp", "hidden": [8, 6]}, "heads": {"terminated": {}}, "batch_size": 15},
        "epochs": 2,
        "checkpoint": {"period": 1, "keep": 100},
    }
    return TaskRunConfig.model_validate(tree | fields)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of such an agent."""
    return gw.train(dqn(), run_dir=tmp_path_factory.mktemp("agent") / "run", quiet=True).run_dir


def copy(run: Path, run_dir: str) -> None:
    shutil.copytree(run, run_dir)


def train(config: RunConfig | TaskRunConfig, run_dir: str, *overrides: str, **objects: Any) -> Run:
    return gw.train(config, *overrides, run_dir=run_dir, quiet=True, **objects)


def refused(line: str, config: RunConfig | TaskRunConfig, *overrides: str, **objects: Any) -> None:
    """The run is refused with such a line, and nothing is written."""
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        train(config, "refused", *overrides, **objects)
    assert "\n" not in str(caught.value)
    assert not Path("refused").exists()


def states(run_dir: str) -> list[dict[str, Any]]:
    """Of the learner, at each checkpoint."""
    paths = sorted((Path(run_dir) / "checkpoints").glob("step_*"))
    return [checkpoint.load(path).state["learner"] for path in paths]


def encoder_of(state: dict[str, Any], network: str = "network") -> dict[str, Tensor]:
    weights = state[network]
    return {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}


def same(some: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """The names of what is equal to the bit."""
    assert some.keys() == other.keys()
    return {name for name in some if torch.equal(some[name], other[name])}


# What is frozen.


def test_an_encoder_frozen_on_its_way_from_an_agent_to_a_task_and_back_keeps_every_bit(agent):
    copy(agent, "agent")
    train(task(), "task", "graft.run=agent", "graft.freeze=all")
    again = train(dqn(), "again", "graft.run=task", "graft.freeze=all", "seed=1")
    before, after = gw.load_encoder("agent").state_dict(), gw.load_encoder("again").state_dict()
    assert any("running_mean" in name for name in before)
    assert same(before, after) == set(before)
    observation = np.random.default_rng(0).normal(size=(1, 9, 4)).astype(np.float32)
    features = [gw.load_encoder(run)(torch.from_numpy(observation))[0] for run in ("agent", "task", "again")]
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    assert again.agent.step >= 160


def test_an_agent_on_a_frozen_encoder_learns_its_head_and_so_does_its_target(agent):
    copy(agent, "source")
    train(dqn(), "run", "graft.run=source", "graft.freeze=all")
    source, first, last = encoder_of(states("source")[-1]), states("run")[0], states("run")[-1]
    for network in ("network", "target"):
        assert same(encoder_of(last, network), source) == set(source)
        for name in ("head.linear.weight", "head.linear.bias"):
            assert not torch.equal(first[network][name], last[network][name])
    assert {name.split(".")[0] for name in last["optimizer"]} == {"head"}


@pytest.mark.parametrize(
    ("freeze", "frozen"),
    [
        ("0", set()),
        ("1", {"layers.0", "layers.1"}),
        ("2", {"layers.0", "layers.1", "layers.3", "layers.4"}),
        ("[layers.3, layers.1.bias]", {"layers.3", "layers.1.bias"}),
    ],
)
def test_what_the_config_names_stays_and_the_rest_learns(agent, freeze, frozen):
    copy(agent, "source")
    train(task(), "run", "graft.run=source", f"graft.freeze={freeze}")
    before, after = encoder_of(states("source")[-1]), encoder_of(states("run")[-1])
    expected = {name for name in before if any(name == part or name.startswith(f"{part}.") for part in frozen)}
    assert same(before, after) == expected


def test_blocks_are_set_free_one_by_one_from_the_head_down(agent):
    copy(agent, "source")
    train(task(epochs=5), "run", "graft.run=source", "graft.freeze=all", "graft.unfreeze_period=2")
    source = encoder_of(states("source")[-1])
    epochs = [{name.split(".")[1] for name in same(encoder_of(state), source)} for state in states("run")]
    whole, first_block = {"0", "1", "3", "4"}, {"0", "1"}
    assert epochs == [whole, whole, whole, first_block, first_block, set()]


def test_an_agent_s_blocks_are_set_free_by_environment_steps():
    train(task(), "source")
    train(dqn(), "run", "graft.run=source", "graft.freeze=all", "graft.unfreeze_period=60")
    source = encoder_of(states("source")[-1])
    both, first, units = {"inner.layers.0", "inner.layers.2"}, {"inner.layers.0"}, {"mean", "std"}
    for state in states("run"):
        frozen = {name.rpartition(".")[0] or name for name in same(encoder_of(state), source)} - units
        # A call to learn takes up to 8 steps, and what it begins with counts.
        if not 60 < state["step"] < 68 and not 120 < state["step"] < 128:
            assert frozen == (both if state["step"] <= 60 else first if state["step"] <= 120 else set())
    assert len(states("run")) >= 5


def test_each_block_learns_at_its_share_of_the_rate():
    # One step of plain descent from the same weights: what moved is the gradient times the rate.
    train(task(), "source")
    once = ("graft.run=source", "task.optimizer.kind=sgd", "task.batch_size=60", "task.learning_rate=0.1", "epochs=1")
    train(task(), "whole", *once)
    train(task(), "decayed", *once, "graft.rate_decay=0.5")
    start, whole, decayed = (
        states("whole")[0]["network"],
        states("whole")[-1]["network"],
        states("decayed")[-1]["network"],
    )
    shares = {"encoder.inner.layers.0": 0.25, "encoder.inner.layers.2": 0.5, "head": 1.0}
    for layer, share in shares.items():
        for name in (name for name in start if name.startswith(layer)):
            moved = whole[name] - start[name]
            assert moved.abs().max() > 1e-5
            torch.testing.assert_close(decayed[name] - start[name], share * moved, rtol=1e-3, atol=1e-7)


def test_freezing_in_python_is_freezing_by_the_config(agent):
    copy(agent, "source")
    encoder = gw.load_encoder("source")
    gw.freeze(encoder, 1)
    train(task(), "python", "task.normalise=none", encoder=encoder)
    train(task(), "config", "graft.run=source", "graft.freeze=1")
    python, config = states("python")[-1]["network"], states("config")[-1]["network"]
    assert same(python, config) == set(config)


# What goes along.


def test_the_source_s_architecture_is_written_into_the_config_and_its_own_stays_unused(agent):
    copy(agent, "source")
    run = train(task(), "run", "graft.run=source")
    assert run.config.task.encoder == dqn().agent.encoder
    assert run.config.task.normalise == "none"
    back = train(reinforce(), "back", "graft.run=run")
    assert back.config.agent.encoder == dqn().agent.encoder


def test_the_units_of_the_source_s_inputs_are_kept():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = (x[:, 0] > 0).astype(np.int64)
    train(task(), "source", "task.heads={}", data=(x, labels))
    train(task(), "run", "task.heads={}", "graft.run=source", data=(1000 * x + 7, labels))
    source, units = gw.load_encoder("source").state_dict(), gw.load_encoder("run").state_dict()
    assert torch.equal(units["mean"], source["mean"])
    assert torch.equal(units["std"], source["std"])
    assert 0.5 < units["std"].mean() < 2


def test_heads_are_new_whatever_the_source_told():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    train(task(), "source", "task.heads={}", data=(x, (x[:, 0] > 0).astype(np.int64)))
    seven = np.arange(60) % 7
    run = train(task(), "run", "task.heads={}", "graft.run=source", "graft.freeze=all", data=(x, seven))
    assert run.model.probabilities(x).shape == (60, 7)


def test_the_weights_grafted_are_those_of_the_lowest_loss():
    noise = np.random.default_rng(0)
    data = (noise.normal(size=(60, 4)).astype(np.float32), noise.integers(0, 2, 60))
    overrides = ("task.heads={}", "task.learning_rate=0.1", "epochs=40", "evaluation.patience=2")
    source = train(task(), "source", *overrides, data=data)
    assert source.step < 40 * 36  # it stopped early
    train(task(), "run", "task.heads={}", "graft.run=source", "graft.freeze=all", data=data)
    best = source.model.network.encoder.state_dict()
    assert same(encoder_of(states("run")[0]), best) == set(best)
    assert same(encoder_of(states("source")[-1]), best) != set(best)


def test_of_an_ensemble_the_first_member_is_grafted():
    train(task(), "source", "task.members=2")
    train(dqn(), "run", "graft.run=source", "graft.freeze=all")
    grafted = encoder_of(states("run")[-1])
    stacked = states("source")[-1]["network"]
    for name, value in grafted.items():
        assert torch.equal(value, stacked[f"encoder__{name.replace('.', '__')}"][0])


RECURRENT = ("agent.sequence_length=6", "agent.burn_in=2")


def test_an_encoder_with_memory_moves_as_any_other():
    lstm = dqn(kind="lstm", hidden_size=5, inner={"kind": "mlp", "hidden": [6]})
    train(lstm, "source", *RECURRENT)
    train(task(), "task", "graft.run=source", "graft.freeze=1")
    run = train(dqn(), "run", "graft.run=task", "graft.freeze=all", *RECURRENT)
    assert run.config.agent.encoder.kind == "lstm"
    before, middle, after = (gw.load_encoder(name).state_dict() for name in ("source", "task", "run"))
    # Of a sequence of one row, the first state is zero: its weights have no gradient.
    assert same(before, middle) == {"inner.layers.0.weight", "inner.layers.0.bias", "weight_hh_l0"}
    assert same(middle, after) == set(middle)
    refused("agent.sequence_length=1: a recurrent encoder learns from sequences", dqn(), "graft.run=task")


def test_reinforce_takes_an_encoder_and_gives_one():
    train(task(), "source")
    train(reinforce(), "run", "graft.run=source", "graft.freeze=all")
    before, after = gw.load_encoder("source").state_dict(), gw.load_encoder("run").state_dict()
    assert same(before, after) == set(before)
    train(task(), "again", "graft.run=run", "graft.freeze=all")
    assert same(before, gw.load_encoder("again").state_dict()) == set(before)


def test_tokens_are_grafted_although_they_have_no_units():
    tokens, lengths = np.random.default_rng(0).integers(0, 7, (40, 5)), np.full(40, 5)
    np.savez("letters.npz", inputs=tokens, lengths=lengths, kind=tokens[:, 0] % 2, tag=tokens % 3)
    np.savez("words.npz", inputs=tokens, lengths=lengths, other=tokens[:, 1] % 4)
    encoder = {"kind": "lstm", "hidden_size": 4, "inner": {"kind": "embedding"}}
    heads = {"encoder": encoder, "heads": {"kind": {}, "tag": {}}, "batch_size": 8}
    train(task(data={"name": "letters.npz"}, task=heads), "source")
    run = train(task(data={"name": "words.npz"}, task={"batch_size": 8}), "run", "graft.run=source", "graft.freeze=1")
    assert run.config.task.encoder.kind == "lstm"
    assert gw.evaluate("run").heads["other"].count == 10
    names = same(gw.load_encoder("source").state_dict(), gw.load_encoder("run").state_dict())
    assert names == {name for name in gw.load_encoder("run").state_dict() if name.startswith("inner.")}


def test_a_source_with_data_of_its_own_needs_none():
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    train(task(), "source", "task.heads={}", data=(x, (x[:, 0] > 0).astype(np.int64)))
    train(dqn(), "run", "graft.run=source", "graft.freeze=all")
    source = gw.load_encoder("source").state_dict()
    assert same(source, gw.load_encoder("run").state_dict()) == set(source)


# The source is needed to begin with only.


@pytest.mark.parametrize("make", [dqn, task], ids=["agent", "task"])
def test_a_run_goes_on_without_its_source(agent, make):
    copy(agent, "source")
    graft = ("graft.run=source", "graft.freeze=1", "graft.rate_decay=0.5")
    longer = {"agent": "steps=240", "task": "epochs=4"}["agent" if make is dqn else "task"]
    train(make(), "reference", *graft, longer)
    train(make(), "run", *graft)
    shutil.rmtree("source")
    assert gw.load("run").network.encoder.out_features == 6
    assert gw.load_encoder("run").out_features == 6
    gw.evaluate("run", episodes=1)
    gw.resume("run", longer, quiet=True)
    before, after = states("reference")[-1]["network"], states("run")[-1]["network"]
    assert same(before, after) == set(before)


def test_a_run_without_a_checkpoint_begins_again_from_its_source(agent):
    copy(agent, "source")
    train(task(), "reference", "graft.run=source", "graft.freeze=1")
    train(task(), "run", "graft.run=source", "graft.freeze=1")
    shutil.rmtree("run/checkpoints")
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        Path("run", name).unlink()
    shutil.move("source", "elsewhere")
    with pytest.raises(ValueError, match=r"^graft\.run=source: run directory source does not exist$"):
        gw.resume("run", quiet=True)
    shutil.move("elsewhere", "source")
    gw.resume("run", quiet=True)
    before, after = states("reference")[-1]["network"], states("run")[-1]["network"]
    assert same(before, after) == set(before)


# What does not go.


def images(part: dict[str, Any]) -> TaskRunConfig:
    np.savez("images.npz", inputs=np.random.default_rng(0).normal(size=(20, 8, 8)), kind=np.arange(20) % 2)
    return task(data={"name": "images.npz"}, task=part, epochs=1)


def test_a_source_that_saw_something_else_is_refused(agent):
    copy(agent, "agent")
    train(images({"encoder": {"kind": "mlp", "hidden": [4]}}), "images")
    shapes = (
        r"graft\.run=agent does not fit Box.*: state of its encoder: layers\.0\.weight is \[8, 4\], this one \[8, {}\]$"
    )
    refused(shapes.format(6), dqn(), "graft.run=agent", "env.id=Acrobot-v1")
    refused(shapes.format(64), images({"encoder": {"kind": "mlp", "hidden": [4]}}), "graft.run=agent")
    refused(r"graft\.run=images does not fit Box\(.*\(4,\), float32\): ", dqn(), "graft.run=images")
    refused(r"graft\.run=images does not fit Box\(.*\(4,\), float32\): ", task(), "graft.run=images")
    conv = {"encoder": {"kind": "conv", "layers": [{"channels": 2, "kernel": 3}]}}
    train(images(conv), "conv")
    refused(r"graft\.run=conv does not fit Box\(.*\): encoder\.kind=conv can't take Box", task(), "graft.run=conv")


class Own(Encoder):
    out_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def encode(self, observation: Tensor) -> Tensor:
        return self.linear(observation)


@pytest.mark.parametrize(
    ("objects", "names"),
    [
        (lambda: {"env": lambda: gymnasium.make("CartPole-v1", max_episode_steps=20)}, "env"),
        (lambda: {"encoder": Own()}, "encoder"),
        (lambda: {"encoder": Own(), "wrapper": lambda env: env}, "wrapper, encoder"),
    ],
    ids=["env", "encoder", "both"],
)
def test_a_source_with_objects_of_its_own_is_given_as_an_encoder_instead(objects: Callable[[], dict[str, Any]], names):
    train(dqn(), "source", **objects())
    again = ", ".join(f"{name}=..." for name in names.split(", "))
    refused(
        rf"graft\.run=source: was built with its own {names}; in Python, in place of graft\.run, give "
        rf"encoder=load_encoder\('source', {again.replace('.', '[.]')}\)$",
        task(),
        "graft.run=source",
    )
    train(task(), "run", encoder=gw.load_encoder("source", **objects()))


def test_a_source_that_is_none_is_named(agent):
    Path("empty").mkdir()
    refused(r"graft\.run=gone: run directory gone does not exist$", task(), "graft.run=gone")
    refused(r"graft\.run=empty: run directory empty has no config\.yaml$", task(), "graft.run=empty")
    copy(agent, "source")
    shutil.rmtree("source/checkpoints")
    refused(r"graft\.run=source: no checkpoint in source/checkpoints$", task(), "graft.run=source")
    train(task(), "task")
    Path("task/schema.json").unlink()
    refused(r"graft\.run=task: task/schema\.json: No such file", dqn(), "graft.run=task")


def test_a_damaged_checkpoint_of_the_source_is_passed_over_and_named(agent):
    copy(agent, "source")
    newest = sorted(Path("source/checkpoints").iterdir())[-1]
    (newest / "state.safetensors").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="^passed over: checkpoint"):
        train(task(), "run", "graft.run=source", "graft.freeze=all")
    before, after = encoder_of(states_at("source", -2)), encoder_of(states("run")[-1])
    assert same(before, after) == set(before)


def states_at(run_dir: str, place: int) -> dict[str, Any]:
    return checkpoint.load(sorted((Path(run_dir) / "checkpoints").glob("step_*"))[place]).state["learner"]


def test_an_encoder_comes_from_one_place(agent):
    copy(agent, "source")
    line = r"graft\.run=source: an encoder was given in Python too; choose one of them$"
    refused(line, task(), "graft.run=source", encoder=gw.load_encoder("source"))
    network = gw.load("source").network
    refused(line, dqn(), "graft.run=source", network=network)


def test_an_override_of_the_encoder_beside_a_graft_is_refused_for_it_would_do_nothing(agent):
    graft = f"graft.run={agent}"
    for make, override in (
        (dqn, "agent.encoder.hidden=[4]"),
        (task, "task.encoder={kind: mlp}"),
        (task, "task.normalise=entry"),
    ):
        line = re.escape(f"{override}: the encoder is that of {graft}, as it was trained; leave this out")
        refused(line, make(), graft, override)


@pytest.mark.parametrize("make", [dqn, task], ids=["agent", "task"])
def test_a_layer_that_is_not_there_is_named_with_the_nearest(agent, make):
    copy(agent, "source")
    graft = "graft.run=source"
    refused(
        r"graft\.freeze=layer\.0: matches no layer of this MLP that learns; did you mean layers\.0\?$",
        *(make(), graft, "graft.freeze=[layers.1, layer.0]"),
    )
    refused(r"graft\.freeze=head: matches no layer of this MLP", make(), graft, "graft.freeze=[head]")
    refused(r"graft\.freeze=3: this MLP has 2 blocks$", make(), graft, "graft.freeze=3")
    refused(r"graft\.freeze=al: must be 'all' or .*; did you mean all\?", make(), graft, "graft.freeze=al")
    refused(r"graft\.freeze=-1: must be 'all' or ", make(), graft, "graft.freeze=-1")


def test_nothing_is_set_free_that_is_not_frozen_in_an_order():
    refused(r"graft\.unfreeze_period=3: nothing is frozen; set graft\.freeze", task(), "graft.unfreeze_period=3")
    refused(
        r"graft\.unfreeze_period: layers frozen by name have no order",
        *(task(), "graft.freeze=[inner.layers.0]", "graft.unfreeze_period=3"),
    )


@pytest.mark.parametrize("graft", ["graft.run=source", "graft.freeze=all", "graft.rate_decay=0.5"])
def test_an_ensemble_is_grafted_nothing(agent, graft):
    copy(agent, "source")
    refused(r"task\.members=2: an ensemble's encoders start apart; ", task(), "task.members=2", graft)


def test_a_batch_of_one_is_refused_if_batch_norm_will_be_set_free(agent):
    copy(agent, "source")
    one = ("graft.run=source", "graft.freeze=all", "task.batch_size=59")
    refused(r"task\.batch_size: an epoch's 60 samples", task(), *one, "graft.unfreeze_period=1")
    train(task(), "run", *one)  # its statistics stand still


def test_sequences_are_refused_if_batch_norm_will_be_set_free(agent):
    tokens = np.random.default_rng(0).normal(size=(20, 3, 4)).astype(np.float32)
    np.savez("walks.npz", inputs=tokens, lengths=np.full(20, 3), kind=np.arange(20) % 2)
    walks = task(data={"name": "walks.npz"}, task={"batch_size": 8})
    copy(agent, "source")
    graft = ("graft.run=source", "graft.freeze=all")
    refused(r"graft\.unfreeze_period: the batch norm that it would set free", walks, *graft, "graft.unfreeze_period=1")
    refused(r"task\.encoder: batch norm would take the padding", walks, "graft.run=source")
    train(walks, "run", *graft)


def test_an_encoder_that_reads_the_future_is_refused_by_an_agent():
    encoder = {"kind": "lstm", "hidden_size": 3, "bidirectional": True, "inner": MLPConfig(hidden=(4,)).model_dump()}
    train(task(task={"encoder": encoder, "heads": {"terminated": {}}}), "source")
    refused("agent.encoder: an agent cannot act on the future", dqn(), "graft.run=source", *RECURRENT)


def test_an_encoder_from_python_keeps_the_rate_decay_that_it_came_with():
    encoder = MLPConfig(hidden=(4, 4)).build(spaces.Box(-1, 1, (3,)))
    encoder.rate_decay = 0.5
    prepare(encoder, GraftConfig())
    assert encoder.rate_decay == 0.5
    prepare(encoder, GraftConfig(rate_decay=0.9))
    assert encoder.rate_decay == 0.9
