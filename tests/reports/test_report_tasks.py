"""What a report shows of tasks: losses, scores, confusion, layers, and stages side by side."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import graftwork as gw
from graftwork.__main__ import main
from graftwork.configs import dump, load, validate
from graftwork.reports import report
from graftwork.reports.confusion import draw_confusion
from graftwork.reports.layers import in_order
from graftwork.reports.read import read_runs
from graftwork.runs.config import RunConfig, TaskRunConfig
from graftwork.runs.stages import StagesConfig
from graftwork.tasks import ClassScores

EPOCH = 20  # samples
CLASS = {"target": "class", "classes": ["cat", "dog", "10"]}
NUMBER = {"target": "ink"}


def scored(accuracy: float, loss: float = 1.0) -> dict[str, Any]:
    """Of 10 samples of each class, so many right; those wrong are taken for the next class."""
    right = round(10 * accuracy)
    cells = np.eye(3, dtype=int) * right + np.roll(np.eye(3, dtype=int), 1, axis=1) * (10 - right)
    return {"loss": loss, "accuracy": accuracy, "f1": accuracy, "classes": {}, "confusion": cells.tolist()}


def make_task(
    run_dir: Path,
    *overrides: str,
    losses: Sequence[float],
    accuracies: Sequence[float] | None = None,
    r2: Sequence[float] | None = None,
    training: Sequence[float] = (),
    layers: Sequence[dict[str, float]] = (),
) -> Path:
    """A run directory as training leaves it after as many epochs as there are losses."""
    run_dir.mkdir(parents=True)
    accuracies = [0.5] * len(losses) if accuracies is None and r2 is None else accuracies
    tree = load("supervised/digits-mlp", ["evaluation.patience=null", *overrides, f"run_dir={run_dir}"])
    (run_dir / "config.yaml").write_text(dump(validate(TaskRunConfig, tree)))
    heads = ({"class": CLASS} if accuracies is not None else {}) | ({"ink": NUMBER} if r2 is not None else {})
    schema = {"inputs": {"shape": [8, 8], "dtype": "uint8"}, "heads": heads}
    (run_dir / "schema.json").write_text(json.dumps(schema))
    rows = []
    for i, loss in enumerate(losses):
        told: dict[str, Any] = {} if accuracies is None else {"class": scored(accuracies[i], loss)}
        if r2 is not None:
            told["ink"] = {"loss": loss, "rmse": 1.0, "mae": 1.0, "r2": r2[i], "count": 10}
        rows.append({"step": EPOCH * (i + 1), "part": "validation", "epoch": i + 1.0, "loss": loss, "heads": told})
    metrics: list[dict[str, float]] = [{"step": EPOCH * (i + 1), "train/loss": loss} for i, loss in enumerate(training)]
    metrics += [{"step": EPOCH * (i + 1), **row} for i, row in enumerate(layers)]
    write_rows(run_dir / "evaluations.jsonl", rows)
    write_rows(run_dir / "metrics.jsonl", metrics)
    return run_dir


def make_agent(run_dir: Path, *overrides: str, means: Sequence[float]) -> Path:
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(
        dump(validate(RunConfig, load("dqn/cartpole", [*overrides, f"run_dir={run_dir}"])))
    )
    rows = [{"step": 100 * (i + 1), "mean": m, "std": 0.0, "episodes": 1, "returns": [m]} for i, m in enumerate(means)]
    write_rows(run_dir / "evaluations.jsonl", rows)
    return run_dir


def make_stages(run_dir: Path, names: Sequence[str], seed: int = 0) -> Path:
    """The directory of a run with those stages, none of which has begun."""
    run_dir.mkdir(parents=True)
    config = validate(StagesConfig, {"stages": {name: {} for name in names}, "seed": seed, "run_dir": str(run_dir)})
    (run_dir / "config.yaml").write_text(dump(config))
    return run_dir


def make_transfer(run_dir: Path, seed: int, accuracies: Sequence[Sequence[float]]) -> Path:
    """Stages source, frozen and scratch, with these validation accuracies."""
    make_stages(run_dir, ("source", "frozen", "scratch", "later"), seed)
    source, frozen, scratch = accuracies
    old, new = "data.classes=[0, 1, 2]", ["data.classes=[3, 4, 7]", "data.per_class=5", f"seed={seed}"]
    make_task(run_dir / "source", old, f"seed={seed}", losses=[1.0] * len(source), accuracies=source)
    graft = [f"graft.run={run_dir / 'source'}", "graft.freeze=all"]
    make_task(run_dir / "frozen", *new, *graft, losses=[1.0] * len(frozen), accuracies=frozen)
    make_task(run_dir / "scratch", *new, losses=[1.0] * len(scratch), accuracies=scratch)
    return run_dir


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures that are saved, by the name of their file."""
    saved: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: saved.update({path.name: figure}))
    monkeypatch.setattr("os.replace", lambda source, target: None)
    return saved


