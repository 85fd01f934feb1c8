"""The suite as it is run: a peer that is missing is a line, a workload of ours comes through, the page is written."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from suite import __main__ as command
from suite import page, pictures, processes, records
from suite.peers.device import OTHERS, kind_of
from suite.workloads import OURS, Scale, Side, workload


@pytest.fixture
def race():
    """Ours, a peer that is not installed, and one that does not end well."""
    found = workload("native-dqn", Scale.TINY, "cpu")
    missing = Side(".peers.sb3:dqn", found.sides[OURS].settings, ("no_such_library",))
    failing = Side(".peers.jax_dqn:dqn", found.sides[OURS].settings)
    return replace(found, sides={**found.sides, "Missing": missing, "JAX": failing}, repeats=2, warms_up=False)


def test_peer_that_is_missing_or_fails_is_a_line_and_the_others_go_on(race, monkeypatch):
    def child(side, *_):
        if side[1] == "JAX":
            raise processes.Failed("exit status 1: ImportError: no wheel for this planet")
        return {"steps_per_second": 7.0}

    monkeypatch.setattr(processes, "child", child)
    lines = []
    outcome = processes.run("native-dqn", race, Scale.TINY, "cpu", 2, lines.append)
    assert outcome.runs == {name: [{"steps_per_second": 7.0}] * 2 for name in (OURS, f"{OURS}, bursts of 8")}
    assert outcome.left_out == {
        "Missing": "no_such_library is not installed",
        "JAX": "exit status 1: ImportError: no wheel for this planet",
    }
    assert sum("is left out" in line for line in lines) == 2
    assert not processes.failed(outcome, race)


def test_failure_of_ours_is_a_failure(race, monkeypatch):
    def child(*_):
        raise processes.Failed("exit status 1")

    monkeypatch.setattr(processes, "child", child)
    outcome = processes.run("native-dqn", race, Scale.TINY, "cpu", 1, lambda line: None)
    assert outcome.runs == {}
    assert processes.failed(outcome, race)


def test_first_run_of_each_is_not_counted_and_of_others_only_a_start(race, monkeypatch):
    asked = []

    def child(side, scale, device, seed, *_):
        asked.append((side[1], seed, side[2:]))
        return {"steps_per_second": float(seed)}

    monkeypatch.setattr(processes, "child", child)
    race = replace(race, sides={name: race.sides[name] for name in (OURS, "JAX")}, warms_up=True)
    outcome = processes.run("native-dqn", race, Scale.QUICK, "cpu", 1, lambda line: None)
    assert asked == [(OURS, 1_000, []), ("JAX", 1_000, ["--only-start"]), (OURS, 0, []), ("JAX", 0, [])]
    assert outcome.runs[OURS] == [{"steps_per_second": 0.0}]


def test_reason_is_the_line_that_names_the_error():
    errors = "Traceback:\n  here\nValueError: steps=0: must be at least 1\n\nFor help, ask.\n"
    assert processes.reason(errors) == "ValueError: steps=0: must be at least 1"
    assert processes.reason("killed\n") == "killed"
    assert processes.reason("") == "no word why"


def test_tiny_run_of_ours_measures_and_makes_a_page(tmp_path):
    found = workload("native-dqn", Scale.TINY, "cpu")
    ours = replace(found, sides={OURS: found.sides[OURS]}, warms_up=False)
    outcome = processes.run("native-dqn", ours, Scale.TINY, "cpu", 1, lambda line: None)
    assert outcome.left_out == {}
    (metrics,) = outcome.runs[OURS]
    for name in ("steps_per_second", "updates_per_second", "first_step_seconds", "peak_megabytes", "final_return"):
        assert metrics[name] > 0
    # A batch a row of ten environments: 1,400 steps of learning.
    updates = metrics["updates_per_second"] * (metrics["total_seconds"] - metrics["first_step_seconds"])
    assert updates > 100
    records.write(tmp_path / "bench", records.record("native-dqn", ours, outcome, Scale.TINY, "cpu", 1, 0.0))
    assert command.main(["--page", "--results", str(tmp_path / "bench"), "--out", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text()
    assert (
        "| DQN, native CartPole, 10 environments: steps/s | JAX | 0.8x | nothing to compare with | not measured |"
        in text
    )
    assert "![Steps a second of every side](bench/overview.png)" in text
    assert (tmp_path / "bench" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "bench" / "summary.csv").read_text().startswith("workload,scale,side,metric,")


def test_page_without_records_says_that_nothing_was_measured(tmp_path):
    page.write(tmp_path / "page.md", {}, pictures.draw(tmp_path, {}))
    text = (tmp_path / "page.md").read_text()
    assert "| `dqn-zoo` was not run | not measured |" in text
    assert "Not measured yet: `make bench-gpu`" in text


def test_unknown_workload_is_an_error_line(capsys):
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "dqn-zooo"])
    assert ended.value.code == 2
    assert "no workload dqn-zooo" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_the_gpu_workloads_are_one_line_and_exit_2(capsys):
    assert command.main(["--gpu"]) == 2
    assert capsys.readouterr().err.splitlines() == ["torch sees no CUDA device here: nothing to measure"]


@pytest.mark.parametrize(
    ("side", "name"),
    [("the device", "gpu-limits"), ("DQN, native CartPole, 4", "gpu-profile"), ("PQN, 16", "gpu-breakout")],
)
def test_gpu_workloads_run_where_only_the_device_differs(side, name):
    found = workload(name, Scale.TINY, "cpu")
    one = replace(found, sides={side: found.sides[side]})
    outcome = processes.run(name, one, Scale.TINY, "cpu", 1, lambda line: None)
    assert outcome.left_out == {}
    (metrics,) = outcome.runs[side]
    assert all(value is None or value >= 0 for value in metrics.values())
    shares = [value for metric, value in metrics.items() if metric.startswith("share: ")]
    assert not shares or sum(shares) == pytest.approx(1)
    assert bool(shares) == (name == "gpu-profile")


def test_kernels_are_told_apart_by_their_names():
    names = {
        "triton_poi_fused_add_0": "fused by the compiler",
        "ampere_sgemm_64x32_sliced1x4_tn": "matrix products",
        "void cudnn::winograd_nonfused::winogradForwardData4x4": "convolutions",
        "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer",
        "void at::native::index_elementwise_kernel<128, 4>": "indexing",
        "Memcpy DtoD (Device -> Device)": "copies",
        "void at::native::reduce_kernel<512, 1>": "reductions",
        "void at::native::vectorized_elementwise_kernel<4>": OTHERS,
    }
    assert {name: kind_of(name) for name in names} == names


def test_measuring_process_imports_nothing_heavy():
    """A child's peak memory on Linux begins at its parent's, and what both import takes time from each first step."""
    heavy = ["torch", "numpy", "matplotlib", "gymnasium", "graftwork", "jax"]
    code = f"import sys, suite.__main__, suite.child; print([name for name in {heavy} if name in sys.modules])"
    with processes.caches() as environment:
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    assert found.stdout.strip() == "[]"
