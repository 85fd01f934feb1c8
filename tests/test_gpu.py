"""On a CUDA device a run is as exact as elsewhere, and what it trained acts and predicts there (make test-gpu)."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import graftwork as gw
from graftwork.envs import FrameStack
from graftwork.networks import LSTM, LSTMConfig, MLPConfig
from graftwork.training.checkpoint import load_newest

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SMALL = ["env.num_envs=3", "evaluation.period=100", "evaluation.episodes=3", "checkpoint.period=60"]
LSTM_FIELDS = ["agent.encoder.hidden_size=8", "agent.replay_capacity=3000"]
DQN = ["agent.learning_starts=50", "agent.batch_size=8", "agent.train_period=10", "agent.updates=2"]
RAINBOW = ["agent.head={dueling: true, hidden: 8, noise: 0.5}", "agent.n_step=3", "agent.prioritised={}"]
C51 = "agent.value={kind: categorical, low: 0, high: 100}"
SOFT = "agent.munchausen={}"
R2D2 = ["agent.n_step=3", "agent.prioritised={}", "agent.value_rescaling=true", "agent.head.dueling=true"]
TWO_LAYERS = ["agent.encoder.num_layers=2", "agent.encoder.dropout=0.2"]
SEQUENCES = ["agent.sequence_length=14", "agent.burn_in=4"]
NORM_AND_DROPOUT = ["agent.encoder.hidden=[8, 8]", "agent.encoder.norm=batch", "agent.encoder.dropout=0.2"]
COMBINED = "agent.encoder={kind: combined, encoders: {cart: {kind: mlp, hidden: [8], dropout: 0.2}}}"


class Parts(gymnasium.ObservationWrapper[Any, Any, Any]):
    """An observation of four numbers as a dict, and beside them which way the pole leans."""

    observation_space = spaces.Dict({"cart": spaces.Box(-np.inf, np.inf, (4,)), "leans": spaces.Discrete(2)})

    def observation(self, observation: Any) -> dict[str, Any]:
        return {"cart": observation, "leans": np.int64(observation[2] > 0)}


class Branches(gymnasium.Wrapper[Any, Any, Any, Any]):
    """CartPole by two branches of unequal size: one pushes, the other idles; what idled may not do so again."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.action_space = spaces.MultiDiscrete([2, 3])

    def reset(self, **kwargs: Any) -> Any:
        return self.env.reset(**kwargs)[0], {"action_mask": np.ones(5, np.int8)}

    def step(self, action: Any) -> Any:
        *row, _ = self.env.step(action[0])
        return *row, {"action_mask": np.array([1, 1, *(np.arange(3) != action[1])], np.int8)}


class Masked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Whoever leans far to one side may push that way alone."""

    def reset(self, **kwargs: Any) -> Any:
        observation, _ = self.env.reset(**kwargs)
        return observation, {"action_mask": np.ones(2, np.int8)}

    def step(self, action: Any) -> Any:
        observation, *row, _ = self.env.step(action)
        return observation, *row, {"action_mask": np.array([observation[2] < 0.1, observation[2] > -0.1], np.int8)}


class Picture(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Where cart and pole are, as bright columns of a small picture."""

    observation_space = spaces.Box(0, 255, (1, 12, 12), np.uint8)

    def observation(self, observation: Any) -> Any:
        picture = np.zeros((1, 12, 12), np.uint8)
        picture[0, :6, int(np.clip(6 + 2.4 * observation[0], 0, 11))] = 255
        picture[0, 6:, int(np.clip(6 + 24 * observation[2], 0, 11))] = 255
        return picture


def stacked(env: gymnasium.Env[Any, Any]) -> FrameStack:
    return FrameStack(Picture(env), 3)


CONV = "agent.encoder={kind: conv, channels: first, layers: [{channels: 4, kernel: 3}], hidden: 8}"
CELL = "inner: {kind: mlp, hidden: [8]}"
MLP = "agent.encoder.hidden=[8]"
PQN = ["agent.rollout_rows=8", "agent.minibatches=2"]
REPLAYS = {
    f"replay-{storage}-{name}": (["dqn/cartpole", *DQN, f"agent.replay_storage={storage}", *fields], objects)
    for storage in ("device", "pinned", "mapped")
    for name, fields, objects in [
        ("prioritised-n-step", [MLP, "agent.prioritised={}", "agent.n_step=3"], {}),
        ("frames", [CONV, "agent.n_step=2"], {"wrapper": stacked}),
        ("frames-prioritised", [CONV, "agent.prioritised={}"], {"wrapper": stacked}),
        ("masks", [MLP, "agent.prioritised={}", "agent.n_step=2"], {"wrapper": Masked}),
        ("branches", [MLP, "agent.head.dueling=true", "agent.n_step=2"], {"wrapper": Branches}),
    ]
}

