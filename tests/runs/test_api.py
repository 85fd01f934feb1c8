"""What a user calls from Python."""

import functools
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import graftwork as gw
from graftwork.configs import load as load_tree
from graftwork.configs import presets, validate
from graftwork.envs import EnvConfig, EnvironmentFailure
from graftwork.networks import MLP, LSTMConfig, Network, QHead
from graftwork.runs import RunConfig
from graftwork.training import checkpoint

TINY = (  # of dqn/cartpole
    *("steps=120", "agent.encoder.hidden=[8]", "agent.learning_starts=40", "agent.replay_capacity=100"),
    *("agent.train_period=20", "agent.updates=2", "agent.batch_size=16", "env.max_episode_steps=25"),
    *("evaluation.episodes=3", "log.period=50"),
)


def tiny(**fields: Any) -> RunConfig:
    return validate(RunConfig, load_tree("dqn/cartpole", TINY) | fields)


def files(run_dir: Path, *, times: bool = False) -> dict[str, Any]:
    """Content, or content and time of change, of every file but the lock."""
    found = {str(path.relative_to(run_dir)): path for path in run_dir.rglob("*") if path.is_file()}
    del found[".lock"]
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()}
    return {name: (digests[name], path.stat().st_mtime_ns if times else 0) for name, path in found.items()}


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> gw.Run:
    return gw.train("dqn/cartpole", *TINY, run_dir=tmp_path_factory.mktemp("trained") / "run", quiet=True)


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# train


def test_run_says_how_it_ended(trained):
    assert 120 <= trained.step < 120 + 20  # the first end of a batch at or past its steps
    assert trained.signal is None
    assert trained.evaluation is not None
    assert len(trained.evaluation.returns) == 3
    assert trained.config.agent.batch_size == 16
    assert trained.agent.network.encoder.out_features == 8


def test_preset_name_yaml_path_and_config_give_the_same_run(trained, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(presets()["dqn/cartpole"].text)
    sources = [(str(path), TINY), (path, TINY), (tiny(), ()), (tiny(steps=7, seed=5), ("steps=120", "seed=0"))]
    for number, (source, overrides) in enumerate(sources):
        run = gw.train(source, *overrides, run_dir=tmp_path / str(number), quiet=True)
        assert same_weights(run.agent.network, trained.agent.network)
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            assert (run.run_dir / name).read_bytes() == (trained.run_dir / name).read_bytes()


def test_seed_argument_is_the_seed(tmp_path):
    run = gw.train(tiny(), seed=7, run_dir=tmp_path / "run")
    assert run.config.seed == 7
    assert gw.evaluate(run.run_dir, episodes=2).seed == 7


@pytest.mark.parametrize(
    ("source", "seed", "expected"),
    [
        ("dqn/cartpole", None, "runs/dqn-cartpole-0"),
        ("dqn/cartpole", 3, "runs/dqn-cartpole-3"),
        ("folder/mine.yaml", None, "runs/mine-0"),
        ("folder/mine.yml", 3, "runs/mine-3"),
        (Path("folder/mine.txt"), None, "runs/mine-0"),
        ("folder/mine.txt", None, "runs/mine-0"),
        (tiny(), None, "runs/dqn-CartPole-v1-0"),
        (tiny(run_dir="elsewhere/here"), None, "elsewhere/here"),
    ],
    ids=str,
)
def test_run_directory_is_named_after_the_source_and_the_seed(in_empty_folder, source, seed, expected):
    if isinstance(source, str | Path) and source != "dqn/cartpole":
        Path("folder").mkdir()
        Path(source).write_text(yaml.safe_dump(tiny().model_dump(mode="json")))
    run = gw.train(source, *TINY, "steps=20", seed=seed, quiet=True)
    assert run.run_dir == Path(expected)
    assert run.config.run_dir == expected
    assert (in_empty_folder / expected / "config.yaml").is_file()


def test_run_dir_argument_goes_before_the_configs(tmp_path):
    run = gw.train(tiny(run_dir=str(tmp_path / "config")), "steps=20", run_dir=tmp_path / "argument")
    assert run.run_dir == tmp_path / "argument"
    assert [path.name for path in tmp_path.iterdir()] == ["argument"]


def test_existing_run_is_refused_and_left_alone(trained):
    before = files(trained.run_dir, times=True)
    with pytest.raises(ValueError, match=r"run_dir=.*run exists; `graftwork resume .*run` continues it") as caught:
        gw.train(tiny(), run_dir=trained.run_dir)
    assert "\n" not in str(caught.value)
    assert files(trained.run_dir, times=True) == before


def test_file_in_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match=r"run exists and is no directory; name another"):
        gw.train(tiny(), run_dir=tmp_path / "run")


