"""The files of a comparison: what is written is read again, and nothing else is."""

import json
from pathlib import Path
from typing import Any

import pytest

from graftwork.validation.record import ComparisonRecord, Point, Row, read, read_all, write
from graftwork.validation.settings import digest

SETTINGS: dict[str, Any] = {
    "equal": {"agent": {"discount": 0.9}, "steps": 70},
    "sb3": {"sb3": {"gamma": 0.9}, "steps": 70},
}


def record(name: str = "dqn-toy", seeds: int = 3) -> ComparisonRecord:
    sides = {side: {"title": f"{side} of it", "settings": own, "digest": digest(own)} for side, own in SETTINGS.items()}
    common = {"steps": 72, "area": -5.25, "seconds": 1.5, "steps_per_second": 48.0, "peak_megabytes": 300.5}
    rows = [
        Row.model_validate(
            {"side": s, "seed": i, "final": 10.0 * i, "failed": i == 0, "settings": digest(own), **common}
        )
        for s, own in SETTINGS.items()
        for i in range(seeds)
    ]
    return ComparisonRecord.model_validate(
        {
            **{"name": name, "preset": "dqn/toy", "baseline": "SB3 DQN", "env": "Toy-v0", "steps": 70},
            **{"range": [0, 20], "margin": 0.05, "command": "graftwork validate returns dqn/toy", "sides": sides},
            "declared_seeds": 7,
            **{"versions": {"torch": "2.13.0"}, "machine": {"processor": "a chip", "cores": 2, "threads": 1}},
            **{"rows": rows},
            "points": [
                Point.model_validate({"side": row.side, "seed": row.seed, "step": step, "return": step / 4 - 18.625})
                for row in rows
                for step in (35, 72)
            ],
        }
    )


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_what_is_written_is_read_again(tmp_path):
    write(tmp_path / "returns", record())
    assert read(tmp_path / "returns", "dqn-toy") == record()


def test_files_are_as_the_columns_say(tmp_path):
    write(tmp_path, record())
    lines = (tmp_path / "dqn-toy.csv").read_text().splitlines()
    assert lines[0] == "side,seed,steps,final,area,failed,seconds,steps_per_second,peak_megabytes,settings"
    assert lines[1] == f"equal,0,72,0.0,-5.25,1,1.5,48.0,300.5,{digest(SETTINGS['equal'])}"
    assert len(lines) == 1 + 2 * 3
    assert (tmp_path / "dqn-toy-curves.csv").read_text().splitlines()[:2] == [
        "side,seed,step,return",
        "equal,0,35,-9.875",
    ]
    tree = json.loads((tmp_path / "dqn-toy.json").read_text())
    assert tree["range"] == [0, 20]
    assert not {"rows", "points"} & tree.keys()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dqn-toy-curves.csv", "dqn-toy.csv", "dqn-toy.json"]


def test_all_comparisons_of_a_directory_are_read_by_name(tmp_path):
    for name in ("b", "a"):
        write(tmp_path, record(name))
    assert [each.name for each in read_all(tmp_path)] == ["a", "b"]
    assert read_all(tmp_path / "none") == ()


def test_seeds_are_those_that_every_side_has():
    whole = record()
    assert whole.seeds == [0, 1, 2]
    assert whole.model_copy(update={"rows": whole.rows[1:]}).seeds == [1, 2]


@pytest.mark.parametrize(("seeds", "told"), [(3, "3 of 7"), (7, "7"), (8, "8 (declared: 7)")])
def test_seeds_are_told_beside_those_that_were_declared(seeds, told):
    assert record().seeds_told(seeds) == told


def test_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, record())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, record(seeds=5))
    monkeypatch.undo()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert read(tmp_path, "dqn-toy") == record()


