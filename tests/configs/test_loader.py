from pathlib import Path

import pytest

from graftwork.configs import Config, ConfigError, dump, load, loader, presets, suggest, validate

FILE = """\
# A line that says what it is.
seed: 1
agent:
  kind: dqn
  discount: 0.99
  encoder:
    kind: mlp
    hidden: [64, 32]
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(FILE)
    return file


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    for name in ("dqn/cartpole", "reinforce/acrobot"):
        file = tmp_path / "presets" / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(FILE)
    monkeypatch.setattr(loader, "files", lambda package: tmp_path)


def test_every_packaged_preset_has_a_one_line_description_and_loads():
    for name, preset in presets().items():
        assert preset.name == name
        assert preset.description, f"{name} starts with no comment"
        assert isinstance(load(name), dict)


@pytest.mark.usefixtures("packaged")
def test_preset_is_named_by_its_path_and_described_by_its_first_line():
    assert list(presets()) == ["dqn/cartpole", "reinforce/acrobot"]
    assert presets()["dqn/cartpole"].description == "A line that says what it is."
    assert load("dqn/cartpole")["seed"] == 1


@pytest.mark.usefixtures("packaged")
def test_unknown_preset_names_the_nearest_or_all():
    with pytest.raises(ConfigError, match=r"^dqn/cartpol: no such preset or file; did you mean dqn/cartpole\?$"):
        load("dqn/cartpol")
    with pytest.raises(ConfigError, match=r"^zzz: no such preset or file; presets: dqn/cartpole, reinforce/acrobot$"):
        load("zzz")
    with pytest.raises(ConfigError, match=r"^dqn/cartpole\.yaml: no such file; did you mean dqn/cartpole\?$"):
        load("dqn/cartpole.yaml")


@pytest.mark.usefixtures("packaged")
def test_existing_file_needs_no_suffix_and_wins_over_a_preset(tmp_path, monkeypatch):
    (tmp_path / "dqn").mkdir()
    (tmp_path / "dqn" / "cartpole").write_text("seed: 7\n")
    monkeypatch.chdir(tmp_path)
    assert load("dqn/cartpole") == {"seed": 7}


def test_file_is_read_by_path_or_text(path):
    assert load(path) == load(str(path)) == load(path, ["seed=1"])
    path.write_text("")
    assert load(path) == {}


def test_unreadable_file_is_one_line(tmp_path):
    for name, content, message in [
        ("list.yaml", b"[1, 2]", "must be a mapping of fields, got [1, 2]"),
        ("binary.yaml", b"\xff\xfe\x00", "not a text file"),
        ("bad.yaml", b"a: 1\na: 2\n", ", line 2: the key a is there twice"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as error:
            load(tmp_path / name)
        assert str(error.value).endswith(message)
        assert str(error.value).startswith(str(tmp_path / name))
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: Is a directory$"):
        load(tmp_path / "folder.yaml")
    with pytest.raises(ConfigError, match=r"missing: no such file$"):
        load(Path("missing"))


def test_override_sets_a_nested_value(path):
    overrides = ["agent.discount=1e-1", "env.observe=[0,2]", "tracker=", "steps=1_000", "name=no", "url=a=b"]
    tree = load(path, overrides)
    assert tree["agent"]["discount"] == 0.1
    assert tree["env"] == {"observe": [0, 2]}
    assert (tree["tracker"], tree["steps"], tree["name"], tree["url"]) == (None, 1000, "no", "a=b")
    assert tree["agent"]["encoder"] == {"kind": "mlp", "hidden": [64, 32]}


def test_last_override_of_a_field_counts(path):
    assert load(path, ["seed=2", "seed=3"])["seed"] == 3
    assert load(path, ["agent.kind=reinforce", "agent.kind=dqn"]) == load(path)


def test_changed_kind_resets_its_mapping(path):
    tree = load(path, ["agent.encoder.kind=lstm"])
    assert tree["agent"] == {"kind": "dqn", "discount": 0.99, "encoder": {"kind": "lstm"}}
    assert load(path, ["agent.kind=reinforce"])["agent"] == {"kind": "reinforce"}


def test_unchanged_or_first_kind_keeps_its_neighbours(path):
    assert load(path, ["agent.kind=dqn"]) == load(path)
    path.write_text("env:\n  id: CartPole-v1\n")
    assert load(path, ["env.kind=gymnasium"])["env"] == {"id": "CartPole-v1", "kind": "gymnasium"}


def test_order_of_overrides_is_outermost_and_kind_first(path):
    shuffled = ["agent.encoder.size=5", "agent.discount=0.5", "agent.encoder.kind=lstm", "agent.kind=reinforce"]
    wanted = {"kind": "reinforce", "discount": 0.5, "encoder": {"kind": "lstm", "size": 5}}
    assert load(path, shuffled)["agent"] == load(path, shuffled[::-1])["agent"] == wanted
    whole = ["agent.discount=0.5", "agent.kind=reinforce", "agent={kind: dqn, burn_in: 2}"]
    assert load(path, whole)["agent"] == {"kind": "reinforce", "discount": 0.5}


@pytest.mark.parametrize("override", ["seed", "=3", "agent..kind=3", ".seed=3", "agent.=3", "", "agent. kind=x"])
def test_malformed_override_is_one_line(path, override):
    with pytest.raises(ConfigError, match=r"an override is field=value, such as agent\.discount=0\.99$") as error:
        load(path, [override])
    assert str(error.value).startswith(f"{override}:")


def test_override_that_cannot_be_applied_is_one_line(path):
    with pytest.raises(ConfigError, match=r"^seed\.x=3: seed is 1, which has no fields$"):
        load(path, ["seed.x=3"])
    with pytest.raises(ConfigError, match=r"^env\.observe=\[0,2: expected ',' or '\]', but got '<stream end>'$"):
        load(path, ["env.observe=[0,2"])


class Point(Config):
    position: tuple[float, ...]
    step: float
    label: str | None
    limit: float | int


class Shape(Config):
    name: str
    points: tuple[Point, ...]


def test_dumped_config_loads_to_an_equal_one(path):
    points = (
        Point(position=(0.1, 1e-05, 1e22, 5e-324), step=1, label="1e-3", limit=1),
        Point(position=(), step=1 / 3, label=None, limit=1.0),
    )
    shape = Shape(name="no: #1", points=points)
    path.write_text(dump(shape))
    again = validate(Shape, load(path))
    assert again == shape
    assert [type(point.limit) for point in again.points] == [int, float]
    assert dump(again) == dump(shape)


def test_suggestion_is_close_or_absent():
    assert suggest("cartpole-v1", ["CartPole-v1", "Acrobot-v1"]) == "; did you mean CartPole-v1?"
    assert suggest("zzz", ["CartPole-v1"]) == ""