CELLS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "dqn-mlp": (["dqn/cartpole", *DQN, "agent.encoder.hidden=[8]"], {}),
    "dqn-lstm": (["dqn/cartpole-memory", *DQN, *LSTM_FIELDS, *SEQUENCES], {}),
    "dqn-lstm-dropout": (
        ["dqn/cartpole-memory", *DQN, *LSTM_FIELDS, *SEQUENCES, *TWO_LAYERS],
        {},
    ),
    "dqn-norm-dropout": (["dqn/cartpole", *DQN, *NORM_AND_DROPOUT], {}),
    "dqn-dict": (["dqn/cartpole", *DQN, COMBINED], {"wrapper": Parts}),
    "dqn-rainbow": (["dqn/cartpole", *DQN, *RAINBOW, C51], {}),
    "dqn-munchausen-quantiles": (["dqn/cartpole", *DQN, *RAINBOW, "agent.value.kind=quantile", SOFT], {}),
    "dqn-munchausen-implicit": (["dqn/cartpole", *DQN, "agent.value.kind=implicit", SOFT], {}),
    "dqn-r2d2": (["dqn/cartpole-memory", *DQN, *LSTM_FIELDS, *SEQUENCES, *R2D2], {}),
    "dqn-munchausen": (["dqn/cartpole", *DQN, MLP, SOFT], {}),
    "dqn-soft-target": (["dqn/cartpole", *DQN, MLP, "agent.target_rate=0.05", "agent.double=true"], {}),
    "dqn-r2d2-pinned": (
        ["dqn/cartpole-memory", *DQN, *LSTM_FIELDS, *SEQUENCES, *R2D2, "agent.replay_storage=pinned"],
        {},
    ),
    "dqn-gru-zero-state": (
        [
            *("dqn/cartpole-memory", *DQN, "agent.replay_capacity=3000", *SEQUENCES, "agent.stored_state=false"),
            f"agent.encoder={{kind: gru, hidden_size: 8, {CELL}}}",
        ],
        {},
    ),
    "pqn-mlp": (["pqn/cartpole", *PQN, MLP], {}),
    "pqn-lstm": (["pqn/cartpole", *PQN, f"agent.encoder={{kind: lstm, hidden_size: 8, {CELL}}}"], {}),
    "pqn-masks": (["pqn/cartpole", *PQN, MLP], {"wrapper": Masked}),
    "pqn-branches": (["pqn/cartpole", *PQN, MLP, "agent.dueling=true"], {"wrapper": Branches}),
    **REPLAYS,
    "reinforce-mlp": (["reinforce/cartpole"], {}),
    "reinforce-lstm": (["reinforce/cartpole-memory"], {}),
    "reinforce-norm-dropout": (["reinforce/cartpole", *NORM_AND_DROPOUT], {}),
    "reinforce-dict": (["reinforce/cartpole", COMBINED], {"wrapper": Parts}),
}

N = 150
TASKS = {
    "task": ["task.encoder={kind: mlp, hidden: [8, 8], norm: batch, dropout: 0.2}"],
    "task-lstm": ["task.encoder={kind: lstm, hidden_size: 6, num_layers: 2, dropout: 0.2, bidirectional: true}"],
    "ensemble": ["task.members=3", "task.encoder={kind: mlp, hidden: [8, 8], norm: layer, dropout: 0.2}"],
}


def labelled() -> tuple[np.ndarray, np.ndarray]:
    """Four numbers each, and whether their sum is positive."""
    inputs = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    return inputs, inputs.sum(1) > 0


