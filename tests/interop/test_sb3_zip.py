import base64
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import FlattenExtractor

from graftwork.interop import from_sb3, sb3_zip
from graftwork.interop.sb3_zip import read

VECTOR = spaces.Box(-1, 1, (4,))


@pytest.fixture(scope="module")
def original(build) -> bytes:
    """A small DQN model's file."""
    file = BytesIO()
    build(DQN, "MlpPolicy", VECTOR, net_arch=[5], activation_fn=torch.nn.Tanh).save(file)
    return file.getvalue()


@pytest.fixture
def path(tmp_path: Path, original: bytes) -> Path:
    (tmp_path / "model.zip").write_bytes(original)
    return tmp_path / "model.zip"


def data_of(archive: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(BytesIO(archive)) as file:
        found: dict[str, Any] = json.loads(file.read("data"))
        return found


@pytest.fixture
def with_data(replaced) -> Callable[..., None]:
    """Replaces attributes of a saved model, or with a dict some of an attribute's own."""

    def change(path: Path, **changes: Any) -> None:
        data = data_of(path.read_bytes())
        for name, value in changes.items():
            data[name] = {**(data[name] or {}), **value} if isinstance(value, dict) else value
        path.write_bytes(replaced(path.read_bytes(), "data", json.dumps(data).encode()))

    return change


def refusal(path: Path) -> str:
    """The one line that importing it is refused with, after the file's name."""
    with pytest.raises(ValueError, match=r"model") as caught:
        from_sb3(path)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    assert len(said) < len(str(path)) + 250
    return said.removeprefix(str(path)).removeprefix(": ")


def test_what_is_read_is_what_the_model_says(path):
    model = read(path)
    assert (model.algorithm, model.discount, model.step) == ("DQN", 0.99, 1234)
    assert model.activation == "torch.nn.modules.activation.Tanh"
    assert model.observation_space == VECTOR
    assert model.action_space == spaces.Discrete(3)
    assert model.weights["q_net.q_net.0.weight"].shape == (5, 4)
    assert not model.divides_images


@pytest.mark.parametrize(
    ("space", "read_as"),
    [
        (spaces.Box(0, 255, (3, 40, 44), np.uint8), None),
        (spaces.Box(-1.5, np.inf, (40, 50), np.float32), None),  # more numbers than are printed
        (
            spaces.Box(np.arange(2000, dtype=np.float32), np.inf, dtype=np.float32),
            spaces.Box(-np.inf, np.inf, (2000,), np.float32),
        ),
        (
            spaces.Box(np.arange(2000), 5000, dtype=np.int64),
            spaces.Box(np.iinfo(np.int64).min, 5000, (2000,), np.int64),
        ),
        (spaces.Box(-(2**63), 2**63 - 1, (3,), np.int64), None),
        (spaces.Box(0.1, 0.7, (3, 2), np.float16), None),
        (spaces.Box(0, 1, (5,), np.bool_), None),
        (spaces.Box(0, 1, (1,), np.float64), None),
        (spaces.Discrete(7), None),
        (spaces.MultiDiscrete([3, 5]), None),
        (spaces.MultiBinary(6), None),
        (spaces.MultiBinary([2, 3]), None),
    ],
)
def test_observation_space_is_the_model_s(saved, space, read_as):
    _, path = saved(PPO, "MlpPolicy", space, net_arch=[5])
    found = read(path).observation_space
    assert found == (space if read_as is None else read_as)
    assert found.dtype == space.dtype


@pytest.mark.parametrize(("kind", "name"), [(DQN, "DQN"), (A2C, "A2C"), (PPO, "PPO")])
def test_algorithms_are_told_apart(saved, kind, name):
    assert read(saved(kind)[1]).algorithm == name


# What is not read


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_pickles_beside_the_weights_are_never_looked_at(path, tmp_path, replaced):
    marker = tmp_path / "marker"
    evil = pickle.dumps(Payload(marker))
    data = data_of(path.read_bytes())
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(evil).decode()
    before = from_sb3(path).network.state_dict()
    content = replaced(path.read_bytes(), "data", json.dumps(data).encode())
    for member in ("pytorch_variables.pth", "policy.optimizer.pth"):
        hostile = BytesIO()
        torch.save(Payload(marker), hostile)
        content = replaced(content, member, hostile.getvalue())
    path.write_bytes(content)
    after = from_sb3(path).network.state_dict()
    assert not marker.exists()
    assert all(torch.equal(before[name], after[name]) for name in before)
    pickle.loads(evil)
    assert marker.exists()  # so that it would have been


@pytest.mark.parametrize(
    "hostile",
    [lambda evil, weights: evil, lambda evil, weights: weights | {"q_net.q_net.0.weight": evil}],
)
def test_weights_that_run_something_run_nothing(path, tmp_path, hostile, replaced, build):
    marker, policy = tmp_path / "marker", BytesIO()
    weights = build(DQN, net_arch=[5]).policy.state_dict()
    torch.save(hostile(Payload(marker), weights), policy)
    path.write_bytes(replaced(path.read_bytes(), "policy.pth", policy.getvalue()))
    assert refusal(path) == f"/policy.pth: asks for {os.system.__module__}.system: not a table of weights"
    assert not marker.exists()
    torch.load(BytesIO(policy.getvalue()), weights_only=False)
    assert marker.exists()


# What is refused


def test_file_that_is_not_there_is_named(tmp_path):
    assert refusal(tmp_path / "model.zip") == "there is no such file"
    (tmp_path / "a model").mkdir()
    assert refusal(tmp_path / "a model") == "is a folder, not a zip file"


def test_file_that_is_no_model_is_refused(path, replaced):
    path.write_bytes(b"garbage")
    assert refusal(path).startswith("is no zip file, or a damaged one")
    path.write_bytes(replaced(b"PK\x05\x06" + bytes(18), "readme", b""))
    assert refusal(path) == "is no model of Stable-Baselines3: it has no data and policy.pth"


@pytest.mark.parametrize("version", ["1.8.0", "3.0.0", "", "new", "\x1b[2J"])
def test_version_that_is_not_known_is_refused(path, version, replaced):
    path.write_bytes(replaced(path.read_bytes(), "_stable_baselines3_version", version.encode()))
    said = ascii(version)[1:-1] or "of no version"
    assert refusal(path) == f"was written by Stable-Baselines3 {said}; 2.0 to 2.x are read"


@pytest.mark.parametrize("version", ["2.0.0", "2.9.2", "2.10.0a3\n"])
def test_every_version_2_is_read(path, version, replaced):
    path.write_bytes(replaced(path.read_bytes(), "_stable_baselines3_version", version.encode()))
    assert read(path).algorithm == "DQN"


@pytest.mark.parametrize(("kind", "name"), [(SAC, "SAC"), (TD3, "TD3 or DDPG")])
def test_model_of_another_algorithm_is_refused(tmp_path, kind, name):
    model = kind("MlpPolicy", "Pendulum-v1", buffer_size=1, policy_kwargs={"net_arch": [5]}, device="cpu")
    model.save(tmp_path / "model.zip")
    assert refusal(tmp_path / "model.zip").startswith(f"is a model of {name}; DQN, A2C and PPO can be imported")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("sb3_contrib.qrdqn.policies", "is a model of QR-DQN; "),
        ("sb3_contrib.common.recurrent.policies", "is a model of RecurrentPPO; "),
        ("sb3_contrib.common.maskable.policies", "is a model of MaskablePPO; "),
        ("__main__", "its policy is a class of __main__; "),
        (None, "its policy is a class of None; "),
    ],
)
def test_policy_class_of_another_module_is_refused(path, module, said, with_data):
    with_data(path, policy_class={"__module__": module})
    assert refusal(path).startswith(said)


