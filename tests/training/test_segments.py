"""Histories in checkpoints: only what is new is written, and every byte that is read back is verified."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.engine.history import Digests, History
from graftwork.training import checkpoint, durable
from graftwork.training import segments as segments_module
from graftwork.training.checkpoint import CheckpointError, digest, load, load_newest
from graftwork.training.segments import Cut
from graftwork.training.state_tree import raw

ROW = 3 * 4 + 8 + 1  # bytes of a row of `Log`
BYTES = 8 * ROW + 5  # so 8 rows make a segment


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Log:
    """An owner: rows [first, end) whose numbers follow from `content`, and which rows were asked for."""

    def __init__(self, first: int = 0, end: int = 0, content: int = 0, digests: Digests | None = None):
        self.first, self.end, self.content = first, end, content
        self.digests: Digests = {} if digests is None else digests
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        if start < stop:
            self.asked.append((start, stop))
        row = torch.arange(start, stop)
        return {
            "observation.x": (row.unsqueeze(1) * 0.5 + torch.arange(3) + self.content).float(),
            "action": row * 7 + self.content,
            "✓ flag": row % 3 == 0,
        }

    @property
    def state(self) -> dict[str, object]:
        history = History(self.first, self.end, self.read, self.digests)
        return {"replay": {"rows": history, "size": self.end - self.first}, "weight": torch.ones(3)}


def save(directory: Path, step: int, state: dict[str, object], keep: int = 9, segment_bytes: int = BYTES) -> Path:
    return checkpoint.save(directory, step, state, keep, {}, segment_bytes=segment_bytes)


def rows_of(loaded: checkpoint.Loaded) -> History:
    history = loaded.state["replay"]["rows"]
    assert isinstance(history, History)
    return history


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def segments(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change, by name: both differ for what was written again."""
    files = (directory / "segments").iterdir()
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def named(path: Path) -> list[str]:
    return [
        f"{name}.safetensors"
        for name in json.loads((path / "meta.json").read_bytes())["histories"]["replay/rows"]["segments"]
    ]


def contents(directory: Path) -> dict[str, str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("first", "end", "expected"),
    [
        (0, 0, (0, 0)),
        (0, 7, (0, 0)),
        (0, 8, (0, 8)),
        (0, 30, (0, 24)),
        (5, 30, (8, 24)),
        (16, 40, (16, 40)),
        (5, 15, (5, 5)),  # no whole one
        (9, 16, (9, 9)),
    ],
)
def test_whole_segments_lie_at_multiples_of_their_rows(first, end, expected):
    cut = Cut.of(first, end, 8)
    assert (cut.start, cut.stop) == expected