def curves(figures: dict[str, Figure]) -> dict[str, Any]:
    """Panels of the curves by title."""
    (name,) = [name for name in figures if "curve" in name or name.startswith(".x.")]
    return {axis.get_title(loc="left").replace("\n", " "): axis for axis in figures[name].axes}


def legend(axis: Any) -> list[str]:
    return [" ".join(text.get_text().split()) for text in axis.get_legend().get_texts()]


def points(line: Any) -> list[tuple[float, float]]:
    return [(float(x), round(float(y), 6)) for x, y in line.get_xydata()]


KEPT = "the epoch of the lowest loss, whose weights are kept"


def test_single_task_shows_both_losses_and_each_heads_main_score(tmp_path, figures):
    run = make_task(
        tmp_path / "a", "seed=3", losses=[3.0, 2.0], accuracies=[0.5, 0.7], r2=[0.1, 0.2], training=[4.0, 1.0]
    )
    report([run])
    panels = curves(figures)
    assert list(panels) == ["digits: loss", "digits: accuracy of class", "digits: R² of ink"]
    loss, accuracy, r2 = panels.values()
    assert [points(line) for line in loss.get_lines()] == [[(1, 3), (2, 2)], [(1, 4), (2, 1)]]
    assert [points(line) for line in accuracy.get_lines()] == [[(1, 0.5), (2, 0.7)]]
    assert [points(line) for line in r2.get_lines()] == [[(1, 0.1), (2, 0.2)]]
    assert legend(loss) == ["mlp, seed 3", "dashed: training, the mean since the row before"]
    assert (loss.get_xlabel(), loss.get_ylabel(), r2.get_ylabel()) == ("epochs", "validation loss", "validation R²")


def test_seeds_share_a_line_in_a_band_and_configs_have_their_own(tmp_path, figures):
    runs = [
        make_task(tmp_path / "a", "seed=0", losses=[3.0, 2.0]),
        make_task(tmp_path / "b", "seed=1", "checkpoint.keep=7", losses=[5.0, 1.0]),
        make_task(tmp_path / "c", "task.encoder.hidden=[9]", losses=[9.0, 8.0]),
    ]
    report(runs, tmp_path / "x.png")
    axis = curves(figures)["digits: loss"]
    assert [points(line) for line in axis.get_lines()] == [[(1, 4), (2, 1.5)], [(1, 9), (2, 8)]]
    assert legend(axis) == [
        "mlp, encoder.hidden=[64, 64]: mean and range of 2 seeds",
        "mlp, encoder.hidden=[9]: 1 seed",
    ]


def test_losses_of_different_heads_have_panels_of_their_own_and_scores_share_one(tmp_path, figures):
    runs = [
        make_task(tmp_path / "a", losses=[3.0], accuracies=[0.5]),
        make_task(tmp_path / "b", "task.heads.ink={}", "task.heads.class={}", losses=[9.0], accuracies=[0.6], r2=[0.2]),
    ]
    report(runs, tmp_path / "x.png")
    panels = curves(figures)
    losses = ["digits: loss of class", "digits: loss of class, ink"]
    assert list(panels) == [*losses, "digits: accuracy of class", "digits: R² of ink"]
    shared = panels["digits: accuracy of class"].get_lines()
    assert [points(line) for line in shared] == [[(1, 0.5)], [(1, 0.6)]]
    assert legend(panels["digits: R² of ink"]) == ["mlp, heads=[class, ink]: 1 seed"]
    (alone,) = panels["digits: R² of ink"].get_lines()
    assert alone.get_color() == shared[1].get_color()


