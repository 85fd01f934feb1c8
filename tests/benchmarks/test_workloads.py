"""What the workloads say of themselves is so."""

import importlib
from itertools import product

import pytest
from suite.compiled import has_settled, longer
from suite.hyperparameters import ZOO
from suite.peers import ours
from suite.sweeps import SWEEPS
from suite.workloads import WORKLOADS, Scale, workload

from graftwork.configs import load, override
from graftwork.runs.config import run_config


@pytest.mark.parametrize(("name", "scale"), [*product([*WORKLOADS, *SWEEPS], Scale)])
def test_every_side_has_a_function_and_learns_before_its_run_ends(name, scale):
    for what in workload(name, scale, "cpu").sides.values():
        module, _, function = what.run.partition(":")
        assert callable(getattr(importlib.import_module(module, "suite"), function))
        steps = getattr(what.settings, "steps", None)
        assert not steps or what.settings.skip < steps


def test_zoo_settings_are_those_of_the_preset_field_for_field():
    preset = load("sb3/dqn-cartpole")
    assert run_config(override(preset, ours.dqn_overrides(ZOO))) == run_config(preset)


@pytest.mark.parametrize("name", [*WORKLOADS, *SWEEPS])
def test_settings_are_configs_that_graftwork_takes(name):
    for side in workload(name, Scale.FULL, "cpu").sides.values():
        if side.run == ".peers.ours:dqn":
            run_config(override(load("sb3/dqn-cartpole"), ours.dqn_overrides(side.settings)))
        elif side.run == ".peers.ours:preset":
            run_config(override(load(side.settings.name), list(side.settings.overrides)))


def test_longer_run_explores_for_as_many_steps():
    assert longer(ZOO).steps == 200 * ZOO.steps
    assert longer(ZOO).epsilon_steps == ZOO.epsilon_steps == 8_000


def test_cache_has_settled_once_all_that_was_begun_is_there(tmp_path):
    assert not has_settled(tmp_path)
    (tmp_path / "compiled" / "a").mkdir(parents=True)
    (tmp_path / "compiled" / "a.json").touch()
    assert not has_settled(tmp_path)
    (tmp_path / "compiled" / "a" / "model.so").touch()
    assert has_settled(tmp_path)
