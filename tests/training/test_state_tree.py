import enum
import hashlib
import json
import math
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.engine.history import History
from graftwork.training.checkpoint import digest, load, save
from graftwork.training.state_tree import join, split


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def small(value: float = 1.0) -> dict[str, object]:
    return {"weight": torch.full((3, 5), value), "count": 7}


def same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        bits = [x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


def file_hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


DTYPES = [torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32]
DTYPES += [torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kept_dtype_comes_back_bit_for_bit_in_every_shape(tmp_path, dtype):
    state = {
        "matrix": torch.arange(15).reshape(3, 5).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(3, 0, 5, dtype=dtype),
        "transposed": torch.arange(15).reshape(3, 5).to(dtype).T,
        "expanded": torch.tensor([1]).to(dtype).expand(7),
    }
    assert same(load(save(tmp_path, 1, state, 1, {})).state, state)


def test_extreme_floats_keep_their_bits(tmp_path):
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1, -0x7FFFFF], dtype=torch.int32)
    state = {"t": bits.view(torch.float32), "plain": [math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1]}
    loaded = load(save(tmp_path, 1, state, 1, {"loss": math.nan}))
    assert torch.equal(loaded.state["t"].view(torch.int32), bits)
    assert same(loaded.state, state)
    assert math.isnan(loaded.meta["loss"])


def test_numpy_generator_state_survives_as_plain_values(tmp_path):
    state = {"generator": np.random.default_rng(3).bit_generator.state}
    assert same(load(save(tmp_path, 1, state, 1, {})).state, state)
    assert state["generator"]["state"]["state"] > 2**64


def test_tensors_that_share_storage_survive_and_come_back_apart(tmp_path):
    base = torch.arange(7.0)
    state = {"all": base, "again": base, "view": base[2:5], "list": [base[1:], {"deep": base[::3]}]}
    loaded = load(save(tmp_path, 1, state, 1, {})).state
    assert same(loaded, state)
    loaded["all"].zero_()
    assert torch.equal(loaded["again"], base)


def test_parameters_come_back_as_plain_tensors(tmp_path):
    state = torch.nn.Linear(3, 5).state_dict(keep_vars=True)
    loaded = load(save(tmp_path, 1, {"net": state}, 1, {})).state["net"]
    assert type(loaded["weight"]) is Tensor
    assert not loaded["weight"].requires_grad
    assert torch.equal(loaded["weight"], state["weight"])


def test_negated_views_are_saved_as_their_values(tmp_path):
    strided = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    contiguous = strided[:1]
    assert contiguous.is_neg()
    assert contiguous.is_contiguous()
    loaded = load(save(tmp_path, 1, {"strided": strided, "contiguous": contiguous}, 1, {})).state
    assert loaded["strided"].tolist() == [-2.0, 4.0]
    assert loaded["contiguous"].tolist() == [-2.0]


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
tensors = st.builds(
    lambda shape, dtype: torch.arange(math.prod(shape)).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
keys = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1)
trees = st.recursive(plain | tensors, lambda node: st.lists(node, max_size=3) | st.dictionaries(keys, node, max_size=3))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(keys, trees, max_size=4))
def test_any_tree_round_trips_with_its_digest(state):
    with tempfile.TemporaryDirectory() as directory:
        loaded = load(save(Path(directory), 1, state, 1, {})).state
    assert same(loaded, state)
    assert digest(loaded) == digest(state)


def test_keys_that_look_like_the_format_itself_round_trip(tmp_path):
    state = {"tensor": "tensor", "a": {"0": torch.ones(3)}, "b": [torch.ones(5)], "step": {"format": None}, ".": {}}
    assert same(load(save(tmp_path, 1, state, 1, {})).state, state)


def test_same_state_gives_same_bytes_in_any_key_order_and_directory(tmp_path):
    first = {"b": torch.ones(3), "a": {"y": 1, "x": torch.zeros(5, dtype=torch.int64)}}
    second = {"a": {"x": torch.zeros(5, dtype=torch.int64), "y": 1}, "b": torch.ones(6)[::2]}
    one = save(tmp_path / "one", 4, first, 3, {"seed": 0, "env": "x"})
    other = save(tmp_path / "other", 4, second, 1, {"env": "x", "seed": 0})
    assert file_hashes(one) == file_hashes(other)


