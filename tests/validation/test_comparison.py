"""What is declared, and what SB3's models are given for a config of ours."""

from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.configs import load
from graftwork.runs.config import RunConfig, run_config
from graftwork.training.schedules import Constant, Exponential, Linear
from graftwork.validation.arguments import UNCLIPPED, A2CBaseline, DQNArguments, dqn_arguments
from graftwork.validation.comparison import Along, Comparison, DQNBaseline, ScoreRange, declared, find

PLAIN = "sb3/dqn-mountaincar"
NAMES = ["acrobot", "cartpole"]


def config(*overrides: str, preset: str = PLAIN) -> RunConfig:
    found = run_config(load(preset, overrides))
    assert isinstance(found, RunConfig)
    return found


def test_eight_comparisons_are_declared_and_the_repetition_of_one():
    dqn = [f"dqn-{name}" for name in ("acrobot", "cartpole", "lunarlander", "mountaincar")]
    reinforce = [f"reinforce-{name}{end}" for name in NAMES for end in ("", "-plain")]
    assert sorted(declared()) == sorted([*dqn, "dqn-cartpole-again", *reinforce])


def test_repetition_differs_from_what_it_repeats_in_its_seeds_alone():
    first, again = declared()["dqn-cartpole"], declared()["dqn-cartpole-again"]
    assert again.first_seed >= first.seeds
    assert (again.range, again.margin, again.steps, again.seeds) == (first.range, 0.05, first.steps, first.seeds)
    theirs, ours = first.sides(), again.sides()
    assert {name: side.settings for name, side in ours.items()} == {n: theirs[n].settings for n in ("equal", "sb3")}
    assert find("dqn/cartpole") == find("sb3/dqn-cartpole") == first


@pytest.mark.parametrize("name", declared())
def test_sides_of_a_declared_comparison_share_environment_steps_and_evaluation(name):
    comparison = declared()[name]
    sides = comparison.sides()
    assert [*sides][-1] == "sb3"
    assert len({side.digest for side in sides.values()}) == len(sides)
    for side in sides.values():
        same = side.config.env.model_copy(update={"num_envs": 1})
        assert same == sides["sb3"].config.env.model_copy(update={"num_envs": 1})
        assert (side.config.steps, side.config.threads) == (comparison.steps, 1)
        assert side.config.evaluation == sides["sb3"].config.evaluation
        assert side.settings["final_episodes"] == 100


def test_evaluations_along_the_way_are_twenty_unless_said():
    comparison = declared()["dqn-acrobot"]
    assert comparison.sides()["sb3"].config.evaluation.period == 5_000
    other = comparison.model_copy(update={"evaluation": Along(period=700, episodes=3)})
    evaluation = other.sides()["preset"].config.evaluation
    assert (evaluation.period, evaluation.episodes) == (700, 3)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("dqn-cartpole", ["equal", "preset", "sb3"]),
        ("reinforce-cartpole-plain", ["equal", "sb3"]),
        ("reinforce-cartpole", ["preset", "sb3"]),
    ],
)
def test_preset_that_is_the_equal_one_is_trained_once(name, sides):
    assert list(declared()[name].sides()) == sides


def test_override_changes_the_preset_and_its_title():
    side = declared()["dqn-lunarlander"].sides()["preset"]
    assert side.config.agent.learning_rate.steps == 100_000  # type: ignore[union-attr]
    assert side.title == "graftwork dqn/lunarlander with agent.learning_rate.steps=100_000"


