import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from graftwork.training import checkpoint
from graftwork.training.checkpoint import CheckpointError, NoCheckpointError, load, load_newest, save


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def small(value: float = 1.0) -> dict[str, object]:
    return {"weight": torch.full((3, 5), value), "count": 7}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_writing_into_a_loaded_tensor_leaves_the_checkpoint_good(tmp_path):
    path = save(tmp_path, 1, small(), 1, {})
    load(path).state["weight"].zero_()
    assert torch.equal(load(path).state["weight"], torch.ones(3, 5))


def test_a_loaded_tensor_does_not_follow_the_file(tmp_path):
    path = save(tmp_path, 1, {"weight": torch.ones(3000)}, 1, {})
    loaded = load(path).state["weight"]
    with (path / "state.safetensors").open("r+b") as file:
        file.write(bytes(12000))
    assert torch.equal(loaded, torch.ones(3000))


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
        f"checkpoint {tmp_path}/step_000000000002: meta.json has format version 8, this graftwork reads 2",
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


def test_one_pruned_by_a_running_process_meanwhile_is_no_problem_and_the_new_one_is_found(tmp_path, monkeypatch):
    for step in [1, 2]:
        save(tmp_path, step, small(), 3, {})
    original = checkpoint.load

    def racing(path: Path, *, verify_histories: bool) -> checkpoint.Loaded:
        monkeypatch.setattr(checkpoint, "load", original)
        save(tmp_path, 3, small(), 3, {})
        shutil.rmtree(tmp_path / "step_000000000002")
        return original(path, verify_histories=verify_histories)

    monkeypatch.setattr(checkpoint, "load", racing)
    loaded = load_newest(tmp_path)
    assert (loaded.step, loaded.problems) == (3, ())
