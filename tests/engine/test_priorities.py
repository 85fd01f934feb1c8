"""Priorities against a plain list of them."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from graftwork.engine.arrays import NumPyOps, TorchOps
from graftwork.engine.priorities import Priorities, PrioritySettings, sequence_priority

LINEAR = PrioritySettings(exponent=1.0, floor=2.0**-22)
SQUARE_ROOT = PrioritySettings(exponent=0.5, floor=2.0**-20)


@pytest.fixture(autouse=True, params=[NumPyOps, TorchOps], ids=["numpy", "torch"])
def _arrays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything both as on the CPU and, but for the device, as on a GPU."""
    monkeypatch.setattr("graftwork.engine.arrays.NumPyOps", request.param)


def priorities(size: int, settings: PrioritySettings = LINEAR) -> Priorities:
    return Priorities(size, settings, "cpu")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def holding(values: list[float], settings: PrioritySettings = LINEAR) -> Priorities:
    """Slots with these priorities, but for the floor; none where it is 0."""
    held = priorities(len(values), settings)
    slots = torch.tensor([slot for slot, value in enumerate(values) if value])
    held.update(slots, torch.tensor([value for value in values if value], dtype=torch.float64) - settings.floor)
    return held


def chances(held: Priorities, draws: int = 4000) -> list[float]:
    """Probability of each slot, as told by draws; 0 for slots that were never drawn."""
    slot, weight = held.sample(draws, stream())
    weights = dict(zip(slot.tolist(), weight.tolist(), strict=True))
    total = sum(1 / weight for weight in weights.values())
    return [1 / weights[slot] / total if slot in weights else 0.0 for slot in range(held.size)]


def test_probability_is_priority_to_the_exponent_over_the_sum() -> None:
    held = priorities(4, SQUARE_ROOT)
    floor = SQUARE_ROOT.floor
    held.update(torch.tensor([0, 1, 3]), torch.tensor([1.0, 4.0, 9.0]) - floor)  # square roots 1 + 2 + 3 = 6
    assert chances(held) == pytest.approx([1 / 6, 2 / 6, 0, 3 / 6], abs=1e-6)


def test_draws_follow_the_priorities() -> None:
    values = [float(1 + 7 * slot % 13) for slot in range(100)]
    held, generator, counts = holding(values), stream(3), torch.zeros(100)
    batch, rounds = 3, 20_000  # three parts of all priorities: within one, draws are independent
    for _ in range(rounds):
        counts += torch.bincount(held.sample(batch, generator)[0], minlength=100)
    expected = torch.tensor(values) / sum(values) * batch * rounds
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 149  # one in a thousand, 99 degrees of freedom; parts of equal size only lower it


def test_a_batch_takes_one_draw_from_each_equal_part() -> None:
    held = holding([1.0, 2.0, 3.0, 2.0])  # quarters of 8: slots {0, 1}, {1, 2}, {2}, {3}
    generator = stream()
    for _ in range(200):
        first, second, third, fourth = held.sample(4, generator)[0].tolist()
        assert first in (0, 1)
        assert second in (1, 2)
        assert (third, fourth) == (2, 3)


@pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 64, 1000])
@pytest.mark.parametrize("place", ["first", "last"])
def test_one_slot_among_none_is_always_drawn(size: int, place: str) -> None:
    held, slot = priorities(size), 0 if place == "first" else size - 1
    held.update(torch.tensor([slot]), torch.tensor([1e-9]))
    slots, weight = held.sample(500, stream())
    assert slots.tolist() == [slot] * 500
    assert weight.tolist() == [1.0] * 500


@pytest.mark.parametrize(("number", "slot"), [(0.0, 40), (1 - 2.0**-53, 90)])
def test_the_most_extreme_numbers_draw_slots_with_a_priority(
    number: float, slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = priorities(100)
    held.update(torch.tensor([40, 70, 90]), torch.tensor([3e-7, 1e4, 3e-7], dtype=torch.float64))
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.full((size,), number, dtype=torch.float64))
    for batch in (1, 7, 1000):
        drawn = held.sample(batch, stream())[0].tolist()
        assert drawn[0 if slot == 40 else -1] == slot
        assert set(drawn) <= {40, 70, 90}