@pytest.mark.parametrize("preset", ["dqn-mountaincar", "dqn-cartpole", "dqn-acrobot"])
def test_preset_of_zoo_settings_learns(preset, tmp_path):
    small = ["steps=60", "agent.learning_starts=40", "agent.batch_size=4", "agent.train_period=20", "agent.updates=2"]
    less = ["env.max_episode_steps=15", "evaluation.period=0", "evaluation.episodes=1", "checkpoint.period=0"]
    gw.train(f"sb3/{preset}", *small, *less, "log.period=20", run_dir=tmp_path / "run", quiet=True)
    assert "train/loss" in (tmp_path / "run" / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_plain_reinforce_learns_at_one_rate_on_both_sides(name, tmp_path):
    sides = declared()[f"reinforce-{name}-plain"].sides()
    ours, theirs = sides["equal"].config, sides["sb3"].arguments
    assert isinstance(theirs, A2CBaseline)
    assert theirs.linear_decay
    assert ours.agent.learning_rate == Linear(start=theirs.learning_rate, end=0.0, steps=ours.steps)
    assert ours.agent.discount == theirs.discount
    assert ours.agent.adam_epsilon == theirs.epsilon  # type: ignore[union-attr]
    assert ours.agent.max_gradient_norm == theirs.max_gradient_norm
    assert (ours.env.num_envs, theirs.rms_prop, theirs.zero_value) == (theirs.num_envs, False, True)
    fields = ["steps=100", "env.max_episode_steps=15", "evaluation.period=0", "evaluation.episodes=1", "log.period=20"]
    gw.train(f"sb3/reinforce-{name}", *fields, run_dir=tmp_path / "run", quiet=True)


def test_zoo_settings_of_mountaincar_are_what_sb3_gets():
    found = dqn_arguments(config(), 120_000)
    assert found == DQNArguments(
        policy="MlpPolicy",
        net_arch=(256, 256),
        activation="relu",
        adam_epsilon=1e-8,
        num_envs=1,
        learning_rate=Constant(value=4e-3),
        buffer_size=10_000,
        learning_starts=1_000,
        batch_size=128,
        tau=1.0,
        gamma=0.98,
        train_freq=16,
        gradient_steps=8,
        n_steps=1,
        target_update_interval=600,
        exploration_initial_eps=1.0,
        exploration_final_eps=0.07,
        exploration_fraction=0.2,
        max_grad_norm=10.0,
    )


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["agent.encoder.hidden=[7, 5, 3]", "agent.encoder.activation=tanh"],
            {"net_arch": (7, 5, 3), "activation": "tanh"},
        ),
        (["agent.encoder={kind: conv}"], {"policy": "CnnPolicy", "net_arch": (), "activation": "relu"}),
        (["agent.adam_epsilon=1e-4"], {"adam_epsilon": 1e-4}),
        (["env.num_envs=3"], {"num_envs": 3, "train_freq": 16, "target_update_interval": 600}),
        (["agent.replay_capacity=5000"], {"buffer_size": 5_000}),
        (["agent.learning_starts=17"], {"learning_starts": 17}),
        (["agent.batch_size=33"], {"batch_size": 33}),
        (["agent.discount=0.9"], {"gamma": 0.9}),
        (["agent.train_period=5", "agent.updates=3"], {"train_freq": 5, "gradient_steps": 3}),
        (["agent.n_step=3"], {"n_steps": 3}),
        (["agent.target_period=70"], {"target_update_interval": 70}),
        (["agent.max_gradient_norm=null"], {"max_grad_norm": UNCLIPPED}),
        (["agent.epsilon=0.1"], {f"exploration_{n}": v for n, v in (("initial_eps", 0.1), ("final_eps", 0.1))}),
        (
            ["agent.epsilon.steps=3000", "agent.epsilon.start=0.5"],
            {"exploration_fraction": 0.025, "exploration_initial_eps": 0.5},
        ),
        # 8 updates in 16 steps of 3 environments: the target moves once in 2 * 3 steps.
        (["agent.target_rate=0.01", "env.num_envs=3"], {"tau": 0.01, "target_update_interval": 6}),
        (
            ["agent.learning_rate={kind: exponential, start: 1e-2, end: 1e-3, steps: 500}"],
            {"learning_rate": Exponential(start=1e-2, end=1e-3, steps=500)},
        ),
    ],
)
def test_field_becomes_sb3_s(overrides, expected):
    found = dict(dqn_arguments(config(*overrides), 120_000))
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("agent.double=true", "agent.double=true"),
        ("agent.munchausen={}", "agent.munchausen={scale: 0.9"),
        ("agent.value_rescaling=true", "agent.value_rescaling=true"),
        ("agent.prioritised={}", "agent.prioritised="),
        ("agent.head.dueling=true", "agent.head.dueling=true"),
        ("agent.head.hidden=32", "agent.head.hidden=32"),
        ("agent.head.noise=0.5", "agent.head.noise=0.5"),
        ("agent.value.kind=quantile", "agent.value.kind=quantile"),
        ("agent.value.loss=squared", "agent.value.loss=squared"),
        ("agent.auxiliary.reward=0.1", "agent.auxiliary.reward=0.1"),
        ("agent.auxiliary.next_observation=0.1", "agent.auxiliary.next_observation=0.1"),
        ("agent.sequence_length=4", "agent.sequence_length=4"),
        ("agent.initialisation=he", "agent.initialisation=he"),
        ("agent.epsilon={kind: cosine, start: 1.0, end: 0.1, steps: 10}", "agent.epsilon.kind=cosine"),
        ("agent.encoder.norm=layer", "agent.encoder.norm=layer"),
        ("agent.encoder.dropout=0.1", "agent.encoder.dropout=0.1"),
        ("agent.encoder.scale=[1.0, 2.0]", "agent.encoder.scale=[1.0, 2.0]"),
        ("agent.encoder.kind=lstm", "agent.encoder.kind=lstm"),
        ("agent.encoder={kind: conv, hidden: 64}", "agent.encoder.hidden=64"),
        ("agent.encoder={kind: conv, channels: last}", "agent.encoder.channels=last"),
        ("env.asynchronous=true", "env.asynchronous=true"),
        ("graft.run=elsewhere", "graft"),
    ],
)
def test_what_sb3_has_no_counterpart_of_is_named(override, field):
    with pytest.raises(ValueError, match=r"^[^\n]*SB3[^\n]*$") as error:
        dqn_arguments(config(override), 120_000)
    assert str(error.value).startswith(field)


