"""Every packaged preset of an agent learns, at a size that takes a second; and its switches can be set by name."""

import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import graftwork as gw
from graftwork.configs import load, presets
from graftwork.runs.config import RunConfig, run_config

AGENTS = [name for name in presets() if name.startswith(("dqn/", "pqn/", "reinforce/", "sb3/"))]
ATARI, MINATAR, BOX2D = ("ALE/", "ale_py"), ("MinAtar/", "minatar"), ("LunarLander", "Box2D")

SMALL = {
    "dqn": [
        *("steps=200", "agent.learning_starts=40", "agent.replay_capacity=480", "agent.batch_size=4"),
        *("agent.target_period=50", "agent.updates=1"),
    ],
    "pqn": ["steps=200", "agent.rollout_rows=4", "agent.epochs=2", "agent.minibatches=2"],
    "reinforce": ["steps=200"],
}
OTHERS = [
    *("env.num_envs=2", "env.max_episode_steps=25", "evaluation.period=0", "evaluation.episodes=1"),
    *("checkpoint.period=0", "log.period=20"),
]
# Of sequences that a small replay holds.
SHORT = ["agent.sequence_length=12", "agent.burn_in=4", "agent.train_period=8"]


def small(name: str) -> list[str]:
    config = run_config(load(name))
    assert isinstance(config, RunConfig)
    for start, package in (ATARI, MINATAR, BOX2D):
        if config.env.id.startswith(start) and find_spec(package) is None:
            pytest.skip(f"{config.env.id} needs {package}")
        if config.env.id.startswith(start) and package == "Box2D":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SWIG's module ends the process where a warning is an error
                import_module(package)
    fields = [*SMALL[config.agent.kind], *OTHERS]
    if config.agent.kind != "dqn":
        return fields
    has_memory = config.agent.sequence_length > 1
    fields += ["agent.train_period=64"] if config.agent.train_period > 64 else []
    fields += SHORT if has_memory else []
    if config.env.id.startswith("ALE/"):
        layers = "[{channels: 4, kernel: 8, stride: 8}]"
        conv = f"{{kind: conv, layers: {layers}}}"
        fields += ["steps=120", f"agent.encoder={{kind: lstm, hidden_size: 8, inner: {conv}}}" if has_memory else ""]
        fields += [] if has_memory else [f"agent.encoder.layers={layers}"]
        fields += [] if config.agent.head.hidden is None else ["agent.head.hidden=16"]
    return [field for field in fields if field]


@pytest.mark.parametrize("name", AGENTS)
def test_preset_learns(name: str, tmp_path: Path) -> None:
    run = gw.train(name, *small(name), run_dir=tmp_path / "run", quiet=True)
    assert run.evaluation is not None
    rows = (run.run_dir / "metrics.jsonl").read_text()
    assert rows.count("train/loss") >= 2
    assert "NaN" not in rows
    before = run_config(load(name)).agent  # type: ignore[union-attr]
    after = run.config.agent  # type: ignore[union-attr]
    switches = {"head", "value", "n_step", "double", "munchausen", "value_rescaling", "prioritised", "target_rate"}
    kept: Any = {switch for switch in switches if hasattr(after, switch)} - {"head"}
    assert {switch: getattr(after, switch) for switch in kept} == {switch: getattr(before, switch) for switch in kept}


@pytest.mark.parametrize("preset", ["dqn/cartpole", "dqn/acrobot"], ids=["that names its values", "that does not"])
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["agent.head.dueling=true"], {"head": {"dueling": True, "hidden": None, "noise": None}}),
        (["agent.prioritised={}"], {"prioritised.exponent": 0.6, "prioritised.importance.kind": "linear"}),
        (["agent.prioritised.exponent=0.5"], {"prioritised.exponent": 0.5, "prioritised.sequence_max": 0.9}),
        (["agent.prioritised.importance.start=0.5"], {"prioritised.importance.start": 0.5}),
        (["agent.munchausen.scale=0.8"], {"munchausen.scale": 0.8, "munchausen.temperature": 0.03}),
        (["agent.munchausen.scale=0.8", "agent.munchausen=null"], {"munchausen.scale": 0.8}),  # from the outside in
        (["agent.value.kind=quantile"], {"value": {"kind": "quantile", "num_quantiles": 51, "kappa": 1.0}}),
        (["agent.value.num_quantiles=7", "agent.value.kind=quantile"], {"value.num_quantiles": 7}),
        (["agent.value.loss=squared"], {"value": {"kind": "scalar", "loss": "squared"}}),
        (["agent.epsilon.end=0.2"], {"epsilon.kind": "linear", "epsilon.start": 1.0, "epsilon.end": 0.2}),
        (["agent.epsilon=0.1"], {"epsilon": {"kind": "constant", "value": 0.1}}),
    ],
)
def test_switch_is_set_by_name(preset: str, overrides: list[str], expected: dict[str, Any]) -> None:
    found = run_config(load(preset, overrides)).model_dump(mode="json")["agent"]
    for path, value in expected.items():
        part = found
        for key in path.split("."):
            part = part[key]
        assert part == value, path


def test_switch_is_turned_off_by_null() -> None:
    agent = run_config(load("dqn/rainbow-atari", ["agent.prioritised=null", "agent.head.noise=null"])).model_dump()[
        "agent"
    ]
    assert agent["prioritised"] is None
    assert agent["head"] == {"dueling": True, "hidden": 512, "noise": None}