def test_model_of_trpo_is_refused(saved, with_data):
    _, path = saved(A2C)
    with_data(path, cg_max_steps=15)
    assert refusal(path).startswith("is a model of TRPO; ")


@pytest.mark.parametrize(
    ("actions", "kind"),
    [
        (spaces.Box(-1, 1, (2,)), "Box"),
        (spaces.MultiDiscrete([3, 2]), "MultiDiscrete"),
        (spaces.MultiBinary(3), "MultiBinary"),
    ],
)
def test_actions_that_are_no_single_choice_are_refused(saved, actions, kind):
    _, path = saved(PPO, "MlpPolicy", VECTOR, actions)
    assert refusal(path) == f"its action space is of kind {kind}; only Discrete actions can be imported"


def test_dict_observations_are_refused(saved):
    _, path = saved(PPO, "MultiInputPolicy", spaces.Dict(a=VECTOR, b=spaces.Discrete(3)))
    assert refusal(path).startswith("its observation space is of kind Dict; ")


def test_choices_that_do_not_count_from_0_are_refused(saved, with_data):
    _, path = saved(PPO, "MlpPolicy", spaces.Discrete(4))
    with_data(path, observation_space={"start": "2"})
    assert refusal(path) == "observation_space.start=2: SB3's networks count from 0"