def test_new_slots_have_the_highest_priority_so_far() -> None:
    held = priorities(5)
    held.enter(slice(0, 2))  # 1 at first
    held.update(torch.tensor([1]), torch.tensor([4.0], dtype=torch.float64) - LINEAR.floor)
    held.update(torch.tensor([1]), torch.tensor([3.0], dtype=torch.float64) - LINEAR.floor)  # 4 is remembered
    held.enter(torch.tensor([4, 2]))
    assert chances(held) == pytest.approx([1 / 12, 3 / 12, 4 / 12, 0, 4 / 12], rel=1e-6)


def test_cleared_slots_are_not_drawn() -> None:
    held = priorities(100)
    held.enter(slice(0, 100))
    held.clear(slice(10, 95))
    held.clear(torch.tensor([0, 99, 3]))
    left = [1, 2, *range(4, 10), *range(95, 99)]
    assert [slot for slot, chance in enumerate(chances(held)) if chance] == left


def test_nothing_to_draw_is_refused() -> None:
    held = priorities(3)
    with pytest.raises(ValueError, match=r"^replay: nothing to draw from yet$"):
        held.sample(2, stream())
    held.enter(slice(0, 3))
    held.clear(slice(0, 3))
    with pytest.raises(ValueError, match=r"^replay: nothing to draw from yet$"):
        held.sample(2, stream())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (math.nan, "replay: a priority is nan; all must be finite"),
        (math.inf, "replay: a priority is inf; all must be finite"),
        (-0.5, "replay: a priority is -0.5; all must be finite and not negative"),
        (1e30, "replay: a priority is 1e+30, 7 slots can hold at most 1.57073e+11; scale the rewards"),  # 2**40 / 7
    ],
)
def test_a_wrong_priority_is_refused_and_changes_nothing(wrong: float, message: str) -> None:
    held = holding([1.0, 2.0, 0.0, 4.0, 5.0, 6.0, 7.0])
    before, state = chances(held), held.state_dict()["highest"]
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}.*$"):
        held.update(torch.tensor([0, 1, 2]), torch.tensor([9.0, wrong, 9.0]))
    assert chances(held) == before
    assert held.state_dict()["highest"] == state


def test_the_largest_priority_in_every_slot_still_adds_up() -> None:
    held = priorities(1000)
    largest = 2.0**40 / 1024  # a float32 as it is
    held.update(torch.arange(1000), torch.full((1000,), largest, dtype=torch.float64))
    slots, weight = held.sample(1000, stream())
    assert slots.tolist() == list(range(1000))
    assert weight.tolist() == [1.0] * 1000


def test_of_two_priorities_for_one_slot_the_higher_stays() -> None:
    held = holding([5.0, 9.0, 0.0])
    held.update(torch.tensor([1, 0, 1]), torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64) - LINEAR.floor)
    assert chances(held) == pytest.approx([1 / 4, 3 / 4, 0])


def test_no_slots_is_no_change() -> None:
    held, none = holding([1.0, 3.0]), torch.empty(0, dtype=torch.int64)
    held.update(none, torch.empty(0))
    held.enter(none)
    held.clear(slice(1, 1))
    assert chances(held) == pytest.approx([1 / 4, 3 / 4])


def test_a_loss_of_any_type_with_gradients_gives_priorities() -> None:
    held = priorities(3)
    held.update(torch.tensor([0, 1]), torch.tensor([1.0, 3.0], dtype=torch.bfloat16, requires_grad=True))
    assert chances(held) == pytest.approx([1 / 4, 3 / 4, 0], abs=1e-6)