@pytest.fixture
def device() -> str:
    return "cuda"


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    network: dict[str, torch.Tensor] = load_newest(run_dir / "checkpoints").state["learner"]["network"]
    return network


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_run_in_two_parts_ends_like_one_in_one(
    cell: tuple[list[str], dict[str, Any]], tmp_path: Path, device: str
) -> None:
    (preset, *fields), objects = cell
    fields += [*SMALL, f"device={device}"]
    whole = gw.train(preset, *fields, "steps=600", run_dir=tmp_path / "whole", quiet=True, **objects)
    gw.train(preset, *fields, "steps=300", run_dir=tmp_path / "parts", quiet=True, **objects)
    parts = gw.resume(tmp_path / "parts", "steps=600", quiet=True, **objects)
    assert parts.step == whole.step
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [(tmp_path / run / name).read_text().splitlines() for run in ("whole", "parts")]
        # The end of the first part is evaluated, which the whole run was not.
        assert set(rows[0]) <= set(rows[1])
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_a_task_in_two_parts_ends_like_one_in_one(fields: list[str], tmp_path: Path, device: str) -> None:
    def train(name: str, epochs: int) -> gw.Run:
        given = [*fields, f"device={device}", f"epochs={epochs}", "checkpoint.period=2", "evaluation.patience=5"]
        return gw.train("supervised/digits-mlp", *given, run_dir=tmp_path / name, data=labelled(), quiet=True)

    whole = train("whole", 7)
    train("parts", 4)
    parts = gw.resume(tmp_path / "parts", "epochs=7", data=labelled(), quiet=True)
    assert parts.step == whole.step
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [(tmp_path / run / name).read_bytes() for run in ("whole", "parts")]
        assert rows[0] == rows[1] != b""
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_a_model_that_was_trained_on_a_device_predicts_on_it(fields: list[str], tmp_path: Path, device: str) -> None:
    inputs, labels = labelled()
    run = gw.train(
        "supervised/digits-mlp",
        *[*fields, f"device={device}", "epochs=30", "task.learning_rate=1e-2"],
        run_dir=tmp_path / "run",
        data=(inputs, labels),
        quiet=True,
    )
    assert next(run.model.network.parameters()).device.type == device
    assert (run.model.predict(inputs) == labels).mean() > 0.8
    loaded = gw.load(tmp_path / "run")
    assert np.array_equal(loaded.probabilities(inputs), run.model.probabilities(inputs))
    scores = gw.evaluate(tmp_path / "run", data=(inputs, labels))
    assert next(iter(scores.heads.values())).accuracy > 0.7


@pytest.mark.parametrize("name", ["dqn-mlp", "dqn-dict"])
def test_an_agent_that_was_trained_on_a_device_plays_on_it(name: str, tmp_path: Path, device: str) -> None:
    (preset, *fields), objects = CELLS[name]
    fields += [*SMALL, f"device={device}", "steps=100"]
    run = gw.train(preset, *fields, run_dir=tmp_path / "run", quiet=True, **objects)
    assert next(run.agent.network.parameters()).device.type == device
    numbers = torch.randn(5, 4).numpy()
    observation = {"cart": numbers, "leans": np.arange(5) % 2} if objects else numbers
    actions = run.agent.predict(observation)
    assert actions.shape == (5,)
    assert (gw.load(tmp_path / "run", **objects).predict(observation) == actions).all()


def two_ways(device: str) -> tuple[LSTM, torch.Tensor]:
    """Two layers that read both ways with dropout between them, and observations [T, B, 3]."""
    config = LSTMConfig(hidden_size=6, num_layers=2, dropout=0.4, bidirectional=True, inner=MLPConfig(hidden=(5,)))
    encoder = config.build(spaces.Box(-np.inf, np.inf, (3,)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return encoder.to(device), torch.randn(7, 5, 3, generator=generator).to(device)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_two_layers_both_ways_with_dropout_are_the_same_in_one_kernel_and_step_by_step(
    training: bool, device: str
) -> None:
    encoder, observation = two_ways(device)
    encoder.train(training)
    found = []
    for is_first in (None, torch.zeros(observation.shape[:2], dtype=torch.bool, device=device)):
        # Not in TensorFloat-32, which cuDNN would take for the kernel alone.
        with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            torch.manual_seed(1)  # so that both drop the same
            features, state = encoder(observation, (), is_first)
            assert state == ()
            gradients = torch.autograd.grad(features.square().sum(), list(encoder.parameters()))
        found.append([features.detach(), *gradients])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert found[0][0].shape == (7, 5, 12)


def test_dropout_between_the_layers_goes_by_torchs_stream(device: str) -> None:
    encoder, observation = two_ways(device)
    encoder.train()

    def features(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found: torch.Tensor = encoder(observation)[0]
            return found

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