class Halved(FlattenExtractor):
    """A features extractor of the user's own."""


class Doubled(torch.nn.ReLU):
    """An activation of the user's own."""


def test_activation_of_the_user_s_own_is_refused(saved):
    _, path = saved(DQN, net_arch=[5], activation_fn=Doubled)
    assert refusal(path).startswith(
        "activation_fn=tests.interop.test_sb3_zip.Doubled: must be one of torch.nn's ReLU, "
    )


def test_extractor_of_the_user_s_own_is_refused(saved):
    _, path = saved(PPO, features_extractor_class=Halved)
    assert refusal(path).startswith("features_extractor_class=<class 'tests.interop.test_sb3_zip.Halved'>: must be ")


def test_features_extractors_of_policy_and_value_apart_are_refused(saved, with_data):
    _, path = saved(A2C, "CnnPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8), share_features_extractor=False)
    assert refusal(path) == "share_features_extractor=False: a network here has one encoder"
    with_data(path, policy_kwargs={"share_features_extractor": True})  # the weights tell, too
    assert refusal(path) == "share_features_extractor=False: a network here has one encoder"


def test_gsde_is_refused(saved, with_data):
    _, path = saved(PPO)
    with_data(path, use_sde=True)
    assert refusal(path).startswith("use_sde=True: ")


@pytest.mark.parametrize("kind", [DQN, PPO])
def test_network_without_a_hidden_layer_is_refused(saved, kind):
    _, path = saved(kind, net_arch=[])
    assert refusal(path) == "net_arch=[]: an encoder here has one layer at least"


@pytest.mark.parametrize(
    ("kind", "arch", "activation", "said"),
    [
        (PPO, [6], torch.nn.ReLU, "net_arch=[6]"),
        (DQN, [6, 7], torch.nn.ReLU, "net_arch=[6, 7]"),
        (DQN, [6], torch.nn.Tanh, "net_arch=[6]"),
    ],
)
def test_layers_behind_the_nature_cnn_are_refused(saved, kind, arch, activation, said):
    space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    _, path = saved(kind, "CnnPolicy", space, net_arch=arch, activation_fn=activation)
    assert refusal(path).startswith(f"{said} behind the Nature CNN: ")


@pytest.fixture
def rewritten(replaced) -> Callable[..., None]:
    """Changes the weights of a saved model."""

    def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
        with zipfile.ZipFile(path) as file:
            weights = torch.load(BytesIO(file.read("policy.pth")), weights_only=True)
        change(weights)
        policy = BytesIO()
        torch.save(OrderedDict((name, each.clone()) for name, each in weights.items()), policy)
        path.write_bytes(replaced(path.read_bytes(), "policy.pth", policy.getvalue()))

    return rewrite


@pytest.mark.parametrize(
    ("name", "weight", "said"),
    [
        ("q_net.q_net.0.weight", None, "q_net.q_net has layers at the places [2]; only linear layers can be imported"),
        ("q_net.q_net.0.bias", None, "its policy has no q_net.q_net.0.bias; did you mean q_net.q_net.2.bias?"),
        ("q_net_target.q_net.2.bias", None, "its policy has no q_net_target.q_net.2.bias"),
        ("q_net.q_net.0.bias", (4,), "q_net.q_net.0.bias is [4], but by the layers around it [5]"),
        ("q_net.q_net.0.weight", (5, 3), "a layer of shape [5, 3] does not fit the 4 numbers of the observation"),
        ("q_net.q_net.0.weight", (1 << 20, 4), "a layer of shape [3, 5] does not fit the 1048576 numbers of the layer"),
        ("q_net.q_net.2.weight", (2, 5), "the last layer gives 2 numbers for 3 actions"),
        ("q_net.q_net.2.weight", (15,), "a layer of shape [15] does not fit the 5 numbers of the layer before"),
        ("q_net.q_net.4.weight", (3, 3), "its policy has no q_net.q_net.4.bias"),
        ("q_net.q_net.1.weight", (5,), "q_net.q_net has layers at the places [0, 1, 2]; "),
        ("q_net.extra", (5,), "its policy has q_net.extra, which SB3's own for DQN has not"),
        ("q_net.features_extractor.cnn.0.weight", (5,), "its policy has no q_net.features_extractor.linear.0.weight"),
        ("log_std", (2,), "its policy has log_std, which SB3's own for DQN has not"),
    ],
)
def test_weights_of_another_network_are_refused(path, name, weight, said, rewritten):
    def change(weights: dict[str, torch.Tensor]) -> None:
        if weight is None:
            del weights[name]
        else:
            weights[name] = torch.zeros(weight)

    rewritten(path, change)
    assert refusal(path).startswith(said)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_weights_of_another_type_are_refused(path, dtype, rewritten):
    rewritten(path, lambda weights: weights.update({"q_net.q_net.2.bias": torch.zeros(3, dtype=dtype)}))
    assert refusal(path) == f"q_net.q_net.2.bias is of type {dtype}; SB3's weights are torch.float32"


def test_image_too_small_for_its_weights_is_refused(saved, with_data):
    _, path = saved(A2C, "CnnPolicy", spaces.Box(0, 255, (1, 36, 36), np.uint8))
    with_data(path, observation_space={"_shape": [1, 60, 60]})
    assert refusal(path) == "features_extractor.linear.0.weight is [512, 64], the convolutions give 1024 numbers"
    with_data(path, observation_space={"_shape": [1, 20, 60]})
    assert "it takes images of at least 36x36" in refusal(path)


# Hostile data


def test_member_beyond_the_limit_is_refused_before_it_is_unpacked(path, monkeypatch):
    monkeypatch.setattr(sb3_zip, "DATA_LIMIT", 1000)
    assert "bytes; at most 1,000 are read" in refusal(path)
    monkeypatch.undo()
    monkeypatch.setattr(sb3_zip, "WEIGHTS_LIMIT", 1000)
    assert "bytes; at most 1,000 are read" in refusal(path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"1" * 5_000, b'{"policy_kwargs": 3}'])