def test_epoch_whose_weights_early_stopping_keeps_is_marked(tmp_path, figures):
    run = make_task(
        tmp_path / "a", "evaluation.patience=2", losses=[3.0, 2.0, 2.0, 4.0], accuracies=[0.1, 0.2, 0.9, 0.3]
    )
    report([run])
    loss, accuracy = curves(figures).values()
    assert points(loss.get_lines()[1]) == [(2, 2)]  # of two lowest the earlier
    assert points(accuracy.get_lines()[1]) == [(2, 0.2)]
    assert KEPT in legend(loss)


def test_nothing_is_marked_where_no_epoch_was_chosen(tmp_path, figures):
    report([make_task(tmp_path / "a", losses=[3.0, 2.0, 4.0])])
    loss, _ = curves(figures).values()
    assert len(loss.get_lines()) == 1
    assert KEPT not in legend(loss)


def test_seeds_that_stopped_late_go_on_in_thin_lines(tmp_path, figures):
    runs = [
        make_task(tmp_path / "a", "evaluation.patience=1", losses=[4.0, 5.0]),
        make_task(tmp_path / "b", "evaluation.patience=1", "seed=1", losses=[2.0, 1.0, 0.5, 0.7]),
    ]
    report(runs, tmp_path / "x.png")
    axis = curves(figures)["digits: loss"]
    mean, *others = axis.get_lines()
    assert points(mean) == [(1, 3), (2, 3)]
    thin = [line for line in others if line.get_marker() == "None"]
    assert [points(line) for line in thin] == [[(2, 1), (3, 0.5), (4, 0.7)]]
    assert [points(line) for line in others if line.get_marker() == "D"] == [[(1, 4)], [(3, 0.5)]]
    assert "thin: seeds that went on where others end" in legend(axis)


@pytest.mark.parametrize(
    ("losses", "scale"), [([5.0, 0.4], "log"), ([5.0, 0.6], "linear"), ([5.0, -0.1], "linear"), ([5.0, 0.0], "linear")]
)
def test_loss_is_logarithmic_where_it_is_positive_and_spans_a_decade(losses, scale, tmp_path, figures):
    report([make_task(tmp_path / "a", losses=losses)])
    assert curves(figures)["digits: loss"].get_yscale() == scale


def test_r2_far_below_zero_does_not_flatten_the_rest(tmp_path, figures):
    report([make_task(tmp_path / "a", losses=[1.0] * 3, r2=[-500.0, 0.1, 0.6])])
    assert curves(figures)["digits: R² of ink"].get_ylim()[0] == -1


def test_loss_that_was_not_finite_is_a_gap(tmp_path, figures):
    run = make_task(tmp_path / "a", "evaluation.patience=5", losses=[3.0, 2.0, 1.0])
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    del rows[2]["loss"]
    write_rows(run / "evaluations.jsonl", rows)
    made = report([run])
    line, mark = curves(figures)["digits: loss"].get_lines()
    assert np.isnan(line.get_ydata()[2])
    assert points(mark) == [(2, 2)]
    assert "loss" not in made.runs[0]
    json.dumps(made.record(), allow_nan=False)


# Confusion.


def test_confusion_has_counts_and_margins_in_the_classes_own_order(tmp_path, figures):
    report([make_task(tmp_path / "a", losses=[1.0, 1.0], accuracies=[0.1, 0.8])])
    figure = figures[".confusion.tmp.png"]
    axis = figure.axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["cat", "dog", "10", "precision"]
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["cat", "dog", "10", "recall"]
    written = {(text.get_position()[0], text.get_position()[1]): text.get_text() for text in axis.texts}
    assert (written[0, 0], written[1, 0]) == ("8", "2")  # column, row: a cat is taken for a dog
    assert sorted(text for place, text in written.items() if max(place) > 2) == ["0.80"] * 6
    assert np.allclose(axis.images[0].get_array(), [[0.8, 0.2, 0], [0, 0.8, 0.2], [0.2, 0, 0.8]])
    assert "digits: class, validation at epoch 2" in figure.get_suptitle().replace("\n", " ")


def test_confusion_is_of_the_weights_that_are_kept(tmp_path, figures):
    report([make_task(tmp_path / "a", "evaluation.patience=3", losses=[3.0, 1.0, 2.0], accuracies=[0.1, 0.9, 0.5])])
    assert "epoch 2" in figures[".confusion.tmp.png"].get_suptitle()
    assert "accuracy 0.900" in figures[".confusion.tmp.png"].get_suptitle()


