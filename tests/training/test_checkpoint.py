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

from graftwork.training import checkpoint
from graftwork.training.checkpoint import CheckpointError, NoCheckpointError, digest, load, load_newest, save


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


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def file_hashes(path: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def flip(path: Path, offset: int = -1, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


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
    negated = torch.tensor([1 + 2j, 3 - 4j]).conj().imag
    assert negated.is_neg()
    assert load(save(tmp_path, 1, {"x": negated}, 1, {})).state["x"].tolist() == [-2.0, 4.0]


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


def test_writing_into_a_loaded_tensor_leaves_the_checkpoint_good(tmp_path):
    path = save(tmp_path, 1, small(), 1, {})
    load(path).state["weight"].zero_()
    assert torch.equal(load(path).state["weight"], torch.ones(3, 5))


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
    ],
)
def test_unsavable_state_is_refused_by_place_before_anything_is_written(tmp_path, state, message):
    with pytest.raises(ValueError, match=message) as caught:
        save(tmp_path / "checkpoints", 1, state, 3, {})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("step", "keep"), [(-1, 3), (10**12, 3), (1, 0)])
def test_step_and_keep_out_of_range_are_refused(tmp_path, step, keep):
    with pytest.raises(ValueError, match="must be"):
        save(tmp_path, step, small(), keep, {})


def test_meta_holds_plain_values_only(tmp_path):
    meta = {"version": "0.1", "threads": 1, "rate": 0.5, "compiled": False, "device": None}
    assert load(save(tmp_path, 1, small(), 1, meta)).meta == meta
    with pytest.raises(ValueError, match=r"meta at 'x'.*numpy"):
        save(tmp_path, 1, small(), 1, {"x": np.float64(1)})
    with pytest.raises(ValueError, match="meta holds a tensor at 'x'"):
        save(tmp_path, 1, small(), 1, {"x": torch.ones(3)})


def test_the_newest_by_number_is_loaded_and_older_ones_are_pruned(tmp_path):
    for step in [5, 90, 1000, 20000, 20001]:
        save(tmp_path, step, small(step), 3, {})
    assert names(tmp_path) == ["step_000000001000", "step_000000020000", "step_000000020001"]
    loaded = load_newest(tmp_path)
    assert (loaded.step, loaded.problems) == (20001, ())
    assert loaded.state["weight"][0, 0] == 20001


def test_pruning_leaves_damaged_later_and_foreign_entries_alone(tmp_path):
    for step in [1, 2, 9]:
        save(tmp_path, step, small(step), 9, {})
    flip(tmp_path / "step_000000000001" / "state.safetensors")
    (tmp_path / "step_7").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    save(tmp_path, 3, small(3), 1, {})
    assert names(tmp_path) == ["notes.txt"] + [f"step_{n:012d}" for n in (1, 3, 9)] + ["step_7"]


def test_leftovers_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path):
    dead = 2**22 + 1  # above the largest pid Linux gives
    for pid in [dead, os.getpid(), os.getppid()]:
        (tmp_path / f".tmp_5_{pid}").mkdir()
        (tmp_path / f".tmp_5_{pid}" / "state.safetensors").write_bytes(b"half")
    save(tmp_path, 5, small(), 3, {})
    assert names(tmp_path) == [f".tmp_5_{os.getppid()}", "step_000000000005"]


def test_saving_the_same_again_changes_no_byte_and_no_file(tmp_path):
    path = save(tmp_path, 5, small(), 3, {})
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted(path.iterdir())]
    assert save(tmp_path, 5, small(), 3, {}) == path
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in sorted(path.iterdir())] == before
    assert names(tmp_path) == ["step_000000000005"]


def test_saving_a_step_again_with_other_content_replaces_it(tmp_path):
    save(tmp_path, 5, small(1.0), 3, {})
    save(tmp_path, 5, small(2.0), 3, {})
    assert load_newest(tmp_path).state["weight"][0, 0] == 2.0
    assert names(tmp_path) == ["step_000000000005"]