def test_data_that_is_no_table_is_refused(path, data, replaced):
    path.write_bytes(replaced(path.read_bytes(), "data", data))
    assert refusal(path).startswith("data ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_shape", [1 << 20, 1 << 20]),
        ("_shape", [1] * 9),
        ("_shape", [-4]),
        ("_shape", [4.0]),
        ("_shape", ["9" * 30]),
        ("_shape", "4"),
        ("dtype", "object"),
        ("dtype", "f4,(1000000000,)f4"),
        ("low", "[9. 9. 9. 9.]"),
        (":type:", "<class 'os.system'>"),
    ],
)
def test_hostile_observation_space_is_refused(path, field, value, with_data):
    with_data(path, observation_space={field: value})
    assert refusal(path).startswith(("observation_space", "its observation space"))


def test_bounds_that_cannot_be_told_are_those_of_the_type(path, with_data):
    with_data(path, observation_space={"low": "nothing", "high": "[1. ... 2.]"})
    assert read(path).observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)


ODD = (None, True, -1, 0, 1.5, 1e400, 10**30, "", "text", "\x1b[31m\n", [], [[[]]], {}, {"a": 1}, ["x"] * 5)


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        *((field, None) for field in ("policy_class", "policy_kwargs", "observation_space", "action_space")),
        *((field, None) for field in ("gamma", "num_timesteps", "use_sde", "clip_range")),
        *(("observation_space", entry) for entry in (":type:", "dtype", "_shape", "low", "high", "start")),
        *(("action_space", entry) for entry in (":type:", "n", "start")),
        *(("policy_kwargs", entry) for entry in ("activation_fn", "normalize_images", "features_extractor_class")),
        ("policy_class", "__module__"),
    ],
)
def test_whatever_is_written_in_data_is_read_or_refused(path, original, field, entry, replaced):
    for value in ODD:
        data = data_of(original)
        if entry is None:
            data[field] = value
        else:
            data[field][entry] = value
        path.write_bytes(replaced(original, "data", json.dumps(data).encode()))
        try:
            read(path)
        except ValueError:
            refusal(path)


def test_file_cut_off_anywhere_is_refused(path, original):
    for length in range(0, len(original) - 1, 97):
        path.write_bytes(original[:length])
        # Where a file within it has just ended, that is what is found.
        assert refusal(path).startswith(("is no zip file, or a damaged one", "is no model of Stable-Baselines3"))


def test_file_with_a_byte_changed_anywhere_is_refused_or_the_same(path, original):
    expected = read(path).weights
    refused = 0
    for place in range(0, len(original), 29):
        path.write_bytes(original[:place] + bytes([original[place] ^ 0x55]) + original[place + 1 :])
        try:
            found = read(path).weights
        except ValueError:
            refusal(path)
            refused += 1
        else:
            assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert refused > 200  # what is left are members that are not read
