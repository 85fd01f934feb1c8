import builtins
import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from graftwork.training import durable
from graftwork.training.checkpoint import CheckpointError, load, load_newest, save

FILES = ["MANIFEST", "meta.json", "state.safetensors"]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def state_of(step: int, size: int = 35) -> dict[str, object]:
    generator = torch.Generator().manual_seed(step)
    return {"weight": torch.randn(size, generator=generator), "flags": torch.tensor([True, False, True]), "step": step}


@pytest.mark.parametrize("name", FILES)
def test_truncation_at_any_byte_is_seen(tmp_path, name):
    file = save(tmp_path, 1, state_of(1), 1, {}) / name
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        problem = durable.find_problem(file.parent, set())
        assert problem is not None
        assert problem.startswith(f"{name} is truncated")
    file.write_bytes(whole + b"\n")
    assert durable.find_problem(file.parent, set()) is not None
    file.unlink()
    assert durable.find_problem(file.parent, set()) == f"{name} is missing"


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_seen(tmp_path, name):
    file = save(tmp_path, 1, state_of(1), 1, {}) / name
    whole = file.read_bytes()
    draw = random.Random(name)
    for _ in range(400):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        with pytest.raises(CheckpointError, match=f"step_000000000001: {name} is .*altered"):
            load(file.parent)


def test_the_problem_says_file_and_damage_and_the_damaged_one_stays(tmp_path):
    paths = [save(tmp_path, step, state_of(step), 9, {}) for step in [1, 2, 3, 4, 5]]
    os.truncate(paths[1] / "state.safetensors", 100)
    (paths[2] / "meta.json").unlink()
    with (paths[3] / "meta.json").open("ab") as file:
        file.write(b" ")
    shutil.rmtree(paths[4])
    paths[4].write_text("a file of that name")
    before = sorted(tmp_path.rglob("*"))
    size = (paths[0] / "state.safetensors").stat().st_size
    meta = (paths[0] / "meta.json").stat().st_size
    loaded = load_newest(tmp_path)
    assert loaded.path == paths[0]
    assert loaded.problems == (
        f"checkpoint {paths[4]}: is missing or not a directory",
        f"checkpoint {paths[3]}: meta.json is altered ({meta + 1} bytes instead of {meta})",
        f"checkpoint {paths[2]}: meta.json is missing",
        f"checkpoint {paths[1]}: state.safetensors is truncated (100 of {size} bytes)",
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unreadable_file_is_a_problem_and_not_a_crash(tmp_path, monkeypatch):
    for step in [1, 2]:
        save(tmp_path, step, state_of(step), 2, {})

    def unreadable(path: Path, mode: str):
        if path.parent.name == "step_000000000002":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return builtins.open(path, mode)

    monkeypatch.setattr(durable, "open", unreadable, raising=False)
    loaded = load_newest(tmp_path)
    assert loaded.step == 1
    assert loaded.problems[0].endswith("step_000000000002: meta.json cannot be read: Input/output error")


def test_a_manifest_reaches_no_file_outside_and_must_list_what_is_needed(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    directory = tmp_path / "sealed"
    directory.mkdir()
    entry = durable.write_file(directory / "a", [b"x"])
    durable.seal(directory, [entry])
    assert durable.find_problem(directory, {"a"}) is None
    assert durable.find_problem(directory, {"a", "b"}) == "MANIFEST does not list b"
    (directory / "MANIFEST").unlink()
    durable.seal(directory, [entry._replace(name="../secret")])
    assert durable.find_problem(directory, set()) == "MANIFEST is truncated or altered"


def test_file_is_replaced_whole_and_what_a_killed_writer_left_goes(tmp_path):
    (tmp_path / ".config.yaml.tmp").write_text("ste")
    durable.write_text(tmp_path / "config.yaml", "steps: 3 # ±\n")
    durable.write_text(tmp_path / "config.yaml", "steps: 5\n")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_bytes() == b"steps: 5\n"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_replacement_leaves_the_file_as_it_was_and_nothing_beside(tmp_path, monkeypatch, call):
    (tmp_path / "config.yaml").write_text("steps: 3\n")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left on device"):
        durable.write_text(tmp_path / "config.yaml", "steps: 5\n")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text() == "steps: 3\n"