def test_files_hold_so_many_rows_under_their_names_and_what_is_left_over_is_with_the_other_tensors(tmp_path):
    log = Log(5, 27)
    path = save(tmp_path, 1, log.state)
    meta = json.loads((path / "meta.json").read_bytes())
    record = meta["histories"]["replay/rows"]
    files = named(path)
    size = (tmp_path / "segments" / files[0]).stat().st_size
    assert record == {
        "first": 5,
        "end": 27,
        "segment_rows": 8,
        "segment_bytes": size,
        "segments": [file.removesuffix(".safetensors") for file in files],
    }
    assert sorted(files) == sorted(segments(tmp_path))
    for file, start in zip(files, [8, 16], strict=True):
        whole = (tmp_path / "segments" / file).read_bytes()
        assert hashlib.sha256(whole).hexdigest() + ".safetensors" == file
        with checkpoint.safe_open(tmp_path / "segments" / file, framework="pt") as opened:
            assert equal({name: opened.get_tensor(name) for name in opened.keys()}, log.read(start, start + 8))  # noqa: SIM118
    with checkpoint.safe_open(path / "state.safetensors", framework="pt") as opened:
        assert sorted(opened.keys()) == [
            "replay/rows/action",
            "replay/rows/observation.x",
            "replay/rows/✓ flag",
            "weight",
        ]
        assert (opened.get_tensor("replay/rows/action") // 7).tolist() == [5, 6, 7, 24, 25, 26]


def test_a_small_history_is_in_the_state_alone(tmp_path):
    log = Log(0, 7)
    path = save(tmp_path, 1, log.state)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with checkpoint.safe_open(path / "state.safetensors", framework="pt") as opened:
        assert (opened.get_tensor("replay/rows/action") // 7).tolist() == list(range(7))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(0, 70), st.integers(1, 20 * ROW), st.booleans())
def test_any_cut_comes_back_with_its_digest_and_can_be_read_in_any_pieces(first, length, segment_bytes, verify):
    log = Log(first, first + length)
    with tempfile.TemporaryDirectory() as directory:
        path = save(Path(directory), 1, log.state, segment_bytes=segment_bytes)
        loaded = load(path, verify_histories=verify)
        history = rows_of(loaded)
        assert (history.first, history.end) == (log.first, log.end)
        for step in (1, 5, max(length, 1)):
            for start in range(log.first, log.end + 1, step):
                stop = min(start + step, log.end)
                assert equal(history.read(start, stop), log.read(start, stop))
        assert digest(loaded.state) == digest(log.state)
        other = save(Path(directory) / "other", 1, loaded.state, segment_bytes=3 * ROW)
        assert digest(load(other).state) == digest(log.state)


@pytest.mark.parametrize("change", [{"first": 4}, {"end": 29}, {"content": 1}])
def test_digest_sees_every_change_of_a_history(change):
    values = {"first": 5, "end": 30, "content": 0}
    assert digest(Log(**values | change).state) != digest(Log(**values).state)


def test_digest_tells_a_history_from_tensors_and_sees_types_and_shapes():
    def of(rows: Tensor) -> str:
        return digest({"a": History(0, len(rows), lambda start, stop: {"x": rows[start:stop]})})

    zeros = torch.zeros(6, 4)
    assert len({of(zeros), of(zeros.int()), of(zeros.view(6, 2, 2)), digest({"a": {"x": zeros}})}) == 4


DTYPES = [torch.bool, torch.uint8, torch.uint16, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float64]


def test_rows_of_every_type_and_shape_come_back_bit_for_bit(tmp_path):
    forms = {f"{dtype}": (dtype, (3,)) for dtype in DTYPES}
    forms |= {"scalar": (torch.float32, ()), "nothing": (torch.float32, (0,)), "image": (torch.uint8, (1, 5, 7))}
    whole = {
        name: torch.arange(40).view(40, *[1] * len(shape)).expand(40, *shape).to(dtype)
        for name, (dtype, shape) in forms.items()
    }
    whole["scalar"] = torch.full((40,), float("nan"))

    def read(start: int, stop: int) -> dict[str, Tensor]:
        return {name: rows[start:stop] for name, rows in whole.items()}

    path = checkpoint.save(tmp_path, 1, {"h": History(3, 40, read)}, 1, {}, segment_bytes=600)
    assert len(segments(tmp_path)) > 3
    back = load(path).state["h"].read(3, 40)
    for name, rows in read(3, 40).items():
        assert back[name].dtype == rows.dtype
        assert back[name].shape == rows.shape
        assert bytes(raw(back[name])) == bytes(raw(rows))


def test_a_save_writes_and_reads_only_what_is_new(tmp_path):
    log = Log(0, 20 * 8 + 3)
    save(tmp_path, 1, log.state)
    before = segments(tmp_path)
    assert len(before) == 20
    log.end, log.asked = 21 * 8 + 5, []
    path = save(tmp_path, 2, log.state)
    after = segments(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {named(path)[-1]}
    assert log.asked == [(160, 168), (168, 173)]


def test_the_bytes_of_a_second_save_do_not_grow_with_the_history(tmp_path, monkeypatch):
    written: list[int] = []
    original = durable.write_file

    def counting(path: Path, chunks: object) -> durable.Entry:
        entry = original(path, chunks)
        written.append(entry.size)
        return entry

    for module in (checkpoint, segments_module, durable):
        monkeypatch.setattr(module, "write_file", counting)
    sizes = []
    for number in (20, 200):
        log = Log(0, number * 8)
        for step, more in ((1, 0), (2, 8)):
            log.end += more
            written.clear()
            save(tmp_path / str(number), step, log.state)
            sizes.append(sum(written))
    first, second, large_first, large_second = sizes
    assert large_first - first > 180 * 8 * ROW
    # 64 hex digits and a few bytes for each segment in meta.json, and a line in the manifest.
    assert large_second - second < 180 * (67 + 160)


def test_the_oldest_rows_go_and_the_segments_that_are_still_whole_stay_as_they_are(tmp_path):
    log = Log(0, 40)
    save(tmp_path, 1, log.state, keep=1)
    before = segments(tmp_path)
    log.first, log.end, log.asked = 11, 51, []
    path = save(tmp_path, 2, log.state, keep=1)
    after = segments(tmp_path)
    assert len(after) == 4  # 16 to 48
    assert sum(after.get(name) == entry for name, entry in before.items()) == 3
    assert log.asked == [(40, 48), (11, 16), (48, 51)]
    assert sorted(log.digests) == [(row, row + 8) for row in (16, 24, 32, 40)]
    assert equal(rows_of(load(path)).read(11, 51), log.read(11, 51))


def test_equal_rows_share_a_file(tmp_path):
    def read(start: int, stop: int) -> dict[str, Tensor]:
        return {"x": torch.zeros(stop - start, 4)}

    state = {"a": History(0, 64, read), "b": History(8, 70, read)}
    path = checkpoint.save(tmp_path, 1, state, 1, {}, segment_bytes=128)
    assert len(segments(tmp_path)) == 1
    assert digest(load(path).state) == digest(state)


def test_the_same_state_gives_the_same_bytes_whatever_was_saved_before(tmp_path):
    log = Log(0, 27)
    save(tmp_path / "one", 1, log.state, keep=1)
    log.first, log.end = 9, 44
    save(tmp_path / "one", 2, log.state, keep=1)
    save(tmp_path / "other", 2, Log(9, 44).state, keep=1)
    loaded = load_newest(tmp_path / "other")
    save(tmp_path / "third", 2, loaded.state, keep=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "other") == contents(tmp_path / "third")


def test_the_same_again_changes_no_file(tmp_path):
    log = Log(0, 27)
    path = save(tmp_path, 1, log.state)
    before = segments(tmp_path), [file.stat().st_ino for file in sorted(path.iterdir())]
    save(tmp_path, 1, log.state)
    assert (segments(tmp_path), [file.stat().st_ino for file in sorted(path.iterdir())]) == before


def test_another_directory_gets_segments_of_its_own(tmp_path):
    log = Log(0, 27)
    save(tmp_path / "checkpoints", 1, log.state)
    path = save(tmp_path / "failure", 1, log.state)
    shutil.rmtree(tmp_path / "checkpoints")
    assert digest(load(path).state) == digest(log.state)


FILES = ["MANIFEST", "meta.json", "state.safetensors", *range(5)]


def damaged_file(directory: Path, file: str | int) -> Path:
    """Of step 2; a number is that of the segment. The last two are not in step 1."""
    path = directory / "step_000000000002"
    return path / file if isinstance(file, str) else directory / "segments" / named(path)[file]


@pytest.fixture
def two(tmp_path) -> Path:
    """Step 1 has 3 segments, and step 2 these and 2 more."""
    log = Log(0, 27)
    save(tmp_path, 1, log.state)
    log.end = 43
    save(tmp_path, 2, log.state)
    return tmp_path


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "lengthen", "remove"])
def test_damage_to_any_file_is_named_and_an_older_checkpoint_without_it_is_taken(two, file, damage):
    path = damaged_file(two, file)
    if damage == "flip":
        flip(path, len(path.read_bytes()) * 2 // 3)
    elif damage == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    elif damage == "lengthen":
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        path.unlink()
    shown = path.name if isinstance(file, str) else f"segments/{path.name}"
    state = {"flip": "altered", "truncate": "truncated", "lengthen": "altered", "remove": "missing"}[damage]
    with pytest.raises(CheckpointError, match=rf"step_000000000002: {shown} is .*{state}") as caught:
        load(two / "step_000000000002")
    assert "\n" not in str(caught.value)
    if file in (0, 1, 2):  # both have it
        with pytest.raises(CheckpointError, match=f"no good checkpoint .*{shown}.*{shown}"):
            load_newest(two)
    else:
        loaded = load_newest(two)
        assert loaded.step == 1
        assert loaded.problems == (str(caught.value),)
        assert digest(loaded.state) == digest(Log(0, 27).state)


@pytest.mark.parametrize("segment", range(5))
def test_any_flipped_bit_of_a_segment_is_seen(two, segment):
    path = damaged_file(two, segment)
    whole = path.read_bytes()
    for at in range(0, len(whole), 3):
        flip(path, at)
        with pytest.raises(CheckpointError, match=f"segments/{path.name} is altered"):
            load(two / "step_000000000002")
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_segment_of_another_size_is_written_again_from_the_rows(tmp_path, damage):
    log = Log(0, 27)
    path = save(tmp_path, 1, log.state)
    file = tmp_path / "segments" / named(path)[1]
    os.truncate(file, 50) if damage == "truncate" else file.unlink()
    log.end = 30
    save(tmp_path, 2, log.state)
    assert [load(tmp_path / f"step_{step:012d}").step for step in (1, 2)] == [1, 2]


def test_one_that_this_process_has_not_verified_is_written_again(tmp_path):
    path = save(tmp_path, 1, Log(0, 27).state)
    flip(tmp_path / "segments" / named(path)[1])
    save(tmp_path, 2, Log(0, 27).state)
    assert load_newest(tmp_path).problems == ()


def test_after_a_load_nothing_known_is_written_or_read_again(two):
    before = segments(two)
    loaded = load_newest(two)
    log = Log(0, 43, digests=dict(rows_of(loaded).digests))
    log.end = 50
    save(two, 3, log.state)
    assert {name: segments(two)[name] for name in before} == before
    assert log.asked == [(40, 48), (48, 50)]


def test_what_was_saved_after_the_checkpoint_that_was_loaded_is_never_taken_for_its_future(two):
    flip(two / "step_000000000002" / "state.safetensors")
    loaded = load_newest(two)
    assert loaded.step == 1
    log = Log(0, 27, digests=dict(rows_of(loaded).digests))
    assert sorted(log.digests) == [(0, 8), (8, 16), (16, 24)]

    def diverged(start: int, stop: int) -> dict[str, Tensor]:
        rows = Log(0, 43).read(start, stop)
        rows["action"][max(27 - start, 0) :] = -1
        return rows

    state = {"replay": {"rows": History(0, 43, diverged, log.digests)}}
    path = checkpoint.save(two, 2, state, 9, {}, segment_bytes=BYTES)
    assert digest(load(path).state) == digest(state)
    assert len(segments(two)) == 5 + 2
    loaded = load_newest(two)
    assert rows_of(loaded).read(26, 28)["action"].tolist() == [26 * 7, -1]


def test_pruning_deletes_exactly_the_segments_that_no_checkpoint_names(tmp_path):
    log = Log(0, 0)
    for step in range(2, 12):
        log.first, log.end = max(0, 5 * step - 20), 5 * step
        save(tmp_path, step, log.state, keep=2)
        paths = sorted(tmp_path.glob("step_*"))
        assert len(paths) == min(step - 1, 2)
        assert segments(tmp_path).keys() == {name for path in paths for name in named(path)}
        for path in paths:
            load(path)


@pytest.mark.parametrize("file", ["MANIFEST", "meta.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_segments_of_a_damaged_checkpoint_stay(tmp_path, file, damage):
    path = save(tmp_path, 1, Log(0, 27).state)
    theirs, whole = named(path), (path / file).read_bytes()
    for at in range(0, len(whole), 50) if damage == "flip" else [0]:
        if damage == "flip":
            flip(path / file, at)
        elif damage == "truncate":
            os.truncate(path / file, 20)
        else:
            (path / file).unlink()
        save(tmp_path, 2, Log(0, 27, content=at + 1).state, keep=1)
        assert set(theirs) <= segments(tmp_path).keys()
        (path / file).write_bytes(whole)
        shutil.rmtree(tmp_path / "step_000000000002")
    load(path)


def test_segments_of_later_set_aside_and_half_written_checkpoints_stay_and_foreign_files_too(tmp_path):
    later, aside, half = (save(tmp_path, step, Log(0, 16, content=step).state) for step in (9, 5, 4))
    os.rename(aside, tmp_path / "step_000000000001.1")
    os.rename(half, tmp_path / f".tmp_4_{os.getppid()}")
    expected = set().union(*(named(tmp_path / name) for name in (later.name, "step_000000000001.1")))
    expected |= set(named(tmp_path / f".tmp_4_{os.getppid()}"))
    orphan = tmp_path / "segments" / f"{'0' * 64}.safetensors"
    orphan.write_bytes(b"of a save that was killed")
    (tmp_path / "segments" / "notes.txt").write_text("mine")
    flip(tmp_path / "step_000000000001.1" / "state.safetensors")
    path = save(tmp_path, 2, Log(0, 16, content=2).state, keep=1)
    assert segments(tmp_path).keys() == expected | set(named(path)) | {"notes.txt"}


def test_nothing_is_deleted_while_a_checkpoint_cannot_be_read(tmp_path, monkeypatch):
    save(tmp_path, 1, Log(0, 16, content=1).state)
    original = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.parent.name == "step_000000000001":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    save(tmp_path, 2, Log(0, 16, content=2).state, keep=1)
    assert len(segments(tmp_path)) == 4


def test_a_loaded_history_can_be_read_after_its_files_are_deleted_until_it_is_released(tmp_path):
    log = Log(0, 27)
    loaded = load(save(tmp_path, 1, log.state))
    save(tmp_path, 2, Log(0, 27, content=1).state, keep=1)
    assert not (tmp_path / "step_000000000001").exists()
    assert digest(loaded.state) == digest(log.state)
    loaded.release()
    assert rows_of(loaded).read(25, 27)["action"].tolist() == [25 * 7, 26 * 7]  # those were in the state
    with pytest.raises(ValueError, match="was released"):
        rows_of(loaded).read(0, 1)


def test_what_is_read_does_not_follow_the_file(tmp_path):
    log = Log(0, 27)
    path = save(tmp_path, 1, log.state)
    history = rows_of(load(path))
    rows = history.read(0, 8)
    rows["action"].zero_()
    assert equal(history.read(0, 8), log.read(0, 8))
    assert load(path)


def test_unverified_histories_are_verified_when_they_are_read(two):
    bad = damaged_file(two, 4)
    flip(bad)
    loaded = load_newest(two, verify_histories=False)
    assert (loaded.step, loaded.problems) == (2, ())
    history = rows_of(loaded)
    assert history.digests == {}
    assert equal(history.read(5, 20), Log().read(5, 20))
    assert sorted(history.digests) == [(0, 8), (8, 16), (16, 24)]
    with pytest.raises(ValueError, match=rf"{bad.name} is altered \(SHA-256 differs\)"):
        history.read(30, 33)


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_segments_that_are_missing_or_cut_short_are_seen_without_reading_them(two, damage):
    bad = damaged_file(two, 4)
    os.truncate(bad, 50) if damage == "truncate" else bad.unlink()
    loaded = load_newest(two, verify_histories=False)
    assert loaded.step == 1
    assert f"segments/{bad.name} is" in loaded.problems[0]


def test_histories_that_are_not_asked_for_are_not_read(two, monkeypatch):
    opened: list[str] = []

    def noting(path: Path, mode: str) -> object:
        opened.append(path.name)
        return open(path, mode)

    monkeypatch.setattr(durable, "open", noting, raising=False)
    load_newest(two, verify_histories=False)
    assert sorted(opened) == ["meta.json", "state.safetensors"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_loading_holds_no_row_and_no_file_descriptor(tmp_path):
    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    whole = torch.zeros(64 * 2**20, dtype=torch.uint8)
    state = {"h": History(0, 64 * 1024, lambda start, stop: {"x": whole.view(-1, 1024)[start:stop]})}
    path = checkpoint.save(tmp_path, 1, state, 1, {}, segment_bytes=2**20)
    memory, descriptors = anonymous(), len(os.listdir("/proc/self/fd"))
    loaded = load(path)
    for start in range(0, 64 * 1024, 1024):
        loaded.state["h"].read(start, start + 1024)
    assert anonymous() - memory < 8 * 2**20
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_the_same_file_for_two_histories_of_other_shapes_is_refused(tmp_path):
    """As a bug, or another program, might write it."""
    path = save(tmp_path, 1, Log(0, 27).state)
    meta = json.loads((path / "meta.json").read_bytes())
    good = meta["histories"]["replay/rows"]
    for change in [
        {"segments": good["segments"][:2]},
        {"end": 28},
        {"first": 1},
        {"segment_rows": 4},
        {"segment_bytes": good["segment_bytes"] + 1},
        {"segments": ["0" * 64] * 3},
        {"segments": None},
    ]:
        reseal(path, {**meta, "histories": {"replay/rows": good | change}})
        with pytest.raises(CheckpointError, match="is not one of graftwork's"):
            load(path)
    for histories in [{}, {"weight": good}, None, {"replay/rows": None}]:
        reseal(path, {**meta, "histories": histories})
        with pytest.raises(CheckpointError, match="is not one of graftwork's"):
            load(path)
    reseal(path, meta)
    load(path)


def reseal(path: Path, meta: dict[str, object]) -> None:
    other = path.with_name("resealed")
    other.mkdir()
    lines = [line.split(" ", 2) for line in (path / "MANIFEST").read_text().splitlines()]
    entries = [durable.Entry(sha, int(size), name) for sha, size, name in lines if name.startswith("../")]
    entries.append(durable.write_file(other / "meta.json", [json.dumps(meta).encode()]))
    entries.append(durable.write_file(other / "state.safetensors", [(path / "state.safetensors").read_bytes()]))
    durable.seal(other, entries)
    for file in path.iterdir():
        os.replace(other / file.name, file)
    other.rmdir()


@pytest.mark.parametrize(
    "name", ["../../x", "../segments/x.safetensors", "../segments/../../x", f"/{'0' * 64}.x", "a/b"]
)
def test_a_manifest_reaches_no_file_but_those_named_by_their_contents(tmp_path, name):
    path = save(tmp_path, 1, Log(0, 7).state)
    entry = durable.Entry("0" * 64, 5, name)
    (path / "MANIFEST").unlink()
    durable.seal(path, [entry])
    assert durable.find_problem(path, set()) == "MANIFEST is truncated or altered"