def test_several_class_heads_have_a_confusion_picture_each(tmp_path, figures):
    run = make_task(tmp_path / "a", losses=[1.0])
    schema = json.loads((run / "schema.json").read_text())
    (row,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    schema["heads"]["odd/even"], row["heads"]["odd/even"] = CLASS, scored(0.7)
    (run / "schema.json").write_text(json.dumps(schema))
    write_rows(run / "evaluations.jsonl", [row])
    names = [path.name for path in report([run]).pictures]
    assert names == ["curve.png", "confusion-class.png", "confusion-odd_even.png"]


def test_several_runs_have_curves_only(tmp_path, figures):
    made = report([make_task(tmp_path / name, losses=[1.0]) for name in "ab"], tmp_path / "x.png")
    assert made.pictures == (tmp_path / "x.png",)


@pytest.mark.parametrize(("size", "has_numbers"), [(2, True), (40, True), (41, False), (150, False)])
def test_confusion_of_any_number_of_classes_is_drawn(size, has_numbers, tmp_path, figures):
    cells = tuple(tuple(int(i == j) for j in range(size)) for i in range(size))
    draw_confusion(ClassScores(0.0, cells, tuple(f"$ {i} $" for i in range(size))), "t", tmp_path / "x.png")
    assert bool(figures[".x.tmp.png"].axes[0].texts) == has_numbers
    assert figures[".x.tmp.png"].get_figwidth() < 20


def test_class_nobody_told_and_class_without_samples_are_drawn(tmp_path):
    draw_confusion(ClassScores(0.0, ((0, 4), (0, 0)), ("_$x$", "a^{")), "t: $\\frac$", tmp_path / "x.png")
    assert (tmp_path / "x.png").is_file()


# Layers.


def layer_rows(count: int, num_layers: int) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for _ in range(count):
        row: dict[str, float] = {}
        for i in range(num_layers):
            row |= {f"train/activation_std/encoder.layers.{i}": 2.0, f"train/activation_zeros/encoder.layers.{i}": 0.5}
            row |= {f"train/gradient_norm/encoder.layers.{i}.{name}": n for name, n in (("weight", 3.0), ("bias", 4.0))}
        rows.append({"train/gradient_norm": 9.0, "train/activation_mean/encoder.layers.0": 1.0, **row})
    return rows


@pytest.mark.parametrize("num_layers", [1, 11, 70])
def test_layers_are_drawn_over_time(num_layers, tmp_path, figures):
    run = make_task(tmp_path / "a", losses=[1.0, 1.0], layers=layer_rows(2, num_layers))
    assert report([run]).pictures[-1] == run / "layers.png"
    mean, std, zeros, gradient = figures[".layers.tmp.png"].axes[:4]
    for axis, value in ((std, np.log10(2)), (zeros, 0.5), (gradient, np.log10(5))):  # 5: the norm over 3 and 4
        (mesh,) = axis.collections
        assert mesh.get_array().shape == (num_layers, 2)
        assert np.allclose(mesh.get_array(), value)
    assert std.get_xlim() == (0, 2)  # epochs
    assert mean.get_yticklabels()[0].get_text() == "encoder.layers.0"


def test_means_of_layers_have_their_sign(tmp_path, figures):
    first, second = layer_rows(2, 2)
    second["train/activation_mean/encoder.layers.0"] = -3.0
    report([make_task(tmp_path / "a", losses=[1.0, 1.0], layers=[first, second])])
    (mesh,) = figures[".layers.tmp.png"].axes[0].collections
    assert mesh.get_array().tolist() == [[1.0, -3.0], [None, None]]  # only the first tells of its mean
    assert mesh.get_clim() == (-3.0, 3.0)  # white is zero


def test_an_ensemble_has_gradients_alone(tmp_path, figures):
    norms = [{name: value for name, value in row.items() if "gradient_norm/" in name} for row in layer_rows(2, 3)]
    rows = [{name.replace(".", "__"): value for name, value in row.items()} for row in norms]
    run = make_task(tmp_path / "a", losses=[1.0, 1.0], layers=rows)
    assert report([run]).pictures[-1] == run / "layers.png"
    gradient, _ = figures[".layers.tmp.png"].axes
    assert gradient.collections[0].get_array().shape == (3, 2)  # weight and bias of a layer as one
    assert gradient.get_yticklabels()[0].get_text() == "encoder.layers.0"


def test_what_was_not_measured_is_left_out_and_no_gradient_is_the_lowest(tmp_path, figures):
    first, second, third = layer_rows(3, 2)
    for name in ("weight", "bias"):
        del first[f"train/gradient_norm/encoder.layers.0.{name}"]  # frozen at first
        second[f"train/gradient_norm/encoder.layers.1.{name}"] = 0.0
    report([make_task(tmp_path / "a", losses=[1.0] * 3, layers=[first, second, third])])
    gradient = figures[".layers.tmp.png"].axes[3].collections[0].get_array()
    assert gradient.mask.tolist() == [[True, False, False], [False, False, False]]
    assert np.isfinite(gradient.compressed()).all()


def test_agents_have_layers_too(tmp_path, figures):
    run = make_agent(tmp_path / "a", means=[1.0])
    write_rows(run / "metrics.jsonl", [{"step": 500 * (i + 1), **row} for i, row in enumerate(layer_rows(3, 2))])
    assert [path.name for path in report([run]).pictures] == ["curve.png", "layers.png"]
    assert figures[".layers.tmp.png"].axes[0].get_xlim() == (0, 1500)


def test_layers_are_in_the_order_of_their_depth():
    names = ["log_variance", "head.linear", "encoder.inner.stages.10.branch.0", "encoder.inner.stages.2.activation"]
    names += ["encoder.inner.stages.2.branch.0", "encoder.inner.stem.0", "encoder", "encoder.inner.hidden.0"]
    assert in_order(names) == [
        *("encoder.inner.stem.0", "encoder.inner.stages.2.branch.0", "encoder.inner.stages.2.activation"),
        *("encoder.inner.stages.10.branch.0", "encoder.inner.hidden.0", "encoder", "head.linear", "log_variance"),
    ]


# Stages.


def test_stages_are_compared_on_the_data_that_they_share(tmp_path, figures):
    run = make_transfer(tmp_path / "t", 0, [[0.9], [0.3, 0.4], [0.1, 0.6]])
    made = report([run])
    panels = curves(figures)
    titles = ["digits, classes 0 to 2: accuracy of class", "digits, classes 3, 4, 7, 5 a class: accuracy of class"]
    assert list(panels) == titles
    assert legend(panels[titles[1]]) == ["frozen: 1 seed", "scratch: 1 seed"]
    assert [points(line) for line in panels[titles[1]].get_lines()] == [[(1, 0.3), (2, 0.4)], [(1, 0.1), (2, 0.6)]]
    assert made.table.splitlines() == [
        "stage    grafted from  frozen  seeds  trained          result",
        "source   -             -       1      1 epoch so far   validation class accuracy 0.900",
        "frozen   source        all     1      2 epochs so far  validation class accuracy 0.400",
        "scratch  -             -       1      2 epochs so far  validation class accuracy 0.600",
        "later                          0      not yet",
    ]
    # A stage is a run, and its own pictures go where the run is.
    pictures = [run / "curve.png", *(run / stage / "confusion.png" for stage in ("source", "frozen", "scratch"))]
    assert list(made.pictures) == pictures
    assert str(made) == "\n".join([f"{made.table}\n", *map(str, pictures)])


def test_stages_of_several_seeds_are_grouped_stage_by_stage(tmp_path, figures):
    runs = [
        make_transfer(tmp_path / "t0", 0, [[0.9], [0.2], [0.1]]),
        make_transfer(tmp_path / "t1", 1, [[0.7], [0.4], [0.3]]),
    ]
    made = report(runs, tmp_path / "x.png")
    assert [label for axis in curves(figures).values() for label in legend(axis)] == [
        f"{name}: mean and range of 2 seeds" for name in ("source", "frozen", "scratch")
    ]
    assert "validation class accuracy 0.300 (0.200 to 0.400)" in made.table.splitlines()[2]


def test_runs_grafted_from_sources_that_differ_by_more_than_the_seed_are_apart(tmp_path, figures):
    sources = [("", 0), ("", 1), ("task.encoder.hidden=[9]", 2)]
    runs = []
    for override, seed in sources:
        name = f"pre{seed}"
        make_task(tmp_path / name, *filter(None, [override]), f"seed={seed}", losses=[1.0])
        graft = f"graft.run={tmp_path / name}"
        runs.append(make_task(tmp_path / f"fine{seed}", graft, f"seed={seed}", losses=[1.0]))
    report(runs, tmp_path / "x.png")
    counts = [label.rpartition(": ")[2] for label in legend(curves(figures)["digits: loss"])]
    assert counts == ["mean and range of 2 seeds", "1 seed"]


def test_stages_of_agents_are_compared_by_their_returns(tmp_path, figures):
    run = make_stages(tmp_path / "t", ["fresh", "grafted"])
    make_agent(run / "fresh", "steps=200", means=[1.0, 5.0])
    graft = [f"graft.run={run / 'fresh'}", "graft.freeze=1", "graft.unfreeze_period=1000", "graft.rate_decay=0.5"]
    make_agent(run / "grafted", *graft, "steps=200", means=[2.0, 9.0])
    made = report([run])
    (axis,) = curves(figures).values()
    assert axis.get_title(loc="left") == "CartPole-v1"
    assert legend(axis) == ["fresh: 1 seed", "grafted: 1 seed"]
    row = made.table.splitlines()[2]
    assert "fresh         1 block, one less every 1,000 steps, rates x 0.5 a block  1" in row
    assert row.endswith("200 steps  return 9.0")


def test_stages_that_were_moved_still_know_each_other(tmp_path, figures):
    run = make_transfer(tmp_path / "t", 0, [[0.9], [0.2], [0.1]])
    moved = run.rename(tmp_path / "elsewhere")
    assert report([moved]).table.splitlines()[2].startswith("frozen   source        all")


def test_agents_tasks_and_stages_go_into_one_picture(tmp_path, figures):
    runs = [
        make_transfer(tmp_path / "t", 0, [[0.9], [0.2], [0.1]]),
        make_agent(tmp_path / "a", means=[1.0, 2.0]),
        make_task(tmp_path / "b", losses=[3.0], r2=[0.1]),
    ]
    made = report(runs, tmp_path / "x.png")
    titles = ["CartPole-v1", "digits, classes 0 to 2: accuracy of class"]
    titles += ["digits, classes 3, 4, 7, 5 a class: accuracy of class", "digits: loss", "digits: R² of ink"]
    assert list(curves(figures)) == titles
    assert len(made.runs) == 3


# Plain values.


def test_summary_of_a_task_is_its_newest_evaluation(tmp_path, figures):
    run = make_task(tmp_path / "a", "seed=3", "evaluation.patience=4", losses=[2.0, 3.0], accuracies=[0.4, 0.5])
    (summary,) = report([run]).runs
    assert summary == {
        **{"run_dir": str(run), "data": "digits", "network": "mlp", "seed": 3, "step": 40, "epoch": 2.0},
        **{"part": "validation", "loss": 3.0, "heads": {"class": {"loss": 3.0, "accuracy": 0.5, "f1": 0.5}}},
        "chosen_epoch": 1.0,
    }


def test_summary_of_stages_is_by_stage(tmp_path, figures):
    (summary,) = report([make_transfer(tmp_path / "t", 5, [[0.9], [0.2], [0.1]])]).runs
    stages = summary["stages"]
    assert isinstance(stages, dict)
    assert (summary["seed"], list(stages)) == (5, ["source", "frozen", "scratch"])
    assert stages["frozen"]["graft"]["freeze"] == "all"
    assert stages["frozen"]["heads"]["class"]["accuracy"] == 0.2


# What cannot be drawn.


def alter(run: Path, change: dict[str, Any] | None = None, without: str | None = None) -> None:
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    rows[-1].update(change or {})
    rows[-1].pop(without, None)
    write_rows(run / "evaluations.jsonl", rows)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "evaluations.jsonl").unlink(), "no evaluation yet; the first comes after .* epochs"),
        (lambda run: (run / "evaluations.jsonl").write_text("x\n"), "evaluations.jsonl: line 1 is not a JSON object"),
        (lambda run: alter(run, without="epoch"), "line 2 has no epoch; the file was altered"),
        (lambda run: alter(run, {"epoch": 0}), "line 2 has no valid epoch; the file was altered"),
        (lambda run: alter(run, {"loss": "low"}), "line 2 has no valid loss; the file was altered"),
        (lambda run: alter(run, {"heads": {}}), "line 2 has no heads.class; the file was altered"),
        (lambda run: alter(run, {"heads": {"class": {"accuracy": []}}}), "line 2 has no valid heads.class.accuracy"),
        (lambda run: alter(run, {"heads": {"class": {"confusion": [[1]]}}}), "heads.class.confusion has not 3 rows"),
        (lambda run: alter(run, {"heads": {"class": {}}}), "line 2: heads.class.confusion has not 3 rows of 3 classes"),
        (lambda run: (run / "schema.json").unlink(), "schema.json: No such file or directory; it says what the model"),
        (lambda run: (run / "schema.json").write_text("{}"), "schema.json: tells no longer what the model takes and"),
        (lambda run: (run / "metrics.jsonl").write_text("{}\n"), "metrics.jsonl: line 1 has no step; the file was"),
        (lambda run: (run / "config.yaml").write_text("epochs: few\n"), "config.yaml"),
        (lambda run: (run / "config.yaml").write_text("stages: {}\n"), "stages"),
        (lambda run: (run / "config.yaml").write_text("stages: {a: {}}\n"), "none of its stages has an evaluation yet"),
    ],
)
def test_damaged_task_is_one_line(damage, message, tmp_path):
    run = make_task(tmp_path / "a", losses=[1.0, 2.0])
    damage(run)
    with pytest.raises(ValueError, match=message) as error:
        report([run])
    assert "\n" not in str(error.value)
    assert not (run / "confusion.png").exists()