class Model:
    """The same in a list of whole numbers."""

    def __init__(self, size: int) -> None:
        self.units, self.highest = [0] * size, 2**22

    def update(self, slots: list[int], priority: list[float]) -> None:
        new = dict.fromkeys(slots, 0)
        for slot, value in zip(slots, priority, strict=True):
            new[slot] = max(new[slot], math.ceil((np.float32(value) + np.float32(LINEAR.floor)) * np.float32(2**22)))
        for slot, units in new.items():
            self.units[slot] = units
        self.highest = max(self.highest, math.ceil((float(np.float32(max(priority))) + LINEAR.floor) * 2**22))

    def draw(self, numbers: list[float]) -> tuple[list[int], list[float]]:
        total, slots = sum(self.units), []
        for part, number in enumerate(numbers):
            target, slot = int((part + number) * (total / len(numbers) * (1 - 2.0**-40))), 0
            while target >= self.units[slot]:
                target -= self.units[slot]
                slot += 1
            slots.append(slot)
        return slots, [float(Fraction(self.units[slot], total)) for slot in slots]


# The fixture only chooses the arrays, the same for every example.
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_history_draws_what_a_list_would(data: st.DataObject) -> None:
    size, first = data.draw(st.integers(1, 150)), data.draw(st.integers(0, 400))
    held, model, generator, twin = priorities(size), Model(size), stream(5), stream(5)
    slot = st.integers(0, size - 1)
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["enter", "clear", "update", "range", "load"])):
            case "enter":
                slots = data.draw(st.lists(slot, max_size=9))
                held.enter(torch.tensor(slots, dtype=torch.int64))
                for at in slots:
                    model.units[at] = model.highest
            case "clear":
                slots = data.draw(st.lists(slot, max_size=9))
                held.clear(torch.tensor(slots, dtype=torch.int64))
                for at in slots:
                    model.units[at] = 0
            case "update":
                slots = data.draw(st.lists(slot, min_size=1, max_size=9))
                values = data.draw(st.lists(st.floats(0, 1e5), min_size=len(slots), max_size=len(slots)))
                held.update(torch.tensor(slots), torch.tensor(values, dtype=torch.float64))
                model.update(slots, values)
            case "range":
                start, stop = sorted((data.draw(slot), data.draw(slot)))
                fills = data.draw(st.booleans())
                (held.enter if fills else held.clear)(slice(start, stop))
                model.units[start:stop] = [model.highest if fills else 0] * (stop - start)
            case "load":
                state = {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in held.state_dict().items()
                }
                held = priorities(size)
                held.load_state_dict(state)
        if any(model.units):
            batch = data.draw(st.integers(1, 8))
            number, weight = held.sample(batch, generator, 0.5, first)
            numbers = torch.rand(batch, generator=twin, dtype=torch.float64).tolist()
            slots_, probability = model.draw(numbers)
            assert [at % size for at in number.tolist()] == slots_
            assert all(first <= at < first + size for at in number.tolist())
            rarest = min(probability)
            assert weight.tolist() == pytest.approx([math.sqrt(rarest / chance) for chance in probability], rel=1e-6)
        assert held.state_dict()["slots"].tolist() == model.units
        assert held.state_dict()["highest"] == model.highest


def test_a_resumed_run_draws_the_same_bits() -> None:
    held, generator = priorities(5000, PrioritySettings()), stream(1)
    held.enter(slice(0, 4000))
    for _ in range(50):
        slot, _ = held.sample(64, generator)
        held.update(slot, torch.rand(64, generator=generator) * 1000)
    resumed, resumed_generator = priorities(5000, PrioritySettings()), stream()
    resumed.load_state_dict(held.state_dict())
    resumed_generator.set_state(generator.get_state())
    held.enter(slice(4000, 5000))
    resumed.enter(slice(4000, 5000))
    for _ in range(5):
        ours, theirs = held.sample(64, generator), resumed.sample(64, resumed_generator)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_state_of_another_size_is_refused() -> None:
    held = holding([1.0, 3.0])
    with pytest.raises(ValueError, match=r"^replay: the checkpoint has priorities of 3 slots, this replay of 2$"):
        held.load_state_dict(holding([1.0, 1.0, 1.0]).state_dict())
    with pytest.raises(ValueError, match="missing"):
        held.load_state_dict({"slots": torch.zeros(2, dtype=torch.int64)})
    assert chances(held) == pytest.approx([1 / 4, 3 / 4])