def test_directory_that_holds_nothing_is_taken(tmp_path):
    gw.train(tiny(), "steps=20", run_dir=tmp_path)


def test_directory_of_a_run_killed_before_it_wrote_its_config_is_taken(tmp_path):
    (tmp_path / ".lock").write_text("12345\n")
    (tmp_path / ".config.yaml.tmp").write_text("steps:")
    gw.train(tiny(), "steps=20", run_dir=tmp_path)
    assert not (tmp_path / ".config.yaml.tmp").exists()


@pytest.mark.parametrize("override", ["agent.sequence_length=2 agent.burn_in=1", "env.id=Pendulum-v1", "device=cuda:9"])
def test_nothing_is_written_when_parts_do_not_go_together(tmp_path, override):
    with pytest.raises(ValueError, match=r"agent.burn_in=1|Discrete|device=cuda:9") as caught:
        gw.train("dqn/cartpole", *TINY, *override.split(), run_dir=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


# config.yaml


def test_config_file_is_resolved_and_comes_back_equal(trained):
    tree = load_tree(trained.run_dir / "config.yaml")
    assert RunConfig.model_validate(tree) == trained.config
    assert tree == trained.config.model_dump(mode="json")
    assert tree["agent"]["target_rate"] == 1.0  # a default
    assert tree["run_dir"] == str(trained.run_dir)


def test_config_file_of_a_run_trains_the_same_run_again(trained, tmp_path):
    again = gw.train(trained.run_dir / "config.yaml", run_dir=tmp_path / "again", quiet=True)
    assert same_weights(again.agent.network, trained.agent.network)


# load, predict, load_encoder, evaluate


def test_loaded_agent_acts_as_the_trained_one(trained):
    agent = gw.load(trained.run_dir)
    assert same_weights(agent.network, trained.agent.network)
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    actions = agent.predict(observations)
    assert actions.shape == (64,)
    assert np.array_equal(actions, trained.agent.predict(observations))
    assert agent.predict(observations[0]) == actions[0]
    assert agent.predict(observations[0]).shape == ()
    assert np.array_equal(actions, agent.predict(observations.tolist()))
    q, _ = agent.network(torch.from_numpy(observations).unsqueeze(0))
    assert np.array_equal(actions, q[0].argmax(-1).numpy())


def test_loading_takes_no_memory_for_the_replay(trained):
    replay = gw.load(trained.run_dir).replay
    assert len(replay) == 0
    assert replay.nbytes > 0
    assert all(ring.rows.is_meta for ring in replay._rows.all_rings.values())


def test_run_of_a_machine_with_a_gpu_is_loaded_without_one(trained, tmp_path):
    shutil.copytree(trained.run_dir, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", "device: cuda"))
    assert same_weights(gw.load(tmp_path / "run").network.cpu(), trained.agent.network)
    assert gw.evaluate(tmp_path / "run", episodes=2).returns == gw.evaluate(trained.run_dir, episodes=2).returns


def test_loading_changes_no_file(trained):
    before = files(trained.run_dir, times=True)
    gw.load(trained.run_dir)
    gw.load_encoder(trained.run_dir)
    gw.evaluate(trained.run_dir, episodes=3)
    assert files(trained.run_dir, times=True) == before


def test_agent_with_a_memory_plays_step_by_step(tmp_path):
    encoder = LSTMConfig(hidden_size=8)
    agent_config = tiny().agent.model_copy(update={"encoder": encoder, "sequence_length": 24, "train_period": 20})
    run = gw.train(tiny().model_copy(update={"agent": agent_config}), run_dir=tmp_path / "run")
    agent = gw.load(run.run_dir)
    with pytest.raises(ValueError, match=r"has a memory: play = agent.player\(\)"):
        agent.predict(np.zeros(4, np.float32))
    observations = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    play = agent.player()
    one_by_one = [int(play(observation)) for observation in observations]
    q, _ = agent.network(torch.from_numpy(observations).unsqueeze(1))
    assert one_by_one == q[:, 0].argmax(-1).tolist()


def test_loaded_encoder_is_the_trained_one_in_eval_mode(trained):
    encoder = gw.load_encoder(trained.run_dir)
    assert same_weights(encoder, trained.agent.network.encoder)
    assert not encoder.training
    features, state = encoder(torch.zeros(3, 5, 4))
    assert features.shape == (3, 5, 8)
    assert state == ()


class Pair(gymnasium.ObservationWrapper):
    """Observes its number and that number's square root."""

    def __init__(self, env):
        super().__init__(env)
        root = gymnasium.spaces.Box(0.0, 4.0, (1,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"number": env.observation_space, "root": root})

    def observation(self, observation):
        return {"number": observation, "root": np.array([observation**0.5], np.float32)}


@pytest.mark.parametrize("wrapper", [None, Pair])
def test_an_observation_of_the_environments_own_space_is_what_an_agent_acts_on(tmp_path, wrapper):
    fields = ("env.id=FrozenLake-v1", "steps=50", "evaluation.episodes=2", "agent.encoder.hidden=[8]")
    agent = gw.train("dqn/cartpole", *fields, run_dir=tmp_path / "run", wrapper=wrapper, quiet=True).agent
    numbers, roots = np.arange(16), np.sqrt(np.arange(16, dtype=np.float32))[:, None]
    batch = numbers if wrapper is None else {"number": numbers, "root": roots}
    actions = agent.predict(batch)
    assert actions.shape == (16,)
    for number in range(16):
        own = number if wrapper is None else {"number": number, "root": roots[number]}
        assert agent.spec.observation_space.contains(own)
        assert agent.predict(own) == actions[number]
    # What the network sees: the number one-hot, and beside it the root.
    parts = [torch.eye(16), *([] if wrapper is None else [torch.from_numpy(roots)])]
    q = agent.network.head(agent.network.encoder.layers(torch.cat(parts, 1)))
    assert actions.tolist() == q.argmax(-1).tolist()


def test_evaluation_plays_the_same_fresh_episodes_again(trained):
    result = gw.evaluate(trained.run_dir, episodes=7)
    assert (len(result.returns), result.seed, result.step) == (7, 0, trained.step)
    assert gw.evaluate(trained.run_dir, episodes=7) == result
    assert gw.evaluate(trained.run_dir, episodes=7, seed=0) == result
    other = gw.evaluate(trained.run_dir, episodes=7, seed=1)
    assert other.seed == 1
    assert other.returns != result.returns


def test_evaluation_changes_with_the_weights_only(trained):
    few, many = (gw.evaluate(trained.run_dir, episodes=episodes) for episodes in (10, 20))
    assert many.returns[:10] == few.returns


@pytest.mark.parametrize(("name", "value"), [("episodes", 0), ("seed", -1)])
def test_evaluation_refuses_numbers_out_of_range(trained, name, value):
    with pytest.raises(ValueError, match=rf"{name}={value}: must be at least"):
        gw.evaluate(trained.run_dir, **{name: value})


def test_evaluation_closes_its_environments(trained):
    closed = []

    class Noted(gymnasium.Wrapper[Any, Any, Any, Any]):
        def close(self) -> None:
            closed.append(self)
            self.env.close()

    made = []

    def wrapper(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        made.append(Noted(env))
        return made[-1]

    gw.evaluate(trained.run_dir, episodes=3, wrapper=wrapper)
    assert len(made) == 4  # one for its spaces
    assert set(closed) == set(made)


@pytest.mark.parametrize("call", [gw.load, gw.load_encoder, gw.evaluate, gw.resume])
def test_directory_that_is_no_run_is_refused_in_one_line(tmp_path, call):
    with pytest.raises(ValueError, match=r"run directory .*nowhere does not exist"):
        call(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"run directory .* has no config.yaml"):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


# resume


@pytest.mark.parametrize("tracker", ["files", "tensorboard"])
def test_resuming_a_finished_run_changes_no_file(tmp_path, capsys, tracker):
    run = gw.train(tiny(tracker=tracker), run_dir=tmp_path / "run", quiet=True)
    before = files(run.run_dir, times=True)
    again = gw.resume(run.run_dir, quiet=True)
    assert files(run.run_dir, times=True) == before
    assert (again.step, again.signal, again.evaluation) == (run.step, None, None)
    assert same_weights(again.agent.network, run.agent.network)
    assert "nothing left to do: all 120 steps are done; a larger steps=... goes on" in capsys.readouterr().err


def test_config_that_does_not_fit_the_checkpoint_does_not_replace_the_one_that_does(trained, tmp_path):
    run_dir = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    before = files(run_dir, times=True)
    with pytest.raises(ValueError, match=r"weight is \[8, 4\], this one \[16, 4\]") as caught:
        gw.resume(run_dir, "agent.encoder.hidden=[16]", "steps=200")
    assert "\n" not in str(caught.value)
    assert files(run_dir, times=True) == before
    assert gw.resume(run_dir, "steps=200").step >= 200


def test_resume_with_more_steps_says_so_in_its_config(trained, tmp_path):
    run_dir = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    assert gw.resume(run_dir, "steps=160").config.steps == 160
    assert load_tree(run_dir / "config.yaml")["steps"] == 160


def test_run_without_checkpoints_begins_again_only_if_it_never_had_any(trained, tmp_path):
    run_dir = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    shutil.rmtree(run_dir / "checkpoints")
    before = files(run_dir, times=True)
    with pytest.raises(ValueError, match=r"no checkpoint in .*checkpoints, but .*metrics.jsonl has rows"):
        gw.resume(run_dir)
    assert files(run_dir, times=True) == before
    for name in ("metrics.jsonl", "evaluations.jsonl", "timings.jsonl"):
        os.truncate(run_dir / name, 0)
    assert gw.resume(run_dir).step == trained.step
    assert (run_dir / "metrics.jsonl").read_bytes() == (trained.run_dir / "metrics.jsonl").read_bytes()


def test_moved_run_is_resumed_where_it_is(trained, tmp_path):
    run_dir = Path(shutil.copytree(trained.run_dir, tmp_path / "moved"))
    before = files(trained.run_dir, times=True)
    run = gw.resume(run_dir, "steps=140")
    assert run.run_dir == run_dir
    assert checkpoint.load_newest(run_dir / "checkpoints").step == run.step > trained.step
    assert files(trained.run_dir, times=True) == before


# Objects of the user's own


def make_env() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1", max_episode_steps=25)


class Mirrored(gymnasium.ObservationWrapper[Any, Any, Any]):
    def observation(self, observation: Any) -> Any:
        return -observation


class OwnEncoder(MLP):
    """A class that no config names."""


def own_encoder() -> OwnEncoder:
    return OwnEncoder((4,), (5,))


def own_network() -> Network[Tensor]:
    return Network(own_encoder(), QHead(5, 2))


OBJECTS: dict[str, Any] = {
    "env": lambda: make_env,
    "wrapper": lambda: Mirrored,
    "encoder": own_encoder,
    "network": own_network,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_object_of_ones_own_goes_through_a_whole_life(tmp_path, capsys, name):
    def given() -> dict[str, Any]:
        torch.manual_seed(3)
        return {name: OBJECTS[name]()}

    short = gw.train(tiny(), "steps=60", run_dir=tmp_path / "short", **given())
    assert f"built with {name} given in Python: the config alone cannot rebuild this run" in capsys.readouterr().err
    assert short.config.objects == (name,)
    assert load_tree(short.run_dir / "config.yaml")["objects"] == [name]

    missing = rf"short was built with its own {name}: pass {name}=\.\.\. again"
    for call in (gw.load, gw.load_encoder, gw.evaluate, gw.resume):
        with pytest.raises(ValueError, match=missing) as caught:
            call(short.run_dir)
        assert "\n" not in str(caught.value)

    assert same_weights(gw.load(short.run_dir, **given()).network, short.agent.network)
    assert len(gw.evaluate(short.run_dir, episodes=2, **given()).returns) == 2
    assert gw.load_encoder(short.run_dir, **given()).out_features == (5 if name in ("encoder", "network") else 8)

    resumed = gw.resume(short.run_dir, "steps=120", **given())
    assert resumed.config.objects == (name,)
    whole = gw.train(tiny(), run_dir=tmp_path / "whole", **given())
    final = [sorted((run.run_dir / "checkpoints").iterdir())[-1] for run in (resumed, whole)]
    assert final[0].name == final[1].name
    assert (final[0] / "state.safetensors").read_bytes() == (final[1] / "state.safetensors").read_bytes()


def test_encoder_is_trained_on_from_the_weights_it_has(tmp_path):
    encoder = own_encoder()
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    run = gw.train(tiny(), "agent.learning_starts=90", "steps=20", run_dir=tmp_path / "untrained", encoder=encoder)
    assert run.agent.network.encoder is encoder
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    gw.train(tiny(), run_dir=tmp_path / "trained", encoder=encoder)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


def test_encoder_of_one_run_is_grafted_onto_another(trained, tmp_path):
    encoder = gw.load_encoder(trained.run_dir)
    run = gw.train("reinforce/cartpole", "steps=50", "env.num_envs=2", run_dir=tmp_path / "run", encoder=encoder)
    assert run.agent.network.encoder is encoder


def test_frozen_encoder_stays_as_it_is_and_resumes(trained, tmp_path):
    def frozen() -> Any:
        return gw.load_encoder(trained.run_dir).requires_grad_(False)

    gw.train(tiny(), "steps=60", run_dir=tmp_path / "run", encoder=frozen())
    run = gw.resume(tmp_path / "run", "steps=120", encoder=frozen())
    assert same_weights(run.agent.network.encoder, trained.agent.network.encoder)
    assert not same_weights(run.agent.network.head, trained.agent.network.head)


def test_object_that_is_new_at_a_resume_is_recorded(trained, tmp_path):
    run_dir = Path(shutil.copytree(trained.run_dir, tmp_path / "run"))
    assert gw.resume(run_dir, "steps=140", wrapper=gymnasium.Wrapper).config.objects == ("wrapper",)
    with pytest.raises(ValueError, match=r"built with its own wrapper"):
        gw.load(run_dir)


def test_own_environment_replaces_the_one_of_the_config(tmp_path):
    made = []

    def make() -> gymnasium.Env[Any, Any]:
        made.append(gymnasium.make("Acrobot-v1", max_episode_steps=10))
        return made[-1]

    run = gw.train(tiny(), "steps=40", run_dir=tmp_path / "run", env=make)
    assert made
    assert run.agent.spec.observation_space.shape == (6,)


def test_own_environment_with_options_goes_into_processes(tmp_path):
    env = functools.partial(gymnasium.make, "CartPole-v1", max_episode_steps=5)
    config = tiny(env=EnvConfig(id="CartPole-v1", num_envs=2, asynchronous=True))
    run = gw.train(config, run_dir=tmp_path / "run", env=env)
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert {row["episode/length"] for row in rows if "episode/length" in row} == {5.0}


def test_objects_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"takes no observation of Box\(.*\(4,\), float32\): ") as caught:
        gw.train(tiny(), run_dir=tmp_path / "run", encoder=OwnEncoder((6,), (5,)))
    assert "\n" not in str(caught.value)
    line = r"the network gives values of shape \[3\], but agent.value.kind=scalar on env.id=CartPole-v1 needs \[2\]"
    with pytest.raises(ValueError, match=line):
        gw.train(tiny(), run_dir=tmp_path / "run", network=Network(own_encoder(), QHead(5, 3)))
    assert not (tmp_path / "run").exists()


# Failures during a run


class Poisoned(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives a NaN as the reward of its 70th step."""

    steps = 0

    def step(self, action: Any) -> Any:
        observation, reward, *rest = self.env.step(action)
        self.steps += 1
        return observation, math.nan if self.steps == 70 else reward, *rest


class Broken(Poisoned):
    """Raises at its 70th step."""

    def step(self, action: Any) -> Any:
        if self.steps == 69:
            raise ZeroDivisionError
        return super().step(action)


@pytest.mark.parametrize(("wrapper", "error"), [(Poisoned, ValueError), (Broken, EnvironmentFailure)])
def test_failure_keeps_checkpoints_and_saves_the_last_weights_beside_them(tmp_path, wrapper, error):
    whole = gw.train(tiny(), "checkpoint.period=40", run_dir=tmp_path / "whole", wrapper=gymnasium.Wrapper)
    with pytest.raises(error, match=r"^step \d+: .*last finite weights: .*failure/step_\d{12}\)$") as caught:
        gw.train(tiny(), "checkpoint.period=40", run_dir=tmp_path / "run", wrapper=wrapper)
    (failure,) = (tmp_path / "run" / "failure").iterdir()
    assert str(failure) in str(caught.value)
    assert 50 <= checkpoint.load(failure).step < 70
    weights = checkpoint.load(failure).state["learner"]["network"]
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert 40 <= checkpoint.load_newest(tmp_path / "run" / "checkpoints").step < 70
    mended = gw.resume(tmp_path / "run", wrapper=gymnasium.Wrapper)
    assert same_weights(mended.agent.network, whole.agent.network)


def test_every_preset_of_a_task_builds(tmp_path, monkeypatch):  # those of agents learn, see test_presets.py
    from graftwork.runs import session

    class Built(Exception):
        pass

    def stop(*_: object) -> None:
        raise Built

    monkeypatch.setattr(session.Session, "run", stop)
    for name in presets():
        if not name.startswith(("dqn/", "pqn/", "reinforce/", "sb3/")):
            with pytest.raises(Built):
                gw.train(name, run_dir=tmp_path / name)


@pytest.mark.parametrize(("norm", "is_told"), [("batch", True), ("layer", False)])
def test_batch_norm_in_an_agent_is_warned_of(tmp_path, capsys, norm, is_told):
    gw.train("dqn/cartpole", *TINY, f"agent.encoder.norm={norm}", run_dir=tmp_path / "run", quiet=True)
    assert ("batch norm counts rows that the loss leaves out" in capsys.readouterr().err) == is_told