def test_source_that_names_itself_or_is_gone_is_no_trouble(tmp_path, figures):
    runs = [make_task(tmp_path / name, f"graft.run={tmp_path / name}", losses=[1.0]) for name in "ab"]
    runs.append(make_task(tmp_path / "c", "graft.run=gone", losses=[1.0]))
    assert len(report(runs, tmp_path / "x.png").runs) == 3


# What training really leaves.


def test_real_task_with_layers_is_reported(tmp_path, capsys):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(60, 5)).astype(np.float32)
    fields = ["epochs=3", "task.encoder={kind: mlp, hidden: [7]}", "log.layers=true", "task.batch_size=8"]
    labels = (inputs[:, 0] > 0).astype(np.int64)
    run = gw.train("supervised/digits-mlp", *fields, data=(inputs, labels), run_dir=tmp_path / "a", quiet=True)
    assert main(["report", str(run.run_dir)]) == 0
    pictures = [run.run_dir / name for name in ("curve.png", "confusion.png", "layers.png")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in pictures]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    (record,) = read_runs([run.run_dir])
    assert run.evaluation is not None
    assert record.summary()["loss"] == run.evaluation.loss
    assert record.summary()["data"] == "own data"


def test_real_stages_are_reported(tmp_path, capsys):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(60, 5)).astype(np.float32)
    np.savez(tmp_path / "bars.npz", inputs=inputs, sign=(inputs[:, 0] > 0).astype(np.int64))
    data = f"data: {{name: {tmp_path / 'bars.npz'}}}, epochs: 2, task: {{encoder: {{kind: mlp, hidden: [7]}}}}"
    path = tmp_path / "stages.yaml"
    path.write_text(f"stages:\n  first: {{{data}}}\n  second: {{{data}, graft: {{run: first, freeze: all}}}}\n")
    runs = [str(gw.train(path, f"seed={seed}", run_dir=tmp_path / f"t{seed}", quiet=True).run_dir) for seed in (0, 1)]
    capsys.readouterr()
    assert main(["report", *runs, "--output", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:4] == ["first", "-", "-", "2"]
    assert out[2].split()[:4] == ["second", "first", "all", "2"]
    assert out[-1] == str(tmp_path / "x.png")
    assert main(["report", runs[0], "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["runs"][0]["stages"]) == ["first", "second"]
    assert printed["picture"] == str(Path(runs[0]) / "curve.png")


def test_report_leaves_pyplot_alone(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("matplotlib.pyplot")]:
        monkeypatch.delitem(sys.modules, name)
    report([make_task(tmp_path / "a", losses=[1.0], layers=layer_rows(1, 2))])
    assert "matplotlib.pyplot" not in sys.modules
