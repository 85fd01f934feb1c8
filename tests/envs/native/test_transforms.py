"""Steps are pure functions of tensors: they run where there are no numbers, and can be traced, mapped and captured."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from graftwork.envs.native import GAMES, Live, NativeEnvs, Row, Simulation, make_game
from graftwork.envs.native.draws import env_keys

B, SEEDS = 5, 3

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=GAMES)
def simulation(request: pytest.FixtureRequest) -> Simulation:
    """With episodes of 4 steps at most."""
    return Simulation(make_game(request.param, {}), 4, autoreset=True)


def begun(simulation: Simulation, seed: int = 0) -> Live:
    return simulation.begin(env_keys(seed, 0, B), torch.zeros(B, dtype=torch.int64))


def actions(simulation: Simulation, num_rows: int = 11) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(simulation.game.num_actions, (num_rows, B), generator=generator)


def played(simulation: Simulation, step: Any = None) -> list[tuple[Live, Row]]:
    live, rows = begun(simulation), []
    for action in actions(simulation):
        live, row = (step or simulation.step)(live, action)
        rows.append((live, row))
    return rows


def assert_same(found: list[tuple[Live, Row]], expected: list[tuple[Live, Row]]) -> None:
    for one, other in zip(found, expected, strict=True):
        for part, wanted in zip((*one[0], *one[1]), (*other[0], *other[1]), strict=True):
            assert torch.equal(part, wanted)


def test_a_step_looks_at_no_number(simulation: Simulation) -> None:
    live = Live(*(part.to("meta") for part in begun(simulation)))
    live, row = simulation.step(live, torch.zeros(B, dtype=torch.int64, device="meta"))
    assert row.reward.shape == live.ended.shape == (B,)
    assert simulation.begin(live.env_key, live.episode).state.shape == live.state.shape


def test_a_trace_is_the_step(simulation: Simulation) -> None:
    """Traced where no episode ends, it is run where some do."""
    traced = make_fx(lambda live, action: simulation.step(live, action))(begun(simulation), actions(simulation)[0])
    assert_same(played(simulation, traced), played(simulation))


def test_a_step_is_one_graph(simulation: Simulation) -> None:
    torch._dynamo.reset()
    whole = torch.compile(simulation.step, fullgraph=True, backend="eager")
    assert_same(played(simulation, whole), played(simulation))


def test_steps_map_over_seeds(simulation: Simulation) -> None:
    lives = [begun(simulation, seed) for seed in range(SEEDS)]
    stacked = Live(*map(torch.stack, zip(*lives, strict=True)))
    step = torch.func.vmap(simulation.step, in_dims=(0, None))
    for action in actions(simulation):
        alone = [simulation.step(live, action) for live in lives]
        lives = [live for live, _ in alone]
        stacked, row = step(stacked, action)
        for seed, (live, expected) in enumerate(alone):
            for part, wanted in zip((*stacked, *row), (*live, *expected), strict=True):
                assert torch.equal(part[seed], wanted)


class Watch(TorchDispatchMode):
    """Notes operations that change what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.is_mutable:
            self.writes.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_step_writes_to_nothing(simulation: Simulation) -> None:
    live, action = begun(simulation), actions(simulation)[0]
    with Watch() as watch:
        simulation.step(live, action)
    assert watch.writes == []


def test_without_ends_the_short_way_is_the_long_one(simulation: Simulation) -> None:
    live = begun(simulation)
    action = actions(simulation)[0]
    assert_same([simulation.step(live, action, some_ended=False)], [simulation.step(live, action, some_ended=True)])


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("env_id", GAMES)
def test_on_a_gpu_rows_are_those_of_the_cpu(env_id: str) -> None:
    """Chances and whole numbers exactly; physics to rounding, for as long as that does not grow."""
    here, there = (NativeEnvs(make_game(env_id, {}), 300, 0, max_episode_steps=8, device=d) for d in ("cpu", "cuda"))
    assert torch.allclose(there.reset().observation.float().cpu(), here.reset().observation.float())  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(4)
    for _ in range(40):
        action = torch.randint(here.simulation.game.num_actions, (300,), generator=generator)
        row, other = here.step(action), there.step(action.cuda())
        assert other.reward.device.type == "cuda"
        for part, wanted in zip(other[1:5], row[1:5], strict=True):
            assert torch.equal(part.cpu(), wanted)  # type: ignore[union-attr]
        assert torch.allclose(other.observation.float().cpu(), row.observation.float(), atol=1e-4)  # type: ignore[union-attr]
    assert there.finished() == here.finished() != []


@pytest.mark.gpu
@needs_cuda
def test_a_step_is_captured_in_a_cuda_graph(simulation: Simulation) -> None:
    live = Live(*(part.cuda() for part in begun(simulation)))
    action = actions(simulation).cuda()
    expected, place = [], live
    for each in action:
        place, row = simulation.step(place, each)
        expected.append((place, row))
    given = action[0].clone()
    graph = torch.cuda.CUDAGraph()
    memory = Live(*(part.clone() for part in live))
    with torch.cuda.graph(graph):
        after, row = simulation.step(memory, given)
    for each, wanted in zip(action, expected, strict=True):
        given.copy_(each)
        graph.replay()
        assert_same([(after, row)], [wanted])
        for part, new in zip(memory, after, strict=True):
            part.copy_(new)