def test_the_bytes_are_known_before_they_are_taken() -> None:
    planned = Priorities(1_000_000, PrioritySettings(), "meta")
    assert planned.nbytes == priorities(1_000_000).nbytes
    assert planned.nbytes < 8.3e6  # eight bytes a slot, and the sums


@pytest.mark.parametrize(
    ("field", "value"), [("exponent", -0.1), ("exponent", 1.5), ("exponent", math.nan), ("floor", 0.0)]
)
def test_settings_out_of_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^replay: the {field} of priorities must be .*, got {value}$"):
        PrioritySettings(**{field: value})


def test_weights_are_relative_to_the_rarest_of_the_batch() -> None:
    held = holding([4.0, 1.0, 2.0])
    for beta, expected in ((1.0, [0.25, 1.0, 0.5]), (0.5, [0.5, 1.0, math.sqrt(0.5)]), (0.0, [1.0, 1.0, 1.0])):
        slots, weight = held.sample(70, stream(), beta)
        assert weight.dtype == torch.float32
        assert weight.tolist() == pytest.approx([expected[slot] for slot in slots.tolist()], rel=1e-6)


def test_blocks_of_any_size_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for few in (75, 76):  # in blocks of 32, and of 16
        monkeypatch.setattr("graftwork.engine.priorities._FEW", few)
        held = holding([float(slot % 7) for slot in range(75)])
        number, weight = held.sample(40, stream(), first=1000)
        held.update(number[:20], torch.arange(20.0))
        drawn.append([number, weight, *held.sample(40, stream(1), first=1000)])
        assert held.nbytes == (8 * (96 + 3 + 1) if few == 75 else 8 * (80 + 5 + 1))
    assert all(one.equal(two) for one, two in zip(*drawn, strict=True))


def test_what_is_drawn_is_numbered_from_the_first_on() -> None:
    held = holding([1.0, 2.0, 0.0, 3.0])
    assert set(held.sample(90, stream(), first=6)[0].tolist()) == {8, 9, 7}  # slots 0, 1 and 3; the 6 has slot 2


def test_the_priority_of_what_has_gone_is_passed_over() -> None:
    held = holding([1.0, 1.0, 1.0, 1.0])
    held.update(torch.tensor([5, 9, 6]), torch.tensor([50.0, 5.0, 2.0], dtype=torch.float64) - LINEAR.floor, first=6)
    assert chances(held) == pytest.approx([1 / 9, 5 / 9, 2 / 9, 1 / 9], rel=1e-6)  # slots 1 and 2 of 4


def test_sequences_mix_their_largest_and_mean_error() -> None:
    error = torch.tensor([[1.0, -6.0], [-5.0, 2.0], [3.0, 9.0]])
    valid = torch.tensor([[True, True], [True, True], [True, False]])
    assert sequence_priority(error, valid).tolist() == pytest.approx([0.9 * 5 + 0.1 * 3, 0.9 * 6 + 0.1 * 4])
    assert sequence_priority(error, valid, mix=0.0).tolist() == pytest.approx([3.0, 4.0])


def test_rows_that_do_not_count_cannot_spoil_a_sequence() -> None:
    error = torch.tensor([[math.nan, 1.0], [math.inf, math.nan], [math.nan, 2.0]])
    valid = torch.tensor([[False, True], [False, False], [False, True]])
    assert sequence_priority(error, valid).tolist() == pytest.approx([0.0, 0.9 * 2 + 0.1 * 1.5])