def test_rows_of_other_settings_are_refused(tmp_path):
    write(tmp_path, record())
    edit(tmp_path / "dqn-toy.csv", digest(SETTINGS["sb3"]), "0123456789ab")
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        read(tmp_path, "dqn-toy")
    assert str(error.value) == (
        f"{tmp_path}/dqn-toy.csv: sb3, seed 0 was run with settings 0123456789ab, dqn-toy.json with "
        f"{digest(SETTINGS['sb3'])}: rows of two settings are no comparison"
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "text"),
    [
        (".json", '"discount": 0.9', '"discount": 0.8', "digest="),
        (".json", "{", "", "is no JSON; the file was altered or damaged"),
        (".json", '"steps": 70,\n "range"', '"stpes": 70,\n "range"', "stpes"),
        (".json", '"sb3": {\n   "title"', '"preset": {\n   "title"', "sides=equal,preset: must have sb3, which"),
        (".json", '"range": [\n  0.0', '"range": [\n  20.0', "range=[20.0, 20.0]: the second must be above the first"),
        (".json", '"name": "dqn-toy"', '"name": "dqn-other"', "is of dqn-other"),
        (".csv", "seed", "sede", "columns must be side,seed,steps"),
        (".csv", "equal,1", "equal,0", "equal, seed 0 is there twice"),
        (".csv", "equal,1", "preset,1", "preset, seed 1: dqn-toy.json has no such side, only equal, sb3"),
        (".csv", "equal,1,72", "equal,1,many", "line 3"),
        (".csv", "equal,1,72", "equal,1,72,72", "line 3 has 11 cells in place of 10"),
        (".csv", "equal,1,72,10.0", "equal,1,72,nan", "line 3"),
        ("-curves.csv", "sb3,2,72", "sb3,3,72", "sb3, seed 3 is not in dqn-toy.csv"),
        (".csv", "equal,1,72,10.0,-5.25,0", "equal,1,72,10.0,-5.25,1", "has failed=1, but its final=10 says otherwise"),
        (".csv", "equal,1,72", f"equal,1,{'7' * 131_073}", "is no table; the file was altered or damaged"),
        (".csv", "seed", "s" * 131_073, "is no table; the file was altered or damaged"),
        (".csv", "10.0,-5.25", "10.0,-5.26", "equal, seed 1 has a mean of -5.25, but in dqn-toy.csv area=-5.26"),
        ("-curves.csv", "sb3,2,72,-0.625", "sb3,2,72,-0.725", "sb3, seed 2 has a mean of -5.3, but in dqn-toy.csv"),
        ("-curves.csv", "return", "score", "columns must be side,seed,step,return, got"),
    ],
)
def test_damaged_file_is_named_in_one_line(file, old, new, text, tmp_path):
    write(tmp_path, record())
    edit(tmp_path / f"dqn-toy{file}", old, new)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        read_all(tmp_path)
    assert f"dqn-toy{file}" in str(error.value)
    assert text in str(error.value)


@pytest.mark.parametrize("file", [".csv", "-curves.csv"])
def test_empty_file_is_no_table(file, tmp_path):
    write(tmp_path, record())
    (tmp_path / f"dqn-toy{file}").write_text("")
    with pytest.raises(ValueError, match=rf"dqn-toy{file}: columns must be side,seed,.*, got "):
        read(tmp_path, "dqn-toy")


def test_curves_without_a_run_are_refused(tmp_path):
    write(tmp_path, record())
    (tmp_path / "dqn-toy-curves.csv").write_text("side,seed,step,return\n")
    with pytest.raises(
        ValueError, match=r"dqn-toy-curves.csv: equal, seed 0 has no evaluation, but in dqn-toy.csv area="
    ):
        read(tmp_path, "dqn-toy")


@pytest.mark.parametrize("file", [".csv", "-curves.csv"])
def test_missing_file_is_named(file, tmp_path):
    write(tmp_path, record())
    (tmp_path / f"dqn-toy{file}").unlink()
    with pytest.raises(ValueError, match=rf"dqn-toy{file}: No such file or directory$"):
        read(tmp_path, "dqn-toy")
