"""Compiled graphs: one is really compiled here, once for all tests; the others stand in for it."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graftwork.engine import Recorded, accelerate
from graftwork.engine import recorded as recorded_module
from graftwork.engine.accelerate import NUM_CHECKED, Accelerator, accelerated, cache_directory

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


def function(network: nn.Module, x: Tensor) -> list[Tensor]:
    hidden = network(x)
    return [hidden, hidden.clamp(max=0.5) * 3 - hidden.sum(0), hidden.argmax(-1)]


def network() -> nn.Module:
    built = nn.Sequential(nn.Linear(3, 7), nn.Tanh(), nn.Linear(7, 5), nn.ReLU())
    generator = torch.Generator().manual_seed(1)
    for parameter in built.parameters():
        nn.init.normal_(parameter, generator=generator)
    return built


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(11, 3, generator=generator) for _ in range(count)]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded_module, "_EAGER_FIRST", 3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def accelerator(cache: Path, lines: list[str]) -> Iterator[Accelerator]:
    made = Accelerator(cache, lines.append)
    with accelerated(made):
        yield made


def finish(accelerator: Accelerator) -> None:
    accelerator.poll(remaining=1e9)
    for _ in range(1200):
        if accelerator._under_way is None:
            return
        time.sleep(0.1)
        accelerator.poll(remaining=1e9)
    raise AssertionError("the compiler does not end")


def results(recorded: Recorded[nn.Module, Any], count: int) -> list[list[Tensor]]:
    with torch.no_grad():
        return [list(recorded(x)) for x in batches(count)]


def assert_same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, a, b))


@needs_compiler
def test_a_compiled_graph_comes_to_the_same_bits_and_is_in_the_cache_for_the_next(
    cache: Path, lines: list[str], accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(Recorded(function, network()), 60)
    ours = Recorded(function, network())
    results(ours, 10)
    (recording,) = ours._recordings.values()
    finish(accelerator)
    assert lines == []
    assert_same(results(ours, 60), expected)
    (compiled,) = ours._recordings.values()
    assert compiled is not recording
    assert not isinstance(compiled, accelerate._Checked)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is compiled twice")

    monkeypatch.setattr(accelerate.subprocess, "Popen", refuse)
    again = Recorded(function, network())
    with accelerated(Accelerator(cache, lines.append)):
        results(again, 10)  # it need not even be asked for
        (loaded,) = again._recordings.values()
        assert isinstance(loaded, accelerate._Checked)
        assert_same(results(again, 60), expected)


def prepared(
    accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch, offset: float = 0.0
) -> Recorded[nn.Module, Any]:
    """Recorded, and compiled into what is off by so much."""
    ours = Recorded(function, network())
    results(ours, 10)
    (order,) = accelerator._waiting
    order.directory.mkdir(parents=True, exist_ok=True)
    (order.directory / "model.so").write_bytes(b"")
    recording = order.recording

    def compiled(*tensors: Tensor) -> list[Tensor]:
        return [each + offset if offset else each for each in recording(*tensors)]

    monkeypatch.setattr(accelerate, "_load", lambda path: compiled)
    return ours


@pytest.fixture
def apart(tmp_path: Path, lines: list[str]) -> Iterator[Accelerator]:
    """With a cache of its own."""
    made = Accelerator(tmp_path / "cache", lines.append)
    with accelerated(made):
        yield made


def test_what_comes_to_other_bits_is_not_used(
    apart: Accelerator, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(Recorded(function, network()), 40)
    apart._waiting.clear()
    ours = prepared(apart, monkeypatch, offset=1e-6)
    (recording,) = ours._recordings.values()
    finish(apart)
    assert_same(results(ours, 40), expected)
    assert list(ours._recordings.values()) == [recording]
    assert len(lines) == 1
    assert lines[0].endswith("came to other bits than torch")


def test_it_takes_over_after_some_calls_that_agree(
    apart: Accelerator, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = prepared(apart, monkeypatch)
    finish(apart)
    results(ours, NUM_CHECKED - 1)
    (still,) = ours._recordings.values()
    assert isinstance(still, accelerate._Checked)
    results(ours, 1)
    (now,) = ours._recordings.values()
    assert not isinstance(now, accelerate._Checked)
    assert lines == []


def test_a_file_that_does_not_load_is_named_and_the_run_goes_on(
    apart: Accelerator, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "_load", None)
    ours = prepared(apart, monkeypatch)
    monkeypatch.undo()
    finish(apart)
    assert "model.so does not load" in lines[0]
    assert len(results(ours, 5)) == 5


def test_nothing_is_begun_that_does_not_pay(apart: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    results(Recorded(function, network()), 10)
    apart.poll(remaining=accelerate.LEAST_SECONDS - 1)
    assert apart._under_way is None
    monkeypatch.setattr(apart, "_has_core_to_spare", False)
    apart.poll(remaining=accelerate.LEAST_ALONE - 1)
    assert apart._under_way is None
    assert not apart._directory.exists()


def test_a_compiler_that_fails_is_one_line_with_its_last_word(
    apart: Accelerator, lines: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results(Recorded(function, network()), 10)
    monkeypatch.setattr(accelerate, "_COMPILER", tmp_path / "no_such_module.py")
    apart._waiting[0].directory.parent.mkdir(parents=True)
    finish(apart)
    assert len(lines) == 1
    assert "No module named graftwork.engine.no_such_module" in lines[0]


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "file").write_text("")
    blocked = Accelerator(tmp_path / "file/cache", lines.append)
    with accelerated(blocked):
        results(Recorded(function, network()), 10)
        blocked.poll(remaining=1e9)
    assert lines == [f"accelerate: runs as recorded: {tmp_path}/file/cache: Not a directory"]


def test_what_is_under_way_ends_with_the_run(apart: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    results(Recorded(function, network()), 10)
    popen = accelerate.subprocess.Popen
    monkeypatch.setattr(
        accelerate.subprocess,
        "Popen",
        lambda command, **options: popen([sys.executable, "-c", "import time; time.sleep(60)"], **options),
    )
    apart.poll(remaining=1e9)
    assert apart._under_way is not None
    process = apart._under_way[1]
    apart.close()
    assert process.poll() is not None


def test_outside_a_run_nothing_is_compiled() -> None:
    assert accelerate.current() is None
    results(Recorded(function, network()), 10)


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFTWORK_CACHE", "/somewhere")
    assert cache_directory() == Path("/somewhere/compiled")
    monkeypatch.delenv("GRAFTWORK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_directory() == Path("/caches/graftwork/compiled")
