"""What a learning-curve picture shows: which runs share a line, where it runs, what is said of it."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from graftwork.configs import dump, load, validate
from graftwork.reports.curves import draw_curves
from graftwork.reports.read import read_runs
from graftwork.runs import RunConfig


def make_run(
    run_dir: Path, *overrides: str, evaluations: dict[int, list[float]], training: dict[int, float] | None = None
) -> Path:
    """A run directory as training leaves it; evaluations: the returns by step, training: the mean return by step."""
    run_dir.mkdir(parents=True)
    config = validate(RunConfig, load("dqn/cartpole", [*overrides, f"run_dir={run_dir}"]))
    (run_dir / "config.yaml").write_text(dump(config))
    rows = [
        {"step": step, "mean": float(np.mean(r)), "std": float(np.std(r)), "episodes": len(r), "returns": r}
        for step, r in evaluations.items()
    ]
    (run_dir / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = [{"step": step, "episode/return": return_} for step, return_ in (training or {}).items()]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"step": 1}, *metrics]))
    return run_dir


def drawn(run_dirs: list[Path], monkeypatch: pytest.MonkeyPatch, path: Path) -> Figure:
    """The figure that `draw_curves` saves."""
    figures: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_curves(read_runs(run_dirs), path)
    return figures[0]


def legend(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


def curve(line: Any) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in line.get_xydata()]


def band(axis: Any, index: int = 0) -> list[tuple[float, float, float]]:
    """Step, lowest and highest at each step of a band."""
    vertices = axis.collections[index].get_paths()[0].vertices
    steps = sorted({float(x) for x in vertices[:, 0]})
    heights = [vertices[vertices[:, 0] == step, 1] for step in steps]
    return [(step, float(at.min()), float(at.max())) for step, at in zip(steps, heights, strict=True)]


def test_seeds_of_one_config_share_a_line_of_their_mean_in_a_band_of_their_range(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", "seed=0", evaluations={100: [1.0], 200: [8.0]}),
        # How a run is watched and kept, and where, is nothing that it learns by.
        make_run(tmp_path / "b", "seed=1", "tracker=wandb", "checkpoint.keep=5", evaluations={100: [3.0], 200: [4.0]}),
        make_run(tmp_path / "c", "seed=2", "log.period=7", "threads=1", evaluations={100: [5.0], 200: [9.0]}),
    ]
    (axis,) = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    (line,) = axis.get_lines()
    assert curve(line) == [(100, 3), (200, 7)]
    assert band(axis) == [(100, 1, 5), (200, 4, 9)]
    assert legend(axis) == ["dqn (mlp): mean and range of 3 seeds"]
    assert axis.get_title(loc="left") == "CartPole-v1"
    assert "environment steps" in axis.get_xlabel()
    assert "return" in axis.get_ylabel()


def test_configs_that_differ_have_lines_that_say_by_what(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", "agent.discount=0.99", evaluations={100: [1.0], 200: [2.0]}),
        make_run(tmp_path / "b", "agent.discount=0.9", evaluations={100: [3.0], 200: [4.0]}),
        make_run(tmp_path / "c", "agent.discount=0.9", "seed=1", evaluations={100: [5.0], 200: [6.0]}),
        make_run(tmp_path / "d", "agent={kind: reinforce}", evaluations={100: [7.0], 200: [8.0]}),
    ]
    (axis,) = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    assert [curve(line) for line in axis.get_lines()] == [
        [(100, 1), (200, 2)],
        [(100, 4), (200, 5)],
        [(100, 7), (200, 8)],
    ]
    assert legend(axis) == [
        "dqn (mlp), discount=0.99: 1 seed",
        "dqn (mlp), discount=0.9: mean and range of 2 seeds",
        "reinforce (mlp): 1 seed",
    ]


def test_runs_evaluated_at_different_steps_are_interpolated_where_both_are(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", evaluations={100: [10.0], 200: [20.0]}),
        make_run(tmp_path / "b", "seed=1", evaluations={120: [0.0], 220: [10.0]}),
    ]
    (axis,) = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    assert band(axis) == [(120, 0, 12), (200, 8, 20)]
    assert curve(axis.get_lines()[0]) == [(120, 6), (200, 14)]


def test_curve_ends_with_the_shortest_run_which_is_named(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", evaluations={100: [1.0], 200: [2.0], 300: [3.0]}),
        make_run(tmp_path / "b", "seed=1", evaluations={100: [3.0], 200: [6.0]}),
    ]
    with pytest.warns(UserWarning, match=r"b ends at step 200"):
        (axis,) = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    assert curve(axis.get_lines()[0]) == [(100, 2), (200, 4)]


def test_runs_that_have_no_step_in_common_yet_are_a_point(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", evaluations={101: [2.0], 200: [20.0]}),
        make_run(tmp_path / "b", "seed=1", evaluations={100: [4.0]}),
    ]
    with pytest.warns(UserWarning, match="b ends at"):
        (axis,) = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    assert curve(axis.get_lines()[0]) == [(101, 3)]


def test_single_run_shows_its_episodes_range_and_its_training(tmp_path, monkeypatch):
    evaluations = {100: [1.0, 2.0, 6.0], 200: [4.0, 4.0, 7.0]}
    run = make_run(tmp_path / "a", "seed=3", evaluations=evaluations, training={50: 0.5, 150: 2.5})
    (axis,) = drawn([run], monkeypatch, tmp_path / "x.png").axes
    greedy, training = axis.get_lines()
    assert curve(greedy) == [(100, 3), (200, 5)]
    assert band(axis) == [(100, 1, 6), (200, 4, 7)]
    assert curve(training) == [(50, 0.5), (150, 2.5)]
    assert training.get_linewidth() < greedy.get_linewidth()
    assert legend(axis) == ["dqn (mlp), seed 3: mean and range of 3 greedy episodes", "training, with exploration"]


def test_run_without_a_training_row_is_drawn(tmp_path):
    run = make_run(tmp_path / "a", evaluations={100: [1.0]})
    (run / "metrics.jsonl").unlink()
    draw_curves(read_runs([run]), tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


def test_each_environment_has_a_panel(tmp_path, monkeypatch):
    runs = [
        make_run(tmp_path / "a", evaluations={100: [1.0]}),
        make_run(tmp_path / "b", "env.observe=[0, 2]", evaluations={100: [2.0]}),
        make_run(tmp_path / "c", "env.id=Acrobot-v1", evaluations={100: [3.0]}),
        make_run(tmp_path / "d", "env.max_episode_steps=50", evaluations={100: [4.0]}),
        make_run(tmp_path / "e", "env.num_envs=5", evaluations={100: [5.0]}),
    ]
    axes = drawn(runs, monkeypatch, tmp_path / "x.png").axes
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["CartPole-v1", "CartPole-v1, observe [0, 2]", "Acrobot-v1", "CartPole-v1, max_episode_steps 50"]
    assert [len(axis.get_lines()) for axis in axes] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("steps", "labels"), [(500, ["0", "100"]), (40_000, ["0", "10k"]), (1_500_000, ["0", "500k", "1M", "1.5M"])]
)
def test_steps_are_written_short(steps, labels, tmp_path, monkeypatch):
    run = make_run(tmp_path / "a", evaluations={steps // 2: [1.0], steps: [2.0]})
    (axis,) = drawn([run], monkeypatch, tmp_path / "x.png").axes
    assert [label.get_text() for label in axis.get_xticklabels()][: len(labels)] == labels


def test_title_is_not_broken_within_an_environments_arguments(tmp_path, monkeypatch):
    fields = ("env.id=graftwork/DelayedRecall-v0", "env.kwargs.length=20")
    made = make_run(tmp_path / "run", *fields, evaluations={100: [0.0]})
    title = drawn([made], monkeypatch, tmp_path / "curves.png").axes[0].get_title("left")
    assert title.splitlines() == ["graftwork/DelayedRecall-v0, kwargs", "{length: 20}"]


def test_picture_has_the_format_of_its_name(tmp_path):
    records = read_runs([make_run(tmp_path / "a", evaluations={100: [1.0]})])
    for name, start in (("x.png", b"\x89PNG"), ("x.svg", b"<?xml"), ("x", b"\x89PNG")):
        draw_curves(records, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.foo", r"x\.foo: Format 'foo' is not supported"),
        ("no/x.png", "there is no directory"),
        ("a", "is a directory"),
    ],
)
def test_picture_that_cannot_be_is_one_line(name, message, tmp_path):
    records = read_runs([make_run(tmp_path / "a", evaluations={100: [1.0]})])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        draw_curves(records, tmp_path / name)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_failed_drawing_leaves_the_old_picture(tmp_path, monkeypatch):
    records = read_runs([make_run(tmp_path / "a", evaluations={100: [1.0]})])
    path = tmp_path / "x.png"
    path.write_bytes(b"old")

    def fill_disk(figure: Figure, target: Path, **options: object) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        draw_curves(records, path)
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "a", path]


def test_drawing_leaves_pyplot_alone(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.pyplot")]:
        monkeypatch.delitem(sys.modules, name)
    draw_curves(read_runs([make_run(tmp_path / "a", evaluations={100: [1.0]})]), tmp_path / "x.png")
    assert "matplotlib.pyplot" not in sys.modules


def test_run_named_twice_counts_once(tmp_path, monkeypatch):
    run, other = (make_run(tmp_path / name, evaluations={100: [1.0]}) for name in ("b", "a"))
    monkeypatch.chdir(tmp_path)
    records = read_runs(["b", run, str(run), f"{run}/", other, Path("a/../b")])
    assert [str(record.run_dir) for record in records] == ["b", str(other)]


def test_summary_is_the_newest_evaluation(tmp_path):
    run = make_run(tmp_path / "a", "seed=3", evaluations={100: [1.0], 200: [2.0, 4.0]})
    (record,) = read_runs([run])
    assert record.summary() == {
        **{"run_dir": str(run), "env": "CartPole-v1", "agent": "dqn (mlp)", "seed": 3},
        **{"step": 200, "mean": 3.0, "std": 1.0, "episodes": 2},
    }


def test_run_with_own_parts_says_so(tmp_path):
    run = make_run(tmp_path / "a", "objects=[env, encoder]", evaluations={100: [1.0]})
    (record,) = read_runs([run])
    assert (record.task, record.name) == ("CartPole-v1, own env", "dqn (own encoder)")


def remove_config(run: Path) -> None:
    (run / "config.yaml").unlink()


def remove_evaluations(run: Path) -> None:
    (run / "evaluations.jsonl").unlink()


def empty_evaluations(run: Path) -> None:
    (run / "evaluations.jsonl").write_text("")


def damage_evaluations(run: Path) -> None:
    (run / "evaluations.jsonl").write_text("nonsense\n")


def alter_evaluations(run: Path) -> None:
    (run / "evaluations.jsonl").write_text('{"step": 100, "mean": 1.0, "std": 0.0, "episodes": 1}\n')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_config, "run directory .*a has no config.yaml"),
        (remove_evaluations, "evaluations.jsonl: no evaluation yet; the first comes after evaluation.period steps"),
        (empty_evaluations, "evaluations.jsonl: no evaluation yet; the first comes after evaluation.period steps"),
        (damage_evaluations, "evaluations.jsonl: line 1 is not a JSON object"),
        (alter_evaluations, "evaluations.jsonl: line 1 has no returns"),
    ],
)
def test_run_that_cannot_be_drawn_is_named_with_the_reason(damage, message, tmp_path):
    run = make_run(tmp_path / "a", evaluations={100: [1.0]})
    damage(run)
    with pytest.raises(ValueError, match=message) as error:
        read_runs([run])
    assert "\n" not in str(error.value)


def test_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^run directory .*gone does not exist$"):
        read_runs([tmp_path / "gone"])