@pytest.mark.parametrize(
    "changed",
    [
        {"weight": torch.full((3, 5), 2.0), "count": 7},
        {"weight": torch.ones(5, 3), "count": 7},
        {"weight": torch.ones(3, 5).int(), "count": 7},
        {"weight": torch.ones(3, 5), "count": 7.0},
        {"weight": torch.ones(3, 5), "count": True},
        {"weights": torch.ones(3, 5), "count": 7},
        {"weight": torch.ones(3, 5), "count": [7]},
    ],
)
def test_digest_sees_every_change(changed):
    assert digest(changed) != digest(small())


def test_tensors_are_readable_by_safetensors_under_their_path(tmp_path):
    path = save(tmp_path, 1, {"agent": {"layers": [{"weight": torch.arange(3)}]}}, 1, {})
    read = safetensors.torch.load_file(path / "state.safetensors")
    assert list(read) == ["agent/layers/0/weight"]
    assert read["agent/layers/0/weight"].tolist() == [0, 1, 2]


def test_every_tensor_lies_aligned_in_the_file(tmp_path):
    state = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(5, dtype=torch.float16), "c": torch.ones(7).double()}
    data = (save(tmp_path, 1, state, 1, {}) / "state.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    starts = {name: 8 + size + entry["data_offsets"][0] for name, entry in header.items()}
    assert starts.keys() == state.keys()
    assert all(starts[name] % state[name].element_size() == 0 for name in state)


def log(**rows: Tensor) -> History:
    return History(0, 5, lambda start, stop: {name: rows[name][start:stop] for name in rows})


def test_tensors_and_histories_are_taken_out_by_their_path_and_put_back():
    history, weight = log(row=torch.arange(5)), torch.ones(3)
    state = {"a": [history, {"b": weight}], "c": 7}
    tree, leaves = split(state)
    assert json.loads(json.dumps(tree)) == {"a": [{"/": "history"}, {"b": {"/": "tensor"}}], "c": 7}
    assert leaves == {"a/0": history, "a/1/b": weight}
    assert join(tree, leaves) == state
    assert leaves == {}
    with pytest.raises(TypeError, match="a/0 is marked as another kind"):
        join(tree, {"a/0": weight, "a/1/b": weight})


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [0, np.float64(1.5)]}}, "state at 'a/b/1': .* got numpy.float64"),
        ({"a": np.int64(1)}, "state at 'a': .* got numpy.int64"),
        ({"a": np.zeros(3)}, "state at 'a': .* got numpy.ndarray"),
        ({"a": (1, 2)}, "state at 'a': .* got tuple"),
        ({"a": {1, 2}}, "state at 'a': .* got set"),
        ({"a": b"x"}, "state at 'a': .* got bytes"),
        ({"a": Colour.RED}, "state at 'a': .* got .*Colour"),
        ({"a": 1 + 2j}, "state at 'a': .* got complex"),
        ({"a": {"b/c": 1}}, "state at 'a': a key must .* got 'b/c'"),
        ({"a": {0: 1}}, "state at 'a': a key must .* got 0"),
        ({"": 1}, "state at '': a key must .* got ''"),
        ({"__metadata__": torch.ones(3)}, "a key must .* got '__metadata__'"),
        ({"\ud800": 1}, r"a key must .* got '\\ud800'"),
        ({np.str_("a"): 1}, "a key must"),
        ({"a": torch.ones(3, dtype=torch.complex64)}, "state at 'a': .* torch.complex64"),
        ({"a": torch.eye(3).to_sparse()}, "state at 'a': .* torch.sparse_coo"),
        ({"a": torch.ones(3, device="meta")}, "state at 'a': .* on meta"),
        ({"a": [log(x=torch.ones(5, dtype=torch.complex64))]}, "state at 'a/0/x': .* torch.complex64"),
        ({"a": log(**{"b/c": torch.ones(5)})}, "state at 'a': a key must .* got 'b/c'"),
    ],
)
def test_unsavable_state_is_refused_by_place_before_anything_is_written(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as caught:
        save(tmp_path / "checkpoints", 1, state, 3, {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()