def test_soft_target_that_moves_at_no_whole_step_is_refused():
    with pytest.raises(ValueError, match=r"^agent.updates=5: SB3 moves a soft target.*divides agent.train_period=16$"):
        dqn_arguments(config("agent.target_rate=0.01", "agent.updates=5"), 120_000)


def test_other_agent_is_no_dqn():
    with pytest.raises(ValueError, match=r"^agent.kind=reinforce: only dqn"):
        dqn_arguments(config(preset="reinforce/cartpole"), 1_000)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("dqn/cartpole", "dqn-cartpole"),
        ("dqn-cartpole", "dqn-cartpole"),
        ("sb3/dqn-cartpole", "dqn-cartpole"),
        ("reinforce/cartpole", "reinforce-cartpole"),
        ("sb3/reinforce-cartpole", "reinforce-cartpole-plain"),
    ],
)
def test_comparison_is_found_by_its_name_or_a_preset_in_it(name, found):
    assert find(name).name == found


@pytest.mark.parametrize(
    ("name", "bounds", "text"),
    [
        ("dqn/carpole", None, "dqn/carpole: no such preset; did you mean dqn/cartpole?"),
        ("dqn/cartpole", (0, 1), "--range: that of dqn-cartpole is declared, 22 to 500; leave it out"),
        ("dqn/recall", None, "dqn/recall: no comparison is declared; give --range RANDOM BEST"),
        ("dqn/recall", (0, 1), "agent.double=true: SB3 has no counterpart"),
        ("transfer/digits", (0, 1), "transfer/digits: trains on data or in stages"),
        ("supervised/digits-mlp", (0, 1), "supervised/digits-mlp: trains on data or in stages"),
    ],
)
def test_preset_that_cannot_be_compared_is_told_in_one_line(name, bounds, text):
    range_ = None if bounds is None else ScoreRange(random=bounds[0], best=bounds[1])
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        find(name, range_)
    assert str(error.value).startswith(text)


def test_range_makes_a_comparison_of_a_preset_that_sb3_can_be_given(monkeypatch):
    monkeypatch.setattr("graftwork.validation.comparison.declared", dict)
    found = find("sb3/dqn-acrobot", ScoreRange(random=-400, best=-100))
    assert found == Comparison(
        name="sb3-dqn-acrobot",
        preset="sb3/dqn-acrobot",
        equal="sb3/dqn-acrobot",
        baseline=DQNBaseline(),
        range=ScoreRange(random=-400, best=-100),
        steps=100_000,
    )
    assert list(found.sides()) == ["equal", "sb3"]


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"equal": None}, "equal: required with baseline.kind=dqn"),
        ({"range": {"random": 3, "best": 3}}, "range.best=3 must be above range.random=3"),
        ({"stpes": 5}, "stpes"),
    ],
)
def test_wrong_declaration_is_told(changed: dict[str, Any], text: str, tmp_path: Path):
    tree = declared()["dqn-cartpole"].model_dump(mode="json")
    with pytest.raises(ValueError, match=text):
        Comparison.model_validate({**tree, **changed})


def test_failure_is_the_lower_half_of_the_range():
    range_ = ScoreRange(random=-500, best=-100)
    assert range_.is_failure(-301)
    assert not range_.is_failure(-300)


def test_learnt_value_of_zero_is_refused():
    tree = declared()["reinforce-acrobot-plain"].baseline.model_dump()
    with pytest.raises(ValueError, match=r"value_coefficient=0.5: zero_value=true needs 0"):
        A2CBaseline.model_validate({**tree, "value_coefficient": 0.5})