def test_saving_over_a_damaged_checkpoint_sets_it_aside(tmp_path):
    for value in [1.0, 2.0]:
        path = save(tmp_path, 5, small(value), 3, {})
        flip(path / "meta.json")
    save(tmp_path, 5, small(3.0), 1, {})
    loaded = load_newest(tmp_path)
    assert (loaded.state["weight"][0, 0], loaded.problems) == (3.0, ())
    assert names(tmp_path) == ["step_000000000005", "step_000000000005.1", "step_000000000005.2"]


def test_one_left_aside_by_a_crash_is_loaded_and_later_pruned(tmp_path):
    os.rename(save(tmp_path, 5, small(), 3, {}), tmp_path / "step_000000000005.1")
    assert load_newest(tmp_path).step == 5
    save(tmp_path, 6, small(), 1, {})
    assert names(tmp_path) == ["step_000000000006"]


def test_no_checkpoint_is_told_apart_from_no_good_one(tmp_path):
    for directory in [tmp_path, tmp_path / "missing"]:
        with pytest.raises(NoCheckpointError, match=f"no checkpoint in {directory}"):
            load_newest(directory)
    for step in [1, 2]:
        (save(tmp_path, step, small(), 3, {}) / "MANIFEST").unlink()
    with pytest.raises(CheckpointError, match=r"no good .*_000000000002: MANIFEST is missing; .*_000000000001: MAN"):
        load_newest(tmp_path)
    assert names(tmp_path) == ["step_000000000001", "step_000000000002"]


def rewrite(path: Path, **changes: object) -> None:
    """Change meta.json and seal it again, as another version, or a forger, would."""
    content = json.loads((path / "meta.json").read_bytes()) | changes
    other = path.with_name("resealed")
    other.mkdir()
    entries = [checkpoint.write_file(other / "meta.json", [json.dumps(content).encode()])]
    entries += [checkpoint.write_file(other / "state.safetensors", [(path / "state.safetensors").read_bytes()])]
    checkpoint.seal(other, entries)
    for file in path.iterdir():
        os.replace(other / file.name, file)
    other.rmdir()


def test_another_format_version_is_named_passed_over_and_never_deleted(tmp_path):
    for step in [1, 2]:
        save(tmp_path, step, small(), 3, {})
    rewrite(tmp_path / "step_000000000002", format=8)
    loaded = load_newest(tmp_path)
    assert loaded.step == 1
    assert loaded.problems == (
        f"checkpoint {tmp_path}/step_000000000002: meta.json has format version 8, this graftwork reads 1",
    )
    save(tmp_path, 2, small(), 1, {})
    save(tmp_path, 3, small(), 1, {})
    assert names(tmp_path) == ["step_000000000002.1", "step_000000000003"]


@pytest.mark.parametrize("tree", [{}, {"weight": {"/": "tensor"}, "x": {"/": "tensor"}}, 3, {"/": "tensor"}])
def test_a_tree_that_does_not_fit_its_tensors_is_refused(tmp_path, tree):
    path = save(tmp_path, 1, small(), 3, {})
    rewrite(path, tree=tree)
    with pytest.raises(CheckpointError, match="is not one of graftwork's"):
        load(path)


def test_one_pruned_by_a_running_process_meanwhile_is_no_problem(tmp_path, monkeypatch):
    for step in [1, 2]:
        save(tmp_path, step, small(), 3, {})
    original = checkpoint.load

    def racing(path: Path) -> checkpoint.Loaded:
        monkeypatch.setattr(checkpoint, "load", original)
        save(tmp_path, 3, small(), 1, {})
        return original(path)

    monkeypatch.setattr(checkpoint, "load", racing)
    loaded = load_newest(tmp_path)
    assert (loaded.step, loaded.problems) == (3, ())
